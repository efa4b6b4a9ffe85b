// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// variedState has entries in all tables of the state.
func variedState(t testing.TB, n *node) *model.State {
	t.Helper()
	withUplink(t, n)
	state := n.state
	state.Services.At(0).MaglevSize = 251
	state.Services.At(0).Backends = append(state.Services.At(0).Backends, model.Backend{Address: addr("10.0.0.2"), Port: 8081})
	state.Services.At(1).Sources = []netip.Prefix{prefix("fd00::/64")}
	state.TunnelEndpoints = []model.TunnelEndpoint{
		{Number: 1, Node: "node-b", IPv4: addr("192.0.2.11")}, {Number: 2, Node: "node-c", IPv6: addr("2001:db8::12")},
	}
	state.Addresses = model.ListOf([]model.Address{
		{Prefix: prefix("10.0.0.1/32"), Identity: clientIdentity}, {Prefix: prefix("10.0.0.2/32"), Identity: webIdentity},
		{Prefix: prefix("203.0.113.0/24"), Identity: 70000}, {Prefix: prefix("2001:db8:9::/64"), Identity: 70001, TunnelEndpoint: 1},
	}...)
	return state
}

// damage is what is done to one entry of a table behind the datapath's back.
type damage struct {
	remove, change, add func(t *testing.T, m *ebpf.Map)
}

// damaged makes the damages of a table: the value of its first entry gets another byte,
// and a key like its last one is made.
func damaged(keyByte, valueByte int) damage {
	first := func(t *testing.T, m *ebpf.Map) (key, value []byte) {
		t.Helper()
		key, err := m.NextKeyBytes(nil)
		require.NoError(t, err)
		require.NotNil(t, key, "the table is empty")
		value, err = m.LookupBytes(key)
		require.NoError(t, err)
		return key, value
	}
	return damage{
		remove: func(t *testing.T, m *ebpf.Map) {
			key, _ := first(t, m)
			require.NoError(t, m.Delete(key))
		},
		change: func(t *testing.T, m *ebpf.Map) {
			key, value := first(t, m)
			value[valueByte] ^= 0x55
			require.NoError(t, m.Put(key, value))
		},
		add: func(t *testing.T, m *ebpf.Map) {
			key, value := first(t, m)
			key[keyByte] ^= 0x55
			require.NoError(t, m.Update(key, value, ebpf.UpdateNoExist))
		},
	}
}

var damages = map[string]damage{
	bpf.ContainerMapNodes: damaged(0, 0), bpf.ContainerMapEndpoints: damaged(1, 0), bpf.ContainerMapIpcache: damaged(15, 0),
	bpf.ContainerMapIpcacheCidrs: damaged(5, 0), bpf.ContainerMapServices: damaged(15, 0), bpf.ContainerMapBackends: damaged(1, 0),
	bpf.ContainerMapTunnelEndpoints: damaged(1, 15), bpf.ContainerMapSlotRows: damaged(1, 0), bpf.ContainerMapSources: damaged(9, 0), bpf.ContainerMapRules: damaged(9, 0),
}

// content is what all tables of the state hold.
func content(t *testing.T, d *Datapath) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for name := range damages {
		m := d.maps[name]
		key, err := m.NextKeyBytes(nil)
		for ; key != nil; key, err = m.NextKeyBytes(key) {
			require.NoError(t, err)
			value, err := m.LookupBytes(key)
			require.NoError(t, err)
			all[name] = append(all[name], fmt.Sprintf("%x: %x", key, value))
		}
		require.NoError(t, err)
		slices.Sort(all[name])
	}
	memory := make([]byte, d.maglev.memory.Size())
	_, err := d.maglev.memory.ReadAt(memory, 0)
	require.NoError(t, err)
	all[bpf.ContainerMapMaglev] = []string{fmt.Sprintf("%x", memory[:256*maglevStride])}
	return all
}

func repaired(t *testing.T, d *Datapath) Repaired {
	t.Helper()
	done, err := d.Repair(t.Context())
	require.NoError(t, err)
	return done
}

