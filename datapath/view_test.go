// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// lively is a pinned datapath with a flow of each kind.
func lively(t *testing.T) (n *node, dir string) {
	t.Helper()
	n = newNode(t)
	uplink := withUplink(t, n)
	dir = pinDir(t)
	opts := pinnedOptions(dir)
	d := openDatapath(t, opts)
	n.state.Services.At(0).Affinity = time.Hour
	n.state.Services.At(0).MaglevSize = 251
	n.state.Services.At(0).Backends = append(n.state.Services.At(0).Backends,
		model.Backend{Address: addr("10.0.0.3"), Port: 8080, Weight: 3, Terminating: true})
	n.state.Services.At(1).Sources = []netip.Prefix{prefix("fd00::/64"), prefix("::/0")}
	n.state.Services.At(1).Backends[0].Weight = 3
	n.state.Services.At(1).Backends = append(n.state.Services.At(1).Backends, model.Backend{Address: addr("fd00::3"), Port: 8080})
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	establish(t, d, n, 40000)
	runAt(t, d, model.FromDevice, uplink.Ifindex, tcpFrame(t, "198.51.100.7", "192.0.2.1", 40001, 30080, syn), model.Forward)
	runAt(t, d, model.FromDevice, uplink.Ifindex, tcpFrame(t, "198.51.100.7", "192.0.2.1", 40002, 30081, syn), model.Forward)
	for _, port := range []uint16{40003, 40004} {
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "198.51.100.7", port, 443, syn), model.Forward)
	}
	// Another pod takes the same port towards the same peer.
	run(t, d, n.web, tcpFrame(t, "10.0.0.2", "198.51.100.7", 40003, 443, syn), model.Forward)
	return n, dir
}

