// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// randomly makes a state of another: some parts stay the same slices, and few of
// the elements of the others differ.
func randomly(r *rand.Rand, n *node, last *model.State) *model.State {
	next := *last
	if r.IntN(3) > 0 {
		for range 1 + r.IntN(3) {
			next.Services = model.ListOf(changeServices(r, next.Services.Slice())...)
		}
	}
	if r.IntN(3) > 0 {
		for range 1 + r.IntN(3) {
			next.Addresses = model.ListOf(changeAddresses(r, next.TunnelEndpoints, next.Addresses.Slice())...)
		}
	}
	if r.IntN(4) == 0 {
		next.TunnelEndpoints = changeTunnelEndpoints(r, slices.Clone(next.TunnelEndpoints), next.Addresses)
	}
	if r.IntN(6) == 0 {
		next.Endpoints = slices.Clone(last.Endpoints)
		next.Endpoints[0].Identity = model.Identity(1000 + r.IntN(3))
		next.Endpoints[1].IPv4 = peerAddr(r.IntN(4), false)
	}
	if r.IntN(6) == 0 {
		next.ServiceAddresses = nil
		for i := range 6 {
			if r.IntN(2) == 0 {
				next.ServiceAddresses = append(next.ServiceAddresses, netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}))
			}
		}
	}
	if r.IntN(20) == 0 {
		next.AnswersPings = !last.AnswersPings
	}
	if r.IntN(20) == 0 {
		next.Node.Addresses = append(slices.Clone(n.state.Node.Addresses), netip.AddrFrom4([4]byte{10, 2, 0, byte(r.IntN(4))}))
	}
	return &next
}

func changeServices(r *rand.Rand, all []model.Service) []model.Service {
	s := model.Service{
		Name: model.PortRef{Namespace: "default", Name: fmt.Sprintf("s%d", r.IntN(8)), Port: "http"}, Kind: model.KindClusterIP, Protocol: model.ProtocolTCP,
		Address: netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(6))}), Port: uint16(80 + r.IntN(2)),
		DSR: r.IntN(4) == 0, Local: r.IntN(4) == 0, MaglevSize: []int{0, 0, 251, 503}[r.IntN(4)],
	}
	if r.IntN(3) == 0 {
		s.Affinity = time.Minute
	}
	if r.IntN(3) == 0 {
		s.Sources = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), 0, 0}), 16)}
	}
	for i := range r.IntN(5) {
		s.Backends = append(s.Backends, model.Backend{
			Address: netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), Port: uint16(8080 + r.IntN(2)),
			Weight: uint16(r.IntN(3)), Terminating: r.IntN(5) == 0,
		})
	}
	return putOrDrop(r, all, s, compareServices)
}

// putOrDrop puts an element in its place; what is there already goes now and then.
func putOrDrop[E any](r *rand.Rand, all []E, e E, compare func(a, b *E) int) []E {
	at, found := slices.BinarySearchFunc(all, e, func(a, b E) int { return compare(&a, &b) })
	switch {
	case !found:
		return slices.Insert(all, at, e)
	case r.IntN(3) == 0:
		return slices.Delete(all, at, at+1)
	}
	all[at] = e
	return all
}

// changeTunnelEndpoints puts one in its place, or drops one that no address names.
func changeTunnelEndpoints(r *rand.Rand, all []model.TunnelEndpoint, addresses model.List[model.Address]) []model.TunnelEndpoint {
	e := model.TunnelEndpoint{Number: uint32(1 + r.IntN(4)), Node: "node", IPv4: peerAddr(r.IntN(3), false)}
	if r.IntN(2) == 0 {
		e.IPv6 = peerAddr(r.IntN(3), true)
	}
	at, found := slices.BinarySearchFunc(all, e, func(a, b model.TunnelEndpoint) int { return compareTunnelEndpoints(&a, &b) })
	for a := range addresses.All() {
		if found && a.TunnelEndpoint == e.Number {
			all[at] = e
			return all
		}
	}
	return putOrDrop(r, all, e, compareTunnelEndpoints)
}

func changeAddresses(r *rand.Rand, behind []model.TunnelEndpoint, all []model.Address) []model.Address {
	addr := peerAddr(r.IntN(8), r.IntN(2) == 0)
	bits := addr.BitLen()
	if r.IntN(4) == 0 {
		bits -= 1 + r.IntN(12)
	}
	a := model.Address{Prefix: netip.PrefixFrom(addr, bits).Masked(), Identity: model.Identity(2000 + r.IntN(4)), Native: r.IntN(2) == 0, Node: r.IntN(4) == 0}
	if len(behind) > 0 && r.IntN(2) == 0 {
		a.TunnelEndpoint = behind[r.IntN(len(behind))].Number
	}
	return putOrDrop(r, all, a, compareAddresses)
}