// Whatever somebody removes, changes or adds in whichever table is put right and named,
// and a flow goes on meanwhile.
func TestWhatDriftsIsRepairedAndNamed(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(variedState(t, n))
	require.NoError(t, err)
	_, err = d.Collect()
	require.NoError(t, err)
	establish(t, d, n, 1000)
	want := content(t, d)
	none := repaired(t, d)
	require.Empty(t, none.Tables)
	require.Greater(t, none.Compared, 251)
	require.Equal(t, FlowKnown, run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, ack), model.Forward).Decision.Flow, "nothing was repaired, and nothing is judged anew")
	for table, of := range damages {
		for _, c := range []struct {
			what string
			do   func(*testing.T, *ebpf.Map)
			want RepairedTable
		}{
			{"missing", of.remove, RepairedTable{Missing: 1}},
			{"wrong", of.change, RepairedTable{Wrong: 1}},
			{"surplus", of.add, RepairedTable{Surplus: 1}},
		} {
			if table == bpf.ContainerMapNodes && c.what == "surplus" {
				continue // it has room for one
			}
			c.do(t, d.maps[table])
			require.NotEqual(t, want, content(t, d))
			done := repaired(t, d)
			require.Len(t, done.Tables, 1, "%s %s: %+v", c.what, table, done)
			is := done.Tables[0]
			require.Len(t, is.Keys, 1)
			require.True(t, strings.HasPrefix(is.Keys[0], c.what+" "), is.Keys)
			t.Log(table, is.Keys)
			is.Keys, c.want.Table = nil, table
			require.Equal(t, c.want, is)
			require.Equal(t, 1, is.Entries())
			require.Equal(t, want, content(t, d), "%s %s", c.what, table)
			flow := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, ack), model.Forward)
			require.Equal(t, FlowRejudged, flow.Decision.Flow, "what was wrong may have decided about it")
			run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 1000, ack), model.Forward)
			require.Empty(t, repaired(t, d).Tables)
		}
	}
}

func TestMaglevTablesAndSettingsAreRepaired(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(variedState(t, n))
	require.NoError(t, err)
	want := content(t, d)
	establish(t, d, n, 1000)
	for _, i := range []int64{0, 7, 250} {
		_, err = d.maglev.memory.WriteAt([]byte{0xff}, i*maglevStride)
		require.NoError(t, err)
	}
	require.Equal(t, []RepairedTable{{Table: bpf.ContainerMapMaglev, Wrong: 3, Keys: []string{"wrong entry 0", "wrong entry 7", "wrong entry 250"}}}, repaired(t, d).Tables)
	require.Equal(t, want, content(t, d))

	zero, other := uint32(0), d.settings
	other.Epoch++ // packets read the other half
	require.NoError(t, d.maps[bpf.ContainerMapControl].Put(&zero, &other))
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 2000, 80, syn), model.Drop)
	done := repaired(t, d).Tables
	require.Len(t, done, 1)
	require.Equal(t, bpf.ContainerMapControl, done[0].Table)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 2000, 80, syn), model.Forward)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, ack), model.Forward)
	require.Empty(t, repaired(t, d).Tables)
}

// What Apply has worked out wrongly, and believes, is found by the state itself.
func TestWhatIsBelievedWronglyIsRepaired(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(variedState(t, n))
	require.NoError(t, err)
	want := packetsView(t, d)
	for table, spoil := range map[string]func(half int) error{
		bpf.ContainerMapEndpoints: func(half int) error { return spoilOne(d.endpoints, half, func(e *endpointHalf) { e.Identity++ }) },
		bpf.ContainerMapIpcache:   func(half int) error { return spoilOne(d.ipcache, half, func(a *ipcacheHalf) { a.Identity++ }) },
		bpf.ContainerMapIpcacheCidrs: func(half int) error {
			return spoilOne(d.cidrs, half, func(a *ipcacheHalf) { a.Identity++ })
		},
		bpf.ContainerMapNodes: func(half int) error { return spoilOne(d.nodes, half, func(n *nodeHalf) { n.Mtu++ }) },
		bpf.ContainerMapTunnelEndpoints: func(half int) error {
			return spoilOne(d.tunnels, half, func(e *tunnelHalf) { e.Addr4.W[3]++ })
		},
		bpf.ContainerMapServices: func(half int) error { return spoilOne(d.services, half, func(s *serviceHalf) { s.Count++ }) },
		bpf.ContainerMapBackends: func(half int) error { return spoilOne(d.backends, half, func(b *backendHalf) { *b = backendHalf{} }) },
	} {
		require.NoError(t, spoil(d.half()))
		if table != bpf.ContainerMapIpcacheCidrs { // of which packetsView wants what the state says
			require.NotEqual(t, want, packetsView(t, d), table)
		}
		done := repaired(t, d)
		require.Len(t, done.Tables, 1, "%s: %+v", table, done)
		require.Equal(t, table, done.Tables[0].Table)
		require.Equal(t, 1, done.Tables[0].Entries())
		require.Equal(t, want, packetsView(t, d), table)
		require.Empty(t, repaired(t, d).Tables)
	}
	// What is in the tables, and in no state.
	extra := addr("203.0.113.77")
	require.NoError(t, d.ipcache.write([]tableAddr{encodeAddr(extra)}, [][2]ipcacheHalf{{{Identity: 7}, {Identity: 7}}}))
	require.Equal(t, []RepairedTable{{Table: bpf.ContainerMapIpcache, Surplus: 1, Keys: []string{"surplus 203.0.113.77"}}}, repaired(t, d).Tables)
	require.Equal(t, want, packetsView(t, d))
}

