// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// HasKind says whether the API has a kind of policies: only NetworkPolicies are of every
// cluster.
func (s *Session) HasKind(name string) bool {
	r, _, err := resourceOf(name)
	if err != nil {
		return false
	}
	list, err := s.kube.Discovery().ServerResourcesForGroupVersion(r.GroupVersion().String())
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list.APIResources, func(known metav1.APIResource) bool { return known.Kind == name })
}

// EnforcesPolicies says whether a NetworkPolicy holds for pods. Weir's do; of any
// other network it is tried out once, since the API takes policies that nobody
// enforces.
func (s *Session) EnforcesPolicies(ctx context.Context) (bool, error) {
	if s.Weir {
		return true, nil
	}
	s.trial.once.Do(func() {
		if s.trial.holds, s.trial.err = s.tryPolicy(ctx); s.trial.err != nil {
			s.trial.err = fmt.Errorf("try whether policies hold: %w", s.trial.err)
		}
	})
	return s.trial.holds, s.trial.err
}

// tryPolicy isolates a pod, and asks it.
func (s *Session) tryPolicy(ctx context.Context) (bool, error) {
	const server, client, port = "default/server", "default/client", 8080
	objects := manifest.NewObjects()
	objects.Namespaces["default"] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	topology := lab.Topology{Nodes: []lab.Host{{Name: "node"}}}
	for i, name := range []string{"server", "client"} {
		// Addresses that documents have: only their places are used.
		planned := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}), netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(1 + i)})}
		topology.Pods = append(topology.Pods, lab.Host{Name: "default/" + name, Node: "node", Addresses: planned})
		objects.Pods["default/"+name] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "main"}}},
		}
	}
	w, err := s.New(ctx, topology, objects, Uses{})
	if err != nil {
		return false, err
	}
	defer w.Close() // Session.Close removes what is left
	if err := w.ListenFor(ctx, server, model.ProtocolTCP, port, nil); err != nil {
		return false, err
	}
	to := netip.AddrPortFrom(w.Topology().Pods[0].Addresses[0], port)
	if !s.HasFamily(false) {
		to = netip.AddrPortFrom(w.Topology().Pods[0].Addresses[1], port)
	}
	if err := w.await(ctx, client, to, true); err != nil {
		return false, fmt.Errorf("a pod does not reach another one: %w", err)
	}
	deny := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "deny"}}
	deny.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	objects.NetworkPolicies["default/deny"] = deny
	if err := w.Reconcile(ctx, objects); err != nil {
		return false, err
	}
	return w.await(ctx, client, to, false) == nil, nil
}

// await dials anew until that succeeds, or fails, as is wanted.
func (w *World) await(ctx context.Context, from string, to netip.AddrPort, answered bool) error {
	const patience, each = 10 * time.Second, time.Second
	for until := time.Now().Add(patience); ; {
		limited, cancel := context.WithTimeout(ctx, each)
		c, err := w.Dial(limited, from, model.ProtocolTCP, 0, to)
		cancel()
		if err == nil {
			c.Close() // nothing was said on it
		}
		if answered == (err == nil) {
			return nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return errors.Join(errors.New("it goes on as before"), err)
		}
	}
}
