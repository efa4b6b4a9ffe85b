// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// Only who is app=db of the namespace may speak to the web server, and whoever is in
// the lab's network.
const workloadObjects = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: node-b}
status: {podIP: 10.0.1.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guard, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 203.0.113.0/24}}]
`

// theirs have the namespace, the name and the labels of the pod shop/db, and are none.
func theirs(kind model.OwnerKind, cluster uint8, addr string) *manifest.Workload {
	return &manifest.Workload{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", Labels: map[string]string{"app": "db"}},
		Kind:       kind, Cluster: cluster, Addresses: []netip.Addr{netip.MustParseAddr(addr)},
	}
}

// Who has addresses and is no pod of this cluster has an identity by its labels, is
// selected if it is this cluster's, and is called by its name; another cluster's pod
// of the same namespace, name and labels is somebody else.
func TestWhoHasAddressesMayBeNoPod(t *testing.T) {
	objs := mustParse(t, workloadObjects)
	for _, w := range []*manifest.Workload{
		theirs(model.OwnerExternalWorkload, 0, "192.0.2.1"), theirs(model.OwnerPod, 7, "192.0.2.7"), theirs(model.OwnerPod, 8, "203.0.113.8"),
	} {
		require.NoError(t, objs.Upsert(w))
	}
	state, warnings, err := compile.All(objs, "node-a", model.Local{Devices: map[model.Key]model.Device{model.ParseKey("shop/web"): {Name: "veth"}}})
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Len(t, state.Endpoints, 1)

	owners := map[string]model.Identity{}
	for a := range state.Addresses.All() {
		owners[a.Prefix.String()] = a.Owner()
	}
	require.Equal(t, owners["10.0.1.1/32"], owners["192.0.2.1/32"], "policies cannot tell them apart")
	require.GreaterOrEqual(t, owners["192.0.2.7/32"], model.FirstLabelIdentity)
	require.NotEqual(t, owners["192.0.2.1/32"], owners["192.0.2.7/32"])
	require.NotEqual(t, owners["192.0.2.7/32"], owners["203.0.113.8/32"], "they are of two clusters")

	for _, tt := range []struct {
		from    string
		addr    string
		allowed bool
		story   string
	}{
		{"shop/db", "10.0.1.1", true, "ingress of Pod shop/web from Pod shop/db is allowed by NetworkPolicy/shop/guard rule 0"},
		{"ExternalWorkload shop/db", "192.0.2.1", true, "ingress of Pod shop/web from ExternalWorkload shop/db is allowed by NetworkPolicy/shop/guard rule 0"},
		{"shop/db@7", "192.0.2.7", false, "ingress of Pod shop/web from Pod shop/db@7 is denied: NetworkPolicy/shop/guard selects the pod, and no rule matches"},
		{"shop/db@8", "203.0.113.8", true, "ingress of Pod shop/web from Pod shop/db@8 is allowed by NetworkPolicy/shop/guard rule 0"},
	} {
		for _, from := range []string{tt.from, tt.addr} {
			said, err := Explain(objs, from, "shop/web", 80, model.ProtocolTCP)
			require.NoError(t, err)
			require.Equal(t, tt.story, said.Story()[len(said.Story())-1])
		}
		rule := lookUp(state, state.Endpoints[0], model.Ingress, netip.MustParseAddr(tt.addr), model.ProtocolTCP, 80)
		require.Equal(t, tt.allowed, rule != nil && !rule.Action.Denies(), tt.from)
	}
}

// A pod of the cluster has the better claim to an address, whoever says so; and a
// change of who is no pod is made alone.
func TestWhoIsNoPodTakesNoAddressFromOneThatIs(t *testing.T) {
	objs := mustParse(t, workloadObjects)
	local := model.Local{Devices: map[model.Key]model.Device{model.ParseKey("shop/web"): {Name: "veth"}}, Identities: model.NewAllocator()}
	var again compile.Incremental
	ask := func() (*model.State, []string) {
		state, warnings, err := again.All(objs, "node-a", local)
		require.NoError(t, err)
		require.Equal(t, uint64(1), again.Whole(), again.Why())
		return state, lost(warnings)
	}
	before, _ := ask()
	_, known := ownerIn(before, "192.0.2.7")
	require.False(t, known)

	w := theirs(model.OwnerPod, 7, "10.0.1.1")
	w.Addresses = append(w.Addresses, netip.MustParseAddr("192.0.2.7"))
	require.NoError(t, objs.Upsert(w))
	state, told := ask()
	require.Equal(t, []string{"Pod shop/db@7: addresses[0]: 10.0.1.1 is the address of Pod shop/db, whose claim comes first: give the workload another"}, told)
	pod, _ := ownerIn(state, "10.0.1.1")
	theirs, _ := ownerIn(state, "192.0.2.7")
	require.NotEqual(t, pod, theirs)

	gone := objs.Pods["shop/db"]
	delete(objs.Pods, "shop/db")
	state, told = ask()
	require.Empty(t, told)
	heir, _ := ownerIn(state, "10.0.1.1")
	require.Equal(t, theirs, heir, "nobody else says that it is theirs")

	objs.Pods["shop/db"] = gone
	require.True(t, objs.Remove(w.Key().Ref()))
	after, told := ask()
	require.Empty(t, told)
	require.Equal(t, before, after)
	require.Positive(t, again.Taken()["a workload"])
}

// A machine of this cluster that has a device here is an endpoint, bound by the policies
// that select its labels; another cluster's pod is none. Plugging it in and out is made
// alone, and leaves what was there before.
func TestWhoIsNoPodIsAnEndpointWhereItsDeviceIs(t *testing.T) {
	objs := mustParse(t, workloadObjects)
	w := theirs(model.OwnerExternalWorkload, 0, "192.0.2.1")
	w.Labels, w.Ports = map[string]string{"app": "web"}, []model.NamedPort{{Name: "http", Port: 80, Protocol: model.ProtocolTCP}}
	w.Addresses = append(w.Addresses, netip.MustParseAddr("2001:db8::1"))
	foreign := theirs(model.OwnerPod, 7, "192.0.2.7")
	require.NoError(t, objs.Upsert(w))
	require.NoError(t, objs.Upsert(foreign))
	var again compile.Incremental
	local := model.Local{Identities: model.NewAllocator()}
	ask := func(plugged ...model.Key) *model.State {
		local.Devices = map[model.Key]model.Device{model.ParseKey("shop/web"): {Name: "veth", Ifindex: 1}}
		for i, key := range plugged {
			local.Devices[key] = model.Device{Name: fmt.Sprintf("tap%d", i), Ifindex: 2 + i}
		}
		state, _, err := again.All(objs, "node-a", local)
		require.NoError(t, err)
		require.Equal(t, uint64(1), again.Whole(), again.Why())
		return state
	}
	before := ask()
	require.Len(t, before.Endpoints, 1)

	state := ask(w.Key(), foreign.Key())
	require.Len(t, state.Endpoints, 2, "another cluster's pod has no device here")
	machine := state.Endpoints[1]
	require.Equal(t, w.Key(), machine.Name)
	require.Equal(t, "tap0", machine.Device.Name)
	require.Equal(t, w.Addresses, []netip.Addr{machine.IPv4, machine.IPv6})
	rule := lookUp(state, machine, model.Ingress, netip.MustParseAddr("10.0.1.1"), model.ProtocolTCP, 80)
	require.True(t, rule != nil && !rule.Action.Denies(), "shop/db is allowed")
	require.Nil(t, lookUp(state, machine, model.Ingress, netip.MustParseAddr("10.0.0.1"), model.ProtocolTCP, 80), "its own namespace is not")
	require.Equal(t, uint64(1), again.Taken()["a workload at a device of this node"])

	require.Equal(t, before, ask())
}

func ownerIn(state *model.State, addr string) (model.Identity, bool) {
	single := netip.MustParseAddr(addr)
	for a := range state.Addresses.All() {
		if a.Prefix == netip.PrefixFrom(single, single.BitLen()) {
			return a.Owner(), true
		}
	}
	return model.IdentityUnknown, false
}

// Cilium's policies know other clusters' pods as "all" alone, and machines as pods.
func TestCiliumsSelectorsKnowWhoIsNoPod(t *testing.T) {
	objs := mustParse(t, workloadObjects)
	clear(objs.NetworkPolicies)
	for _, w := range []*manifest.Workload{theirs(model.OwnerExternalWorkload, 0, "192.0.2.1"), theirs(model.OwnerPod, 7, "192.0.2.7")} {
		require.NoError(t, objs.Upsert(w))
	}
	for rule, want := range map[string][2]bool{
		"fromEndpoints: [{}]":                       {true, false},
		"fromEndpoints: [{matchLabels: {app: db}}]": {true, false},
		"fromEndpoints: [{matchExpressions: [{key: reserved:world, operator: DoesNotExist}]}]": {true, false},
		"fromEntities: [cluster]":  {true, false},
		"fromEntities: [world]":    {false, false},
		"fromEntities: [all]":      {true, true},
		"fromCIDR: [192.0.2.0/24]": {false, false},
	} {
		policy := mustParse(t, fmt.Sprintf(`
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: guard, namespace: shop}
spec: {endpointSelector: {matchLabels: {app: web}}, ingress: [{%s}]}
`, rule))
		both := objs.Clone()
		both.Merge(policy)
		state, _, err := compile.All(both, "node-a", model.Local{Devices: map[model.Key]model.Device{model.ParseKey("shop/web"): {Name: "veth"}}})
		require.NoError(t, err, rule)
		for i, addr := range []string{"192.0.2.1", "192.0.2.7"} {
			said, err := Explain(both, addr, "shop/web", 80, model.ProtocolTCP)
			require.NoError(t, err)
			require.Equal(t, want[i], said.Allowed, "%s: %s", rule, said.Story())
			found := lookUp(state, state.Endpoints[0], model.Ingress, netip.MustParseAddr(addr), model.ProtocolTCP, 80)
			require.Equal(t, want[i], found != nil && !found.Action.Denies(), "%s at %s", rule, addr)
		}
	}
}