// numbers are those that tables are free to give.
var numbers = regexp.MustCompile(`(service|id|slot set|sources|rule set|set|list|Maglev table) \d+`)

// packetsView is what packets meet in a datapath, by other names than numbers: text of
// the tables of addresses, and the frontends with all that they lead to.
func packetsView(t *testing.T, d *Datapath) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range d.Tables() {
		switch table.Name {
		case "slot_rows", "sources", "rules", "ipcache_cidrs": // what is not swept yet is there too
			continue
		}
		for _, line := range table.Entries {
			all[table.Name] = append(all[table.Name], numbers.ReplaceAllString(line, "$1"))
		}
		slices.Sort(all[table.Name])
	}
	for key, pair := range d.cidrs.have {
		if half, ok := d.wanted[key]; ok {
			require.Equal(t, half, pair[d.half()])
			all["ipcache_cidrs"] = append(all["ipcache_cidrs"], fmt.Sprintf("%+v: %+v", key, half))
		} else {
			require.Equal(t, inherited(d.wanted, key), pair[d.half()], "it only repeats a shorter one")
		}
	}
	slices.Sort(all["ipcache_cidrs"])
	frontends, err := d.Services()
	require.NoError(t, err)
	for i := range frontends {
		all["frontends"] = append(all["frontends"], fmt.Sprintf("%+v", frontends[i]))
	}
	return all
}

// requireMirror wants a table's map to be as it is noted, and its uneven entries too.
func requireMirror[K, H comparable](t *testing.T, table *pairTable[K, H]) {
	t.Helper()
	found := map[K][2]H{}
	require.NoError(t, readBatches(table.m, func(key K, pair [2]H) { found[key] = pair }))
	require.Equal(t, found, table.have)
	for key, pair := range found {
		require.Equal(t, pair[0] != pair[1], table.uneven.has(key), "%+v: %+v", key, pair)
	}
	for key := range table.uneven.all() {
		require.Contains(t, found, key)
	}
}

// Whatever changes in whatever order, differences lead to the tables that the whole
// state gives.
func TestDifferencesLeadToTheTablesOfTheWholeState(t *testing.T) {
	n := newNode(t)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TEST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	d, whole := openDatapath(t, small()), openDatapath(t, small())
	state := n.state.Clone()
	for step := range 150 {
		state = randomly(r, n, state)
		fails := r.IntN(15) == 0
		if fails {
			broken := *randomly(r, n, state)
			broken.Endpoints = slices.Clone(broken.Endpoints)
			broken.Endpoints[0].Device.Ifindex = 0
			_, err := d.Apply(&broken)
			require.Error(t, err)
		}
		known := d.last != nil
		_, err := d.Apply(state)
		require.NoError(t, err)
		require.Equal(t, !fails && step > 0, known)
		require.NoError(t, whole.Reset())
		_, err = whole.Apply(state.Clone())
		require.NoError(t, err)
		require.Equal(t, packetsView(t, whole), packetsView(t, d), "step %d", step)
		requireMirror(t, d.services)
		requireMirror(t, d.backends)
		requireMirror(t, d.ipcache)
		requireMirror(t, d.cidrs)
		requireMirror(t, d.tunnels)
		if r.IntN(5) == 0 {
			require.Empty(t, repaired(t, d).Tables, "what differences lead to is what the state says")
		}
		if r.IntN(3) == 0 {
			_, err := d.Collect()
			require.NoError(t, err)
			requireNothingIdle(t, d)
		}
	}
}

// requireNothingIdle wants no list that no service uses.
func requireNothingIdle(t *testing.T, d *Datapath) {
	t.Helper()
	lists, sources, tables := map[uint32]bool{}, map[uint32]bool{}, map[maglevRange]bool{}
	for _, pair := range d.services.have {
		row := pair[d.half()]
		if row.Set != 0 {
			lists[row.Set] = true
		}
		if row.Sources != 0 {
			sources[row.Sources] = true
		}
		if row.TableSize != 0 {
			tables[maglevRange{row.Table, row.TableSize}] = true
		}
	}
	require.ElementsMatch(t, keysOf(lists), keysOf(d.slots.have))
	require.ElementsMatch(t, keysOf(sources), keysOf(d.sources.have))
	require.ElementsMatch(t, keysOf(tables), keysOf(d.maglev.have))
	used := 0
	require.NoError(t, readBatches(d.slots.m, func(slotRowKey, slotRow) { used++ }))
	require.Equal(t, used, d.slots.used)
}

