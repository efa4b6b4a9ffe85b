// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
)

func backends(weights ...uint16) []model.Backend {
	var all []model.Backend
	for i, w := range weights {
		all = append(all, model.Backend{Address: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Port: 8080, Weight: w})
	}
	return all
}

func TestSlotsRepeatBackendsByWeight(t *testing.T) {
	for name, tt := range map[string]struct {
		weights  []uint16
		weighted bool
		want     []int // slots of each backend
	}{
		"no weights":              {[]uint16{0, 0, 0}, true, []int{1, 1, 1}},
		"equal weights":           {[]uint16{200, 200}, true, []int{1, 1}},
		"a common divisor":        {[]uint16{100, 50, 25}, true, []int{4, 2, 1}},
		"none in common":          {[]uint16{7, 3}, true, []int{7, 3}},
		"no weight beside one":    {[]uint16{0, 3}, true, []int{1, 3}},
		"of a Maglev table":       {[]uint16{100, 50}, false, []int{1, 1}},
		"a service without a pod": {nil, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			list := backends(tt.weights...)
			var got []int
			slots := slotsOf(list, tt.weighted)
			for _, b := range list {
				n := 0
				for _, s := range slots {
					if decodeAddr(s.Addr) == b.Address {
						n++
					}
				}
				got = append(got, n)
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestSourcesOfTheOtherFamilyAreLeftOut(t *testing.T) {
	prefixes := []netip.Prefix{
		netip.MustParsePrefix("::/0"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
	}
	keys := encodeSources(&model.Service{Address: addr("192.0.2.1"), Sources: prefixes})
	require.Len(t, keys, 1)
	require.Equal(t, uint32(32+96+24), keys[0].Bits)
	require.Len(t, encodeSources(&model.Service{Address: addr("2001:db8::1"), Sources: prefixes}), 1)
}

// withMaglev gives n services a table each, of which no two are equal.
func withMaglev(n *node, services, size int) *model.State {
	state := newState(n.client, n.web)
	for i := range services {
		state.Services = state.Services.With(model.Service{
			Name: model.PortRef{Namespace: "default", Name: fmt.Sprintf("maglev-%d", i), Port: "80"}, Address: netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}), Port: 80,
			Protocol: model.ProtocolTCP, MaglevSize: size,
			Backends: append(backends(1, uint16(i+2)), model.Backend{Address: addr("10.0.0.2"), Port: 8080, Terminating: true}),
		})
	}
	return state
}

// inForce reads the Maglev table that packets of a service read now.
func inForce(t *testing.T, d *Datapath, s *model.Service) []uint32 {
	t.Helper()
	half := d.services.have[encodeServiceKey(s)][d.half()]
	table := make([]uint32, half.TableSize)
	for i := range table {
		require.NoError(t, d.maps[bpf.ContainerMapMaglev].Lookup(half.Table+uint32(i), &table[i]))
	}
	return table
}

func requireTables(t *testing.T, d *Datapath, state *model.State) {
	t.Helper()
	for i := range state.Services.Len() {
		s := state.Services.At(i)
		if s.MaglevSize != 0 {
			eligible := newFrontend(s).eligible
			require.Equal(t, compile.MaglevTable(eligible, s.MaglevSize), inForce(t, d, s), s.Name)
		}
	}
}

func TestMaglevTablesAreWrittenElsewhereAndFoundAgain(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	state := withMaglev(n, 4, 251)
	same := *state.Services.At(2)
	same.Address = addr("10.96.2.1")
	state.Services = state.Services.With(same)
	_, err = d.Apply(state.Clone())
	require.NoError(t, err)
	requireTables(t, d, state)
	require.Len(t, d.maglev.have, 4, "equal tables are shared")
	before := inForce(t, d, state.Services.At(2))
	at := d.services.have[encodeServiceKey(state.Services.At(2))][d.half()]

	changed := withMaglev(n, 4, 251)
	changed.Services.At(2).Backends = backends(1, 1, 1)
	_, err = d.Apply(changed)
	require.NoError(t, err)
	requireTables(t, d, changed)
	for i, want := range before {
		var got uint32
		require.NoError(t, d.maps[bpf.ContainerMapMaglev].Lookup(at.Table+uint32(i), &got))
		require.Equal(t, want, got, "packets of the old epoch read the old table")
	}
	require.NoError(t, d.Close())

	d = openDatapath(t, pinnedOptions(dir))
	_, _, err = d.maglev.plan(changed.Services.Slice(), frontendsOf(changed))
	require.NoError(t, err)
	_, missing, err := d.maglev.plan(changed.Services.Slice(), frontendsOf(changed))
	require.NoError(t, err)
	require.Empty(t, missing, "the tables of before are known")
	_, err = d.Apply(changed)
	require.NoError(t, err)
	requireTables(t, d, changed)
}

func frontendsOf(state *model.State) []frontend {
	var all []frontend
	for i := range state.Services.Len() {
		all = append(all, newFrontend(state.Services.At(i)))
	}
	return all
}

// Tables come and go many times over: what is free is taken again, and what
// packets read is never overwritten.
func TestRoomOfMaglevTablesIsTakenAgain(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	for round := range 40 {
		state := withMaglev(n, 3, []int{131071, 65521, 16381}[round%3])
		for i := range state.Services.Len() {
			state.Services.At(i).Backends = append(state.Services.At(i).Backends, backends(uint16(round+1))...)
			state.Services.At(i).Backends = slices.CompactFunc(state.Services.At(i).Backends, func(a, b model.Backend) bool { return a.Address == b.Address })
		}
		_, err := d.Apply(state.Clone())
		require.NoError(t, err)
	}
	require.LessOrEqual(t, d.maglev.taken(), 6*131071)
}

func TestGapsBetweenTablesAreFilledBySize(t *testing.T) {
	a := &maglevArray{entries: 100}
	a.clear()
	for _, at := range []maglevRange{{10, 20}, {35, 5}, {60, 30}} {
		a.note(at, digest{byte(at.first)})
	}
	free := a.free()
	require.Equal(t, freeRanges{{0, 10}, {30, 5}, {40, 20}, {90, 10}}, free)
	at, ok := free.take(5)
	require.True(t, ok)
	require.Equal(t, maglevRange{30, 5}, at, "the smallest that has room")
	at, ok = free.take(12)
	require.True(t, ok)
	require.Equal(t, maglevRange{40, 12}, at)
	_, ok = free.take(12)
	require.False(t, ok)
}

func TestWhatDoesNotFitIsRefusedByTheServicesName(t *testing.T) {
	n := newNode(t)
	opts := small()
	opts.Room = map[string]uint32{bpf.ContainerMapSlotRows: 32768}
	d := openDatapath(t, opts)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for table, change := range map[string]func(*model.Service){
		bpf.ContainerMapSlotRows: func(s *model.Service) {
			for range 1100 {
				s.Backends = append(s.Backends, backends(256, 255)...)
			}
			for i := range s.Backends {
				s.Backends[i].Address = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			}
		},
		"sources": func(s *model.Service) {
			s.Sources = nil
			for i := range 70000 {
				s.Sources = append(s.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
			}
		},
		"maglev": func(s *model.Service) { s.MaglevSize = 2097169 },
	} {
		t.Run(table, func(t *testing.T) {
			state := newState(n.client, n.web)
			huge := model.Service{Name: model.PortRef{Namespace: "default", Name: "huge", Port: "80"}, Address: addr("10.96.0.9"), Port: 80, Protocol: model.ProtocolTCP, Backends: backends(1)}
			change(&huge)
			state.Services = state.Services.With(huge)
			tables := d.Tables()
			_, err := d.Apply(state.Clone())
			var full *FullError
			require.ErrorAs(t, err, &full)
			require.Equal(t, table, full.Table)
			require.Equal(t, "default/huge:80", full.Service.String())
			require.Greater(t, full.Share, full.Room)
			require.ErrorContains(t, err, fmt.Sprint(full.Room))
			require.Equal(t, tables, d.Tables(), "nothing of it was applied")
		})
	}
}

// affinityOf is what a client is remembered for.
func affinitiesOf(t *testing.T, d *Datapath) int {
	t.Helper()
	n := 0
	require.NoError(t, readBatches(d.maps[bpf.ContainerMapAffinities], func(affinityKey, affinity) { n++ }))
	return n
}

func TestAClientStaysWithItsBackendUntilTheServiceIsGone(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	sticky := func() *model.State {
		state := newState(n.client, n.web)
		for i := range state.Services.Len() {
			state.Services.At(i).Affinity = 30 * time.Second
			for port := range uint16(16) {
				state.Services.At(i).Backends = append(state.Services.At(i).Backends, model.Backend{Address: state.Services.At(i).Backends[0].Address, Port: 9000 + port})
			}
		}
		return state
	}
	_, err := d.Apply(sticky())
	require.NoError(t, err)
	chosen := map[string]bool{}
	for i := range uint16(20) {
		ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000+i, 80, syn), model.Forward)
		chosen[fmt.Sprint(ran.Data[36:38])] = true
	}
	require.Len(t, chosen, 1, "one backend for all flows of the client")
	require.Equal(t, 1, affinitiesOf(t, d))

	_, err = d.Apply(sticky())
	require.NoError(t, err)
	_, err = d.Collect()
	require.NoError(t, err)
	require.Equal(t, 1, affinitiesOf(t, d), "another state with that service forgets nobody")

	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	_, err = d.Collect()
	require.NoError(t, err)
	require.Zero(t, affinitiesOf(t, d), "the service does not keep clients any more")
}

func TestSourceRangesAreAsked(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	opts := pinnedOptions(dir)
	for name, tt := range map[string]struct {
		sources []string
		action  model.Action
	}{
		"nobody is named":          {nil, model.Forward},
		"the client is in a range": {[]string{"192.0.2.0/24", "10.0.0.0/30"}, model.Forward},
		"the client is in none":    {[]string{"192.0.2.0/24"}, model.Drop},
		"the other family only":    {[]string{"::/0"}, model.Drop},
	} {
		d, err := Open(opts)
		require.NoError(t, err)
		state := newState(n.client, n.web)
		for _, s := range tt.sources {
			state.Services.At(0).Sources = append(state.Services.At(0).Sources, netip.MustParsePrefix(s))
		}
		for range 2 { // the second time, its list is there already
			_, err = d.Apply(state.Clone())
			require.NoError(t, err)
			ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000, 80, syn), tt.action)
			if tt.action == model.Drop {
				require.Equal(t, model.ReasonSourceRange, ran.Decision.Reason, name)
			}
		}
		require.NoError(t, d.Close())
	}
}