func TestAViewShowsServicesAsPacketsMeetThem(t *testing.T) {
	_, dir := lively(t)
	v, err := OpenView(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	all, err := v.Services()
	require.NoError(t, err)
	require.Len(t, all, 10)
	require.Equal(t, Frontend{
		Name: model.PortRef{Namespace: "default", Name: "web", Port: "30080"}, Kind: model.KindNodePort, Scope: model.ScopeInside, Protocol: model.ProtocolTCP,
		Address: addr("192.0.2.1"), Port: 30080,
		Backends: []FrontendBackend{{Address: addr("10.0.0.2"), Port: 8080, Name: model.Key{Namespace: "default", Name: "web"}, Share: 1}},
	}, all[0])
	require.Equal(t, model.ScopeOutside, all[2].Scope)
	require.Equal(t, Frontend{
		Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Protocol: model.ProtocolTCP, Address: addr("10.96.0.1"), Port: 80,
		Affinity: time.Hour, MaglevSize: 251,
		Backends: []FrontendBackend{
			{Address: addr("10.0.0.2"), Port: 8080, Name: model.Key{Namespace: "default", Name: "web"}, Share: 1},
			{Address: addr("10.0.0.3"), Port: 8080, Terminating: true},
		},
	}, all[8])
	require.Equal(t, Frontend{
		Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Protocol: model.ProtocolTCP, Address: addr("fd96::1"), Port: 80,
		Restricted: true, Sources: []netip.Prefix{prefix("::/0"), prefix("fd00::/64")},
		Backends: []FrontendBackend{
			{Address: addr("fd00::2"), Port: 8080, Name: model.Key{Namespace: "default", Name: "web"}, Share: 0.75},
			{Address: addr("fd00::3"), Port: 8080, Share: 0.25},
		},
	}, all[9])
}

// said are flows as text, by the port that they began with.
func said(t *testing.T, v *View) map[uint16]string {
	t.Helper()
	pairs, err := v.FlowPairs()
	require.NoError(t, err)
	flows := map[uint16]string{}
	for _, p := range pairs {
		flows[p.Tuple.Sport] += fmt.Sprintf("%s of %s: %s:%d > %s:%d as %s > %s:%d, %s to %s, service %q, %s, policy %q",
			p.Hook, p.Endpoint, p.Tuple.Src, p.Tuple.Sport, p.Tuple.Dst, p.Tuple.Dport,
			p.Translated.Src, p.Translated.Dst, p.Translated.Dport, p.Src, p.Dst, p.Service, p.State, p.Policy)
	}
	return flows
}

func TestAViewShowsBothDirectionsOfAFlowAsOne(t *testing.T) {
	_, dir := lively(t)
	v, err := OpenView(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	flows := said(t, v)
	require.Len(t, flows, 5)
	require.Equal(t, `from-container of default/client: 10.0.0.1:40000 > 10.96.0.1:80 as 10.0.0.1 > 10.0.0.2:8080, default/client to default/web, service "default/web:80", established, policy "no policy"`, flows[40000])
	require.Equal(t, `from-device of node: 198.51.100.7:40001 > 192.0.2.1:30080 as 198.51.100.7 > 10.0.0.2:8080,  to default/web, service "default/web:30080", syn-sent, policy "no policy"`, flows[40001])
	require.Contains(t, flows[40004], `as 192.0.2.1 > 198.51.100.7:443, default/client to , service "", syn-sent`)

	t.Log("one half is gone")
	unanswered, err := ebpf.LoadPinnedMap(filepath.Join(dir, bpf.ContainerMapCtUnanswered), nil)
	require.NoError(t, err)
	defer unanswered.Close()
	entries, err := readFlows(unanswered)
	require.NoError(t, err)
	for key, e := range entries {
		if !e.reply() && decodePort(key.Sport) == 40001 {
			require.NoError(t, unanswered.Delete(&key))
		}
	}
	again := said(t, v)
	require.Len(t, again, 5)
	require.Equal(t, `from-device of node: 198.51.100.7:40001 > 192.0.2.1:30080 as 198.51.100.7 > 10.0.0.2:8080,  to default/web, service "default/web:30080", syn-sent, policy ""`, again[40001])
}

func TestAViewShowsTranslatedSourcesAndHowFullTheirPortsAre(t *testing.T) {
	_, dir := lively(t)
	v, err := OpenView(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	nats, err := v.NATs()
	require.NoError(t, err)
	require.Len(t, nats, 4)
	taken := map[string]int{}
	for _, n := range nats {
		require.Equal(t, addr("192.0.2.1"), n.Outside.Addr())
		require.Equal(t, 32768, n.Ports)
		if n.Inside != netip.MustParseAddrPort("10.0.0.2:40003") {
			require.Equal(t, n.Inside.Port(), n.Outside.Port(), "its own port is free")
		} else {
			require.NotEqual(t, n.Inside.Port(), n.Outside.Port())
		}
		taken[fmt.Sprintf("%s %s %s", n.Name, n.Service, n.Peer)] = n.Taken
	}
	require.Equal(t, map[string]int{
		" default/web:30081 203.0.113.9:8080": 1,
		"default/client  198.51.100.7:443":    3,
		"default/web  198.51.100.7:443":       3,
	}, taken)
}

func TestAViewWithoutLabelsShowsNumbers(t *testing.T) {
	n, dir := lively(t)
	require.NoError(t, os.Remove(filepath.Join(dir, labelsPin)))
	v, err := OpenView(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	all, err := v.Services()
	require.NoError(t, err)
	require.Regexp(t, `^service \d+$`, all[0].Name)
	require.Regexp(t, fmt.Sprintf(`from-container of ifindex %d: .* service "service \d+", established, policy "rule \d+"`, n.client.Ifindex), said(t, v)[40000])
}

func TestALoaderThatComesLaterKnowsTheNames(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	n.state.RuleSets[0].Rules[1].Origin = model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "out"}, Rule: 2}
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	establish(t, d, n, 40000)
	require.NoError(t, d.Close())

	d = openDatapath(t, pinnedOptions(dir))
	flows, err := d.Flows()
	require.NoError(t, err)
	require.Len(t, flows, 2)
	for _, f := range flows {
		require.Contains(t, []string{"default/client", "default/web"}, f.Endpoint)
		require.Equal(t, "default/web:80", f.Service.String())
	}
	pairs, err := d.view().FlowPairs()
	require.NoError(t, err)
	require.Equal(t, model.Origin{}.String(), pairs[0].Policy, "the last rule asked is the ingress one")

	t.Log("numbers of rules go on where they were")
	before := d.labels.number(model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "out"}, Rule: 2})
	require.NotZero(t, before)
	require.Greater(t, d.labels.number(model.Origin{Policy: model.PolicyRef{Name: "another"}}), before)
}