// spoilOne changes an entry, as a wrong Apply would have.
func spoilOne[K, H comparable](t *pairTable[K, H], half int, change func(*H)) error {
	var zero H
	for key, pair := range t.have {
		if pair[half] == zero {
			continue
		}
		change(&pair[half])
		return t.write([]K{key}, [][2]H{pair})
	}
	return errors.New("the table is empty")
}

// Of many entries the first are named, and all are counted.
func TestTheFirstOfManyRepairedEntriesAreNamed(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	state := variedState(t, n)
	for i := range 3 * repairBatch {
		state.Addresses = state.Addresses.With(model.Address{Prefix: netip.PrefixFrom(peerAddr(i, false), 32), Identity: 1000})
	}
	_, err := d.Apply(state)
	require.NoError(t, err)
	want := content(t, d)
	for i := range 2 * repairBatch {
		key := encodeAddr(peerAddr(i, false))
		require.NoError(t, d.ipcache.m.Delete(&key))
	}
	done := repaired(t, d).Tables
	require.Len(t, done, 1)
	require.Equal(t, 2*repairBatch, done[0].Missing)
	require.Len(t, done[0].Keys, mostNamed)
	require.Equal(t, want, content(t, d))
}

// States are applied, pods connected and flows collected while tables are compared:
// nothing has drifted, and nothing is repaired.
func TestNothingIsRepairedWhileStatesAreApplied(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	state := variedState(t, n)
	_, err := d.Apply(state)
	require.NoError(t, err)
	stopped, cancel := context.WithCancel(t.Context())
	found := make(chan Repaired)
	runs := 0
	go func() {
		var all Repaired
		for stopped.Err() == nil {
			done, err := d.Repair(context.Background())
			if err != nil {
				all.Tables = append(all.Tables, RepairedTable{Table: err.Error()})
			}
			all.Tables = append(all.Tables, done.Tables...)
			runs++
		}
		found <- all
	}()
	full := state
	for i := range 100 {
		next := *full
		next.Services = model.ListOf(full.Services.Slice()...)
		next.Services.At(0).MaglevSize = []int{251, 503, 0}[i%3]
		next.Services.At(1).Backends = append(slices.Clone(full.Services.At(1).Backends), model.Backend{Address: addr("fd00::2"), Port: uint16(1000 + i)})
		next.Addresses = full.Addresses.With(model.Address{Prefix: netip.PrefixFrom(peerAddr(i, false), 32), Identity: 1000},
			model.Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), 24), Identity: 1001})
		key := fmt.Sprint("set ", i)
		next.RuleSets = append(slices.Clone(full.RuleSets), model.RuleSet{Key: key, Rules: []model.Rule{
			{Direction: model.Egress}, {Direction: model.Ingress, Peer: clientIdentity, Protocol: model.ProtocolTCP, Port: uint16(1 + i), PortBits: 16},
		}})
		next.Endpoints = slices.Clone(full.Endpoints)
		next.Endpoints[1].RuleSet = key
		if i%5 == 0 {
			less := next
			less.Endpoints = next.Endpoints[:1]
			_, err := d.Apply(&less)
			require.NoError(t, err)
			require.NoError(t, d.Connect(&next, model.Key{Namespace: "default", Name: "web"}))
		}
		_, err := d.Apply(&next)
		require.NoError(t, err)
		if i%10 == 0 {
			_, err := d.Collect()
			require.NoError(t, err)
		}
	}
	cancel()
	require.Empty(t, (<-found).Tables)
	require.Positive(t, runs)
}

// A Repair that is told to end does, and says what it has done.
func TestARepairEndsWithItsContext(t *testing.T) {
	n := newNode(t)
	opts := small()
	ctx, cancel := context.WithCancel(t.Context())
	opts.Step = func(step string) {
		if step == "repair "+bpf.ContainerMapServices {
			cancel()
		}
	}
	d := openDatapath(t, opts)
	_, err := d.Apply(variedState(t, n))
	require.NoError(t, err)
	for _, table := range []string{bpf.ContainerMapSlotRows, bpf.ContainerMapEndpoints} {
		damages[table].remove(t, d.maps[table])
	}
	done, err := d.Repair(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, done.Tables, 1)
	require.Equal(t, bpf.ContainerMapSlotRows, done.Tables[0].Table)
	require.Equal(t, bpf.ContainerMapEndpoints, repaired(t, d).Tables[0].Table)
}