func TestABackendIsKnownWithoutItsPortWhereOthersChooseIt(t *testing.T) {
	at := addr("10.0.0.2")
	for name, tt := range map[string]struct {
		backends []model.Backend
		port     uint16
		state    uint32
	}{
		"one port":                   {[]model.Backend{{Address: at, Port: 8080}}, 8080, 1},
		"two that serve":             {[]model.Backend{{Address: at, Port: 8080}, {Address: at, Port: 9090}}, 8080, 1},
		"one of two goes":            {[]model.Backend{{Address: at, Port: 8080, Terminating: true}, {Address: at, Port: 9090}}, 9090, 1},
		"one of two goes, last":      {[]model.Backend{{Address: at, Port: 8080}, {Address: at, Port: 9090, Terminating: true}}, 8080, 1},
		"it goes, and keeps its own": {[]model.Backend{{Address: at, Port: 8080, Terminating: true}}, 8080, 2},
	} {
		t.Run(name, func(t *testing.T) {
			table := map[backendKey]backendHalf{}
			addBackends(table, 7, &model.Service{DSR: true, Backends: tt.backends})
			require.Len(t, table, len(tt.backends)+1)
			require.Equal(t, backendHalf{State: tt.state, Port: encodePort(tt.port)}, table[backendKey{Service: 7, Addr: encodeAddr(at)}])
			clear(table)
			addBackends(table, 7, &model.Service{Backends: tt.backends})
			require.Len(t, table, len(tt.backends))
		})
	}
}

// What a tunnel leads away has one entry: the state is told by what the client
// acknowledges.
func TestAFlowWhoseAnswersGoAnotherWayHasAState(t *testing.T) {
	const fin, synFlag, rst, ackFlag = 1, 2, 4, 16
	for name, tt := range map[string]struct {
		seen  uint8
		proto model.Protocol
		want  FlowState
	}{
		"opened":           {synFlag, model.ProtocolTCP, StateSynSent},
		"acknowledged":     {synFlag | ackFlag, model.ProtocolTCP, StateEstablished},
		"joined later":     {ackFlag, model.ProtocolTCP, StateEstablished},
		"the client ended": {synFlag | ackFlag | fin, model.ProtocolTCP, StateFinWait},
		"reset":            {synFlag | ackFlag | rst, model.ProtocolTCP, StateClosed},
		"a datagram":       {0, model.ProtocolUDP, StateUnanswered},
	} {
		t.Run(name, func(t *testing.T) {
			e := &entry{flowKey{Proto: uint8(tt.proto)}, flowValue{Out: uint8(bpf.ContainerOutOUT_TUNNEL), Seen: tt.seen}}
			require.Equal(t, tt.want, pairState(e, nil))
		})
	}
}