func keysOf[K comparable, V any](m map[K]V) []K {
	var keys []K
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// BenchmarkServiceChange measures Apply where the backends of one service of many
// differ, each with ten of them: nothing else is encoded or written. cpu-ms is what
// the process used for it.
func BenchmarkServiceChange(b *testing.B) {
	for _, count := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("services=%d", count), func(b *testing.B) {
			n := newNode(b)
			d := openDatapath(b, roomFor(count))
			state := n.state
			state.Services = model.ListOf(servicesOf(count, 10)...)
			for range 2 { // the second brings the other half up to date
				_, err := d.Apply(state)
				require.NoError(b, err)
			}
			i := 0
			var used time.Duration
			for b.Loop() {
				for range 10 {
					next := *state
					before := *state.Services.At(i * 7919 % count)
					after := before
					after.Backends = slices.Clone(after.Backends)
					after.Backends[i%10].Port++
					next.Services, _ = state.Services.Spliced([]model.Service{before}, []model.Service{after}, func(a, b model.Service) int { return compareServices(&a, &b) })
					state, i = &next, i+1
					began := cpuTime(b)
					change, err := d.Apply(state)
					used += cpuTime(b) - began
					require.NoError(b, err)
					require.LessOrEqual(b, change.Services.Changed, 1)
				}
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(i), "cpu-ms/change")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkServiceComes measures Apply where a service of ten backends comes or goes
// beside many, and their names lie beside pins.
func BenchmarkServiceComes(b *testing.B) {
	for _, count := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", count), func(b *testing.B) {
			n := newNode(b)
			opts := roomFor(count)
			opts.PinPath = pinDir(b)
			d := openDatapath(b, opts)
			all := servicesOf(count+1, 10)
			with, without := *n.state, *n.state
			without.Services = model.ListOf(all[:count]...)
			with.Services, _ = without.Services.Spliced(nil, all[count:], func(a, b model.Service) int { return compareServices(&a, &b) })
			for _, state := range []*model.State{&without, &with, &without} {
				_, err := d.Apply(state)
				require.NoError(b, err)
			}
			began, rounds := cpuTime(b), 0
			for b.Loop() {
				for _, state := range []*model.State{&with, &without} {
					_, err := d.Apply(state)
					require.NoError(b, err)
					rounds++
				}
			}
			b.ReportMetric(float64((cpuTime(b)-began).Microseconds())/1000/float64(rounds), "cpu-ms/change")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// What two lists share is not looked into, and what differs is found wherever it is.
func TestDifferencesOfLists(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	list := model.ListOf(servicesOf(5000, 1)...)
	order := func(a, b model.Service) int { return compareServices(&a, &b) }
	for range 100 {
		var gone, came []model.Service
		for at := r.IntN(500); at < list.Len(); at += 1 + r.IntN(2000) {
			s := *list.At(at)
			gone = append(gone, s)
			if r.IntN(3) > 0 {
				s.Name.Name += "-changed"
				came = append(came, s)
			}
		}
		next, ok := list.Spliced(gone, came, order)
		require.True(t, ok)
		out, in := listDifferences(list, next, compareServices, equalServices)
		require.Equal(t, gone, valuesOf(out))
		require.Equal(t, came, valuesOf(in))
		apart, others := unshared(list, next, compareServices)
		require.Less(t, len(slices.Concat(apart...)), list.Len()/2, "hardly anything is shared")
		require.Less(t, len(slices.Concat(others...)), list.Len()/2, "hardly anything is shared")
		list = next
	}
}

func valuesOf(all []*model.Service) (values []model.Service) {
	for _, s := range all {
		values = append(values, *s)
	}
	return values
}

func servicesOf(count, backends int) []model.Service {
	all := make([]model.Service, count)
	for i := range all {
		all[i] = model.Service{
			Name: model.PortRef{Namespace: "default", Name: fmt.Sprintf("s%d", i), Port: "http"}, Kind: model.KindClusterIP, Protocol: model.ProtocolTCP,
			Address: netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}), Port: 80,
		}
		for j := range backends {
			k := i*backends + j
			all[i].Backends = append(all[i].Backends, model.Backend{Address: netip.AddrFrom4([4]byte{11, byte(k >> 16), byte(k >> 8), byte(k)}), Port: 8080})
		}
	}
	return all
}
