// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// moves is what a change comes to.
type moves struct {
	removed, added []model.Address
	pods           map[string]*corev1.Pod // to be made again, as they are now
	workloads      map[model.Key]*manifest.Workload
	fresh          []string // sets of labels that have no number yet
	entered        map[*party]bool
	people         []*identity             // that came or went, or have other numbers
	touched        map[string]bool         // sets of labels
	placed         map[string][]netip.Addr // addresses by sets of labels, that came or are in other groups
	renumbered     map[string]bool         // sets of labels
	selectors      map[string]bool
	own            bool              // a pod is, or was, this node's
	hosts          map[string]*party // of those, by key; nil: it has no address

	nodes, peers bool         // Nodes are others; what others see of them is
	arrived      []netip.Addr // of nodes, to be numbered
	sockets      map[netip.Addr]bool
	variants     bool // nodes have other numbers
	servers      bool // a pod is at an address of the API's, or no more

	services  map[string]bool // to be made again, though they may be the same
	asked     map[string]bool // slices, so
	listing   map[backendKey]bool
	addressed map[netip.Addr]bool // that services may have for themselves

	blocks       bool                  // they are others
	regroupNodes bool                  // others of them may be in groups
	groups       map[string]bool       // that have other members
	prefixes     map[netip.Prefix]bool // whose entries are to be made again
	natives      map[netip.Prefix]bool

	told bool // other things are told of addresses, labels or annotations
}

func newMoves() *moves {
	return &moves{
		pods: map[string]*corev1.Pod{}, workloads: map[model.Key]*manifest.Workload{}, entered: map[*party]bool{}, touched: map[string]bool{}, placed: map[string][]netip.Addr{},
		renumbered: map[string]bool{}, selectors: map[string]bool{}, hosts: map[string]*party{}, sockets: map[netip.Addr]bool{},
		services: map[string]bool{}, asked: map[string]bool{}, listing: map[backendKey]bool{}, addressed: map[netip.Addr]bool{},
		groups: map[string]bool{}, prefixes: map[netip.Prefix]bool{}, natives: map[netip.Prefix]bool{},
	}
}
