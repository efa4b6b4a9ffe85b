// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// kubelet is the port of a socket on every node that the cluster relies on.
const kubelet = 10250

// requireAllowed: the tenant's frontends are where the operator's switches let
// them be, and at no socket that nodes rely on; and its pods have their network
// whatever they claim. A host port that names an address of the node needs no
// permission.
func requireAllowed(t *testing.T, local *model.Local, mine *manifest.Objects, state *model.State) {
	t.Helper()
	for name := range mine.Pods {
		require.True(t, slices.ContainsFunc(state.Endpoints, func(e model.Endpoint) bool { return e.Name.String() == name }), "%s has no network", name)
	}
	for _, s := range slices.Concat(state.Services.Slice(), state.Loopback) {
		if s.Name.Namespace != "mallory" {
			continue
		}
		ofNodes := s.Address.IsLoopback() || slices.Contains(state.Node.Addresses, s.Address) ||
			slices.ContainsFunc(state.Addresses.Slice(), func(a model.Address) bool {
				return a.Owner() == model.IdentityRemoteNode && a.Prefix.IsSingleIP() && a.Prefix.Addr() == s.Address
			})
		require.False(t, ofNodes && s.Port == kubelet && s.Protocol == model.ProtocolTCP, "%s is at %s:%d, which is a kubelet's", s.Name, s.Address, s.Port)
		if external := local.Options.ExternalIPs; s.Kind == model.KindExternalIP {
			require.False(t, external.Off, "%s is at %s, and externalIPs are off", s.Name, s.Address)
			within := slices.ContainsFunc(external.Only, func(block netip.Prefix) bool { return block.Contains(s.Address) })
			require.True(t, external.Only == nil || within, "%s is at %s, which the operator does not allow", s.Name, s.Address)
		}
		if s.Kind == model.KindHostPort {
			ofNode := s.Address.IsLoopback() || slices.Contains(state.Node.Addresses, s.Address)
			require.True(t, ofNode, "%s is at %s, which is not the node's", s.Name, s.Address)
		}
		if s.Kind == model.KindHostPort && s.Address.IsLoopback() {
			require.False(t, local.Options.HostPorts.Off || local.Options.HostPorts.Only != nil, "%s is at %s, which nobody names", s.Name, s.Address)
		}
	}
}

// staleNode is the Node of a machine that is gone: older than others and not
// ready, with addresses that somebody else has by now.
func staleNode(r *rand.Rand, objs *manifest.Objects, state *model.State) *corev1.Node {
	var others []string
	for _, name := range slices.Sorted(maps.Keys(objs.Nodes)) {
		for _, a := range objs.Nodes[name].Status.Addresses {
			others = append(others, a.Address)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(objs.Services)) {
		others = append(others, objs.Services[name].Spec.ClusterIPs...)
	}
	for _, endpoint := range state.Endpoints {
		for _, addr := range []netip.Addr{endpoint.IPv4, endpoint.IPv6} {
			if addr.IsValid() {
				others = append(others, addr.String())
			}
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a-gone", CreationTimestamp: metav1.NewTime(time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC))}}
	for range 1 + r.IntN(3) {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{
			Type: pick(r, []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP}), Address: pick(r, others),
		})
	}
	node.Spec.PodCIDRs = pick(r, [][]string{nil, {"10.9.0.0/24"}, {"10.9.0.0/16", "fd99::/16"}, {"172.18.0.0/24"}, {"10.88.0.0/24"}})
	return node
}