// A change adds names to those that lie beside the pins, until there is no room.
func TestNamesThatChangesBringAreKnownLater(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	var wrote int
	opts := pinnedOptions(dir)
	opts.Step = func(step string) {
		if step == "write labels" {
			wrote++
		}
	}
	d, err := Open(opts)
	require.NoError(t, err)
	state := n.state
	apply := func(with ...model.Service) {
		next := *state
		next.Services = state.Services.With(with...)
		state = &next
		_, err := d.Apply(state)
		require.NoError(t, err)
	}
	apply()
	labels := filepath.Join(dir, labelsPin)
	first, err := inode(labels)
	require.NoError(t, err)
	more := servicesOf(5010, 1)[10:]
	apply(more[0])
	apply(more[1])
	require.Equal(t, 3, wrote)
	now, err := inode(labels)
	require.NoError(t, err)
	require.Equal(t, first, now, "what was there is not written again")
	apply()
	require.Equal(t, 3, wrote, "nothing has another name")
	require.NoError(t, os.Remove(labels))
	known := func(names int) {
		v, err := OpenView(dir)
		require.NoError(t, err)
		defer func() { require.NoError(t, v.Close()) }()
		all, err := v.Services()
		require.NoError(t, err)
		for _, s := range more[:names] {
			require.True(t, slices.ContainsFunc(all, func(f Frontend) bool { return f.Name == s.Name }), "%s", s.Name)
		}
		_, seen := v.labels.Endpoints[uint32(n.web.Ifindex)]
		require.True(t, seen)
	}
	apply(more[2])
	_, err = d.Collect()
	require.NoError(t, err)
	known(3)
	first, err = inode(labels)
	require.NoError(t, err)
	for some := range slices.Chunk(more[3:], 800) {
		apply(some...)
	}
	now, err = inode(labels)
	require.NoError(t, err)
	require.NotEqual(t, first, now, "there was no room")
	known(len(more))
	require.NoError(t, d.Close())
	d = openDatapath(t, opts)
	all, err := d.Services()
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(all, func(f Frontend) bool { return strings.HasPrefix(f.Name.Name, "service ") }))
}

func TestAViewOfWhatIsNoDatapathIsRefused(t *testing.T) {
	newNode(t)
	dir := pinDir(t)
	_, err := OpenView(dir)
	require.ErrorIs(t, err, ErrNoDatapath)
	d := openDatapath(t, pinnedOptions(dir))
	v, err := OpenView(dir)
	require.NoError(t, err, "before the first state, too")
	flows, err := v.FlowPairs()
	require.NoError(t, err)
	require.Empty(t, flows)
	require.NoError(t, v.Close())
	_, err = d.Collect()
	require.NoError(t, err)

	path := filepath.Join(dir, "services")
	require.NoError(t, os.Remove(path))
	foreign, err := ebpf.NewMap(&ebpf.MapSpec{Name: "services", Type: ebpf.Hash, KeySize: 20, ValueSize: 8, MaxEntries: 1})
	require.NoError(t, err)
	defer foreign.Close()
	require.NoError(t, foreign.Pin(path))
	_, err = OpenView(dir)
	require.ErrorIs(t, err, ErrForeignPin)
	require.ErrorContains(t, err, path)
	require.NoError(t, os.Remove(path))
}

// A reader looks on while a loader applies one state after the other: it never
// sees a part of one.
func TestAViewIsOfOneStateWhileStatesChange(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d := openDatapath(t, pinnedOptions(dir))
	stateOf := func(generation uint16) *model.State {
		state := newState(n.client, n.web)
		for i := range 40 {
			state.Services = state.Services.With(model.Service{
				Name: model.PortRef{Namespace: "default", Name: "many", Port: "80"}, Address: netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}), Port: 80, Protocol: model.ProtocolTCP,
				Backends: []model.Backend{{Address: addr("10.0.0.2"), Port: 1000 + generation}},
			})
		}
		return state
	}
	_, err := d.Apply(stateOf(0))
	require.NoError(t, err)
	v, err := OpenView(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	done, looked := make(chan struct{}), make(chan error, 1)
	var states atomic.Int32
	go func() { looked <- lookOn(v, &states, done) }()
	// The reader may have to wait for a CPU: it sees a few states, however long that takes.
	for generation := uint16(0); generation < 100 || states.Load() < 3 && len(looked) == 0; generation++ {
		_, err := d.Apply(stateOf(generation))
		require.NoError(t, err)
	}
	close(done)
	require.NoError(t, <-looked)
}

// lookOn counts the states that it sees, by their backends' port, until done.
func lookOn(v *View, states *atomic.Int32, done chan struct{}) error {
	seen := map[uint16]bool{}
	for {
		all, err := v.Services()
		if err != nil {
			return err
		}
		ports := map[uint16]bool{}
		for _, f := range all {
			if f.Name.String() != "default/many:80" {
				continue
			}
			if len(f.Backends) != 1 || f.Backends[0].Share != 1 {
				return fmt.Errorf("%s has the backends %v", f.Address, f.Backends)
			}
			ports[f.Backends[0].Port] = true
		}
		if len(ports) != 1 {
			return fmt.Errorf("backends of several states: %v", ports)
		}
		maps.Copy(seen, ports)
		states.Store(int32(len(seen)))
		select {
		case <-done:
			return nil
		default:
		}
	}
}