// ofRepair says whether a repair can be killed at a step.
func ofRepair(step string) bool {
	return step == "drifted" || strings.HasPrefix(step, "repair an entry") || step == "repair control"
}

// repairOrDie damages one entry of each table, and repairs them, in a loader that may
// be killed at a step.
func repairOrDie(d *Datapath) error {
	for i, table := range slices.Sorted(maps.Keys(damages)) {
		m := d.maps[table]
		key, err := m.NextKeyBytes(nil)
		if err != nil {
			return err
		}
		value, err := m.LookupBytes(key)
		if err != nil {
			return err
		}
		value[0] ^= 0x55
		if i%2 == 0 {
			err = m.Delete(key)
		} else {
			err = m.Put(key, value)
		}
		if err != nil {
			return err
		}
	}
	d.opts.Step("drifted")
	done, err := d.Repair(context.Background())
	if err == nil && len(done.Tables) != len(damages) {
		err = fmt.Errorf("of %d tables it has repaired %d: %+v", len(damages), len(done.Tables), done.Tables)
	}
	return errors.Join(err, d.Close())
}

// A loader that is killed in a repair leaves what had drifted, or what is right, and
// the next one makes all of it right.
func TestALoaderKilledInARepairLeavesWhatHadDriftedOrWhatIsRight(t *testing.T) {
	n := newNode(t)
	lenient(t, n)
	n.state.Addresses = model.ListOf([]model.Address{{Prefix: prefix("203.0.113.0/24"), Identity: 70000}}...)
	n.state.TunnelEndpoints = []model.TunnelEndpoint{{Number: 1, Node: "node-b", IPv6: addr("2001:db8::11")}}
	raw, err := json.Marshal(n.state)
	require.NoError(t, err)
	before := filepath.Join(t.TempDir(), "state.json")
	require.NoError(t, os.WriteFile(before, raw, 0o600))
	dir := pinDir(t)
	restore := func() {
		d, err := Open(pinnedOptions(dir))
		require.NoError(t, err)
		_, err = d.Apply(n.state.Clone())
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
	restore()
	if haveTCX, err := haveTCX(); err != nil || !haveTCX {
		t.Skip("kernel before 6.6: clsact has no links to ask the programs by")
	}
	const sport = 20000
	ask := func() []string {
		forgetFlows(t, dir, sport)
		return askPrograms(t, dir, n, sport)
	}
	right := ask()
	var drifted []string
	killed := 0
	for at := 1; ; at++ {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"="+strconv.Itoa(at), childEnv+"_PINS="+dir, childEnv+"_BEFORE="+before, childEnv+"_DRIFTS=1")
		said, err := cmd.Output()
		after := ask()
		if err == nil {
			require.Equal(t, right, after, "what a repair that ends has repaired")
			break
		}
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.NotEmpty(t, said, "the loader failed: %s", exit.Stderr)
		if string(said) == "drifted" {
			drifted = after
			require.NotEqual(t, right, drifted)
		}
		for i, answer := range after {
			drop := fmt.Sprintf(" verdict %d ", bpf.ContainerVerdictVERDICT_DROP)
			if !strings.Contains(answer, drop) {
				require.Contains(t, []string{right[i], drifted[i]}, answer, "killed at %q", said)
			}
		}
		killed++
		restore()
		require.Equal(t, right, ask(), "a loader after the one killed at %q does not make the state whole", said)
	}
	require.Equal(t, len(damages)+2, killed, "before all, at each entry, and before the epoch")
	fmt.Printf("loader killed at %d steps of a repair\n", killed)
}

// A state that could not be applied again is applied again by the next run, though
// nobody applies another one.
func TestARepairThatFailsIsMadeUpFor(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	want := packetsView(t, d)
	ifindex := uint32(n.web.Ifindex)
	pair := d.endpoints.have[ifindex]
	pair[d.half()].Identity++ // an error of Apply's
	require.NoError(t, d.endpoints.write([]uint32{ifindex}, [][2]endpointHalf{pair}))

	m := d.endpoints.m
	d.endpoints.m, err = m.Clone()
	require.NoError(t, err)
	require.NoError(t, d.endpoints.m.Close())
	_, err = d.Repair(t.Context())
	require.Error(t, err)
	d.endpoints.m = m

	repaired(t, d)
	require.Equal(t, want, packetsView(t, d))
	require.Empty(t, repaired(t, d).Tables)
}
