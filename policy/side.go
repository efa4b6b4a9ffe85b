// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// Side is the objects before a change, or after it.
type Side struct {
	Warnings []compile.Warning // of what is hardly meant
	LeftOut  []LeftOut         // pods that are not compared

	objs      *manifest.Objects
	state     *model.State // with all pods on one node
	pods      map[string]Pod
	explainer *oracle.Explainer
}

// NewSide reads what the objects' policies mean. An error is one of an object that
// a datapath would refuse.
func NewSide(objs *manifest.Objects) (*Side, error) {
	warnings, err := Doubts(objs)
	if err != nil {
		return nil, err
	}
	_, state, err := onOneNode(objs)
	if err != nil {
		return nil, err
	}
	s := &Side{Warnings: warnings, objs: objs, state: state, pods: map[string]Pod{}, explainer: oracle.NewExplainer(objs)}
	pods, left := Pods(objs)
	for _, pod := range pods {
		s.pods[pod.Name] = pod
	}
	s.LeftOut = left
	return s, nil
}

// families are those in which two pods can talk: IPv4, IPv6.
func (s *Side) families(from, to *Pod) (has [2]bool) {
	for i, family := range []string{IPv4, IPv6} {
		_, _, has[i] = s.meet(from, to, family)
	}
	return has
}

// asker asks by the addresses that a side's own pods of these names have.
func (s *Side) asker(from, to *Pod, family string) func(port uint16, protocol model.Protocol) (oracle.Decision, error) {
	src, dst, ok := s.meet(from, to, family)
	return func(port uint16, protocol model.Protocol) (oracle.Decision, error) {
		if !ok { // a flow that there is not
			return oracle.Decision{}, nil
		}
		return s.explainer.Explain(src.String(), dst.String(), port, protocol)
	}
}

func (s *Side) meet(from, to *Pod, family string) (src, dst netip.Addr, ok bool) {
	return meeting(s.own(from).of(family), s.own(to).of(family))
}

func (s *Side) own(pod *Pod) *Pod {
	if own, found := s.pods[pod.Name]; found {
		return &own
	}
	return pod
}
