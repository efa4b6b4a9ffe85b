// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// stateByChance has frontends whose lists are alike often, and lead to the node often.
func stateByChance(r *rand.Rand) *model.State {
	addr := func(most int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(most))}) }
	frontend := func(i int) model.Service {
		s := model.Service{
			Address: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Port: 80, Protocol: model.ProtocolTCP,
			DSR: r.IntN(2) > 0, MaglevSize: 7 * r.IntN(2),
		}
		for range r.IntN(3) {
			s.Sources = append(s.Sources, netip.PrefixFrom(addr(3), 32))
		}
		for n := range r.IntN(4) {
			s.Backends = append(s.Backends, model.Backend{Address: addr(4), Port: uint16(80 + n), Weight: uint16(r.IntN(3) * 2), Terminating: r.IntN(3) == 0})
		}
		return s
	}
	s := &model.State{Node: model.Node{Addresses: []netip.Addr{addr(4)}, Gateways: []netip.Addr{addr(4)}}}
	var services []model.Service
	for i := range r.IntN(5) {
		services = append(services, frontend(i))
	}
	s.Services = model.ListOf(services...)
	for i := range r.IntN(3) {
		s.Loopback = append(s.Loopback, frontend(i))
		s.ServiceAddresses = append(s.ServiceAddresses, addr(250))
		s.RuleSets = append(s.RuleSets, model.RuleSet{Rules: make([]model.Rule, r.IntN(3))})
		s.Endpoints = append(s.Endpoints, model.Endpoint{IPv4: addr(250)})
		s.Addresses = s.Addresses.With(model.Address{Prefix: netip.PrefixFrom(addr(250), 24+8*r.IntN(2))})
	}
	return s
}

// What fits by the bound fits; and a bound that is kept up is the one that is made.
func TestTheBoundIsNeverLessThanWhatThereIs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := stateByChance(r)
		b := boundOf(s)
		most := AtMost(s)
		for _, table := range model.Tables() {
			require.GreaterOrEqual(t, most[table], Fill(s)[table], "table %s of %+v", table, s)
		}
		require.True(t, b.isWithin(s, most))
		for table, entries := range most {
			if entries > 0 {
				require.False(t, b.isWithin(s, model.Budgets{table: entries - 1}), table)
			}
		}
		for _, other := range stateByChance(r).Services.Slice() {
			b.add(&other, 1)
			b.add(&other, -1)
		}
		require.Equal(t, most, b.entries(s))
	}
}

// A table whose budget the bound exceeds is counted, and holds what frontends share.
func TestWhatFrontendsShareFitsTogether(t *testing.T) {
	objs := mustParse(t, keepable+`
---
apiVersion: v1
kind: Service
metadata: {name: twice}
spec: {clusterIP: 10.96.0.20, ports: [{name: a, port: 80}, {name: b, port: 81}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: twice, labels: {kubernetes.io/service-name: twice}}
addressType: IPv4
ports: [{name: a, port: 80}, {name: b, port: 80}]
endpoints: [{addresses: [10.9.0.1]}, {addresses: [10.9.0.2]}, {addresses: [10.9.1.1]}, {addresses: [10.9.1.2]}, {addresses: [10.9.1.3]},
  {addresses: [10.9.1.4]}, {addresses: [10.9.1.5]}, {addresses: [10.9.1.6]}, {addresses: [10.9.1.7]}]
`)
	local := model.Local{Identities: model.NewAllocator()}
	state, _, err := All(objs, "node", local)
	require.NoError(t, err)
	local.Budgets = Fill(state)
	require.False(t, boundOf(state).isWithin(state, local.Budgets), "nothing is shared")
	var again Incremental
	for _, name := range []string{"10.9.0.2", "10.9.0.3", "10.9.0.4"} {
		next := objs.Clone()
		slice := next.EndpointSlices["default/twice"].DeepCopy()
		slice.Endpoints[1].Addresses[0] = name
		next.EndpointSlices["default/twice"] = slice
		_, _, err = again.All(next, "node", local)
		require.NoError(t, err)
		require.EqualValues(t, 1, again.Whole(), again.Why())
	}
	local.Budgets[model.TableSlotRows]--
	_, _, err = All(objs, "node", local)
	require.ErrorContains(t, err, "table slot_rows")
}
