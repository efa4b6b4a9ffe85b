// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// plays are what is done in worlds one after another. Each tells what it saw,
// which must be the same whatever was done before, and leaves behind what it
// can.
var plays = []struct {
	name string
	do   func(*testing.T, *World) []string
}{
	{"nothing", func(*testing.T, *World) []string { return nil }},
	{"a service", playService},
	{"a policy", playPolicy},
	{"carelessness", playCareless},
}

// ask sends one datagram from a fixed port and gives who answered.
func ask(t *testing.T, w *World, at netip.AddrPort) string {
	t.Helper()
	c, err := w.Dial(within(t, patient), "default/client", model.ProtocolUDP, 4000, at)
	require.NoError(t, err)
	defer c.Close()
	answer, err := c.Exchange(within(t, patient), []byte("who?"))
	require.NoError(t, err)
	return string(answer)
}

func playService(t *testing.T, w *World) (saw []string) {
	applyObjects(t, w, serviceObjects)
	require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolUDP, 5353, echo("web")))
	for _, service := range []netip.Addr{webServiceV4, webServiceV6} {
		saw = append(saw, ask(t, w, netip.AddrPortFrom(service, 53)))
	}
	require.NoError(t, w.Advance(t.Context(), time.Minute))
	flows, err := w.Datapath("").Flows()
	require.NoError(t, err)
	for _, f := range flows {
		if f.Tuple.Protocol == model.ProtocolUDP {
			saw = append(saw, fmt.Sprintf("%s of %s: %s as %s, answered %t, service %s, epoch %d, idle a minute %t",
				f.Hook, f.Endpoint, f.Tuple, f.Translated, f.Answered, f.Service, f.Epoch, f.Idle.Truncate(time.Minute) == time.Minute))
		}
	}
	slices.Sort(saw)
	return saw
}

func playPolicy(t *testing.T, w *World) (saw []string) {
	applyObjects(t, w, serviceObjects, onlyClient)
	require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolUDP, 5353, echo("web")))
	own, gateway, err := w.MACs("default/other")
	require.NoError(t, err)
	for range 3 {
		frame := udpFrame(t, own, gateway, netip.AddrPortFrom(otherV4, 4000), netip.AddrPortFrom(webV4, 5353), []byte("?"))
		require.NoError(t, w.Send(t.Context(), "default/other", frame))
	}
	saw = append(saw, ask(t, w, netip.AddrPortFrom(webV4, 5353)))
	told := 0
	require.Eventually(t, func() bool { // a drop is counted, and then told
		for _, reason := range reasons(w.Walks()) {
			if reason == "policy-ingress" {
				told++
			}
		}
		return told >= 3
	}, patient, time.Millisecond)
	saw = append(saw, fmt.Sprintf("%d dropped", policyDrops(t, w)))
	return append(saw, fmt.Sprintf("%d told", told))
}

func policyDrops(t *testing.T, w *World) (n uint64) {
	t.Helper()
	counters, err := w.Datapath("").Counters()
	require.NoError(t, err)
	for _, c := range counters {
		if c.Reason == "policy-ingress" {
			n += c.Packets
		}
	}
	return n
}

// playCareless leaves the node changed, conversations open and frames on their
// way, on the tuples of the other plays.
func playCareless(t *testing.T, w *World) (saw []string) {
	applyObjects(t, w, serviceObjects)
	listenEverywhere(t, w, "default/web")
	require.NoError(t, w.Advance(t.Context(), time.Hour))
	for _, port := range ports {
		c, err := w.Dial(within(t, patient), "default/client", port.protocol, 4000, netip.AddrPortFrom(webServiceV4, port.service))
		require.NoError(t, err)
		answer, err := c.Exchange(within(t, patient), []byte("left open"))
		require.NoError(t, err)
		saw = append(saw, string(answer))
	}
	require.NoError(t, w.nodes[0].ns.run(func() error {
		return writeSysctls([]sysctl{{path: "ipv4/ip_forward", value: "0"}, {path: "ipv4/ip_default_ttl", value: "7"}})
	}))
	c, err := w.nodes[0].ns.configurator()
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.addAddress(firstUplinkIndex, netip.MustParseAddr("192.0.2.77")))
	require.NoError(t, c.addRoute(podWire(0, 0).nodeIndex, webServiceV4, netip.Addr{}, netip.Addr{}))
	require.NoError(t, c.addNeighbour(podWire(1, 1).nodeIndex, webV4, podWire(0, 0).hostMAC))
	own, gateway, err := w.MACs("default/client")
	require.NoError(t, err)
	frame := udpFrame(t, own, gateway, netip.AddrPortFrom(clientV4, 4000), netip.AddrPortFrom(webServiceV4, 53), []byte("?"))
	w.serving.Go(func() {
		for w.closing.Err() == nil || w.Datapath("") != nil {
			if w.Send(context.Background(), "default/client", frame) != nil {
				return
			}
		}
	})
	return saw
}

// firstLook is all that can be seen of a world's datapath and node before
// anything is done there.
func firstLook(t *testing.T, w *World) (saw []string) {
	t.Helper()
	d := w.Datapath("")
	residue, err := d.Residue()
	require.NoError(t, err)
	saw = append(saw, residue...)
	flows, err := d.Flows()
	require.NoError(t, err)
	counters, err := d.Counters()
	require.NoError(t, err)
	saw = append(saw, fmt.Sprint(flows, counters, d.Tables(), w.Walks(), d.Attachment()))
	require.NoError(t, w.nodes[0].ns.run(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			saw = append(saw, fmt.Sprintf("link %d %s %s mtu %d up %s", a.Index, a.Name, a.HardwareAddr, a.MTU, a.OperState))
		}
		addresses, err := netlink.AddrList(nil, unix.AF_UNSPEC)
		for _, a := range addresses {
			saw = append(saw, fmt.Sprintf("address %s of %d", a.IPNet, a.LinkIndex))
		}
		if err != nil {
			return err
		}
		routes, err := netlink.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.Type == unix.RTN_ANYCAST {
				continue // The kernel adds those of a router in its own time.
			}
			saw = append(saw, fmt.Sprintf("route %s of %d via %s from %s table %d", r.Dst, r.LinkIndex, r.Gw, r.Src, r.Table))
		}
		if err != nil {
			return err
		}
		neighbours, err := netlink.NeighList(0, 0)
		for _, n := range neighbours {
			if n.State != unix.NUD_NOARP { // Multicast, as stacks speak of their groups.
				saw = append(saw, fmt.Sprintf("neighbour %s of %d at %s state %d", n.IP, n.LinkIndex, n.HardwareAddr, n.State))
			}
		}
		if err != nil {
			return err
		}
		settings, err := readSysctls("ipv4/ip_forward", "ipv4/ip_default_ttl", "ipv6/conf/all/forwarding")
		saw = append(saw, settings...)
		return err
	}))
	slices.Sort(saw)
	return saw
}

// readSysctls acts on the calling thread's namespace.
func readSysctls(paths ...string) (settings []string, err error) {
	for _, path := range paths {
		value, err := os.ReadFile("/proc/sys/net/" + path)
		if err != nil {
			return nil, err
		}
		settings = append(settings, path+" = "+strings.TrimSpace(string(value)))
	}
	return settings, nil
}

// afterEachOther is an order of n things in which each follows each, and
// itself.
func afterEachOther(n int) (order []int) {
	for i := range n {
		order = append(order, i)
		for j := i + 1; j < n; j++ {
			order = append(order, i, j)
		}
	}
	return append(order, 0)
}

func TestWorldsOfAPoolSeeNothingOfThoseBefore(t *testing.T) {
	needRoot(t)
	type kind struct{ clsact, sockets bool }
	network := func(k kind) lab.Topology {
		n := topology()
		n.Sockets = k.sockets
		return n
	}
	fresh := map[kind][]string{}
	want := map[kind]map[string][]string{}
	for _, k := range []kind{{}, {clsact: true}, {sockets: true}, {clsact: true, sockets: true}} {
		want[k] = map[string][]string{}
		for _, play := range plays {
			w, err := New(t.Context(), network(k), Options{Clsact: k.clsact})
			require.NoError(t, err)
			fresh[k] = firstLook(t, w)
			want[k][play.name] = play.do(t, w)
			require.NoError(t, w.Close())
		}
	}

	pool := NewPool(1)
	before := "none"
	for i, n := range afterEachOther(len(plays)) {
		k := kind{clsact: i%2 > 0, sockets: i%3 > 0}
		w, err := pool.New(t.Context(), network(k), Options{Clsact: k.clsact})
		require.NoError(t, err)
		require.Equal(t, fresh[k], firstLook(t, w), "%s of %+v, after %s", plays[n].name, k, before)
		require.Equal(t, want[k][plays[n].name], plays[n].do(t, w), "%s of %+v, after %s", plays[n].name, k, before)
		require.NoError(t, w.Close())
		before = fmt.Sprintf("%s of %+v", plays[n].name, k)
	}
	require.Equal(t, 1, pool.Opened())
	require.NoError(t, pool.Close())
}

func TestADatapathThatIsNotAsNewIsThrownAway(t *testing.T) {
	needRoot(t)
	pool := NewPool(1)
	w, err := pool.New(t.Context(), topology(), Options{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	stained := <-pool.stock(true, nil).ready
	require.NoError(t, stained.datapath.Advance(time.Second))
	pool.stock(true, nil).ready <- stained

	w, err = pool.New(t.Context(), topology(), Options{})
	require.NoError(t, err)
	require.NotSame(t, stained.datapath, w.Datapath(""))
	require.Equal(t, 2, pool.Opened())
	applyObjects(t, w, serviceObjects)
	require.NoError(t, w.Close())
	err = pool.Close()
	require.ErrorIs(t, err, ErrStained)
	require.ErrorContains(t, err, "the clock's offset 1s")
}

func TestAPoolOpensNoMoreThanItMay(t *testing.T) {
	needRoot(t)
	pool := NewPool(1)
	first, err := pool.New(t.Context(), topology(), Options{})
	require.NoError(t, err)
	_, err = pool.New(within(t, brief), topology(), Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, first.Close())
	second, err := pool.New(within(t, patient), topology(), Options{})
	require.NoError(t, err)
	require.NoError(t, second.Close())
	require.Equal(t, 1, pool.Opened())
	require.NoError(t, pool.Close())
	_, err = pool.New(t.Context(), topology(), Options{})
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAClosedWorldIsNoLongerAtTheDatapath(t *testing.T) {
	needRoot(t)
	pool := NewPool(1)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	w, err := pool.New(t.Context(), topology(), Options{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = w.Apply(t.Context(), "", &model.State{})
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, w.Advance(t.Context(), time.Second), net.ErrClosed)
	require.ErrorIs(t, w.Collect(t.Context()), net.ErrClosed)
	require.Nil(t, w.Datapath(""))
	require.Empty(t, w.Walks())
}

func TestOptionsThatNeedADatapathOfTheirOwnHaveOne(t *testing.T) {
	needRoot(t)
	pool := NewPool(1)
	for _, options := range []Options{
		{Plain: true}, {Keep: true}, {Pin: true}, {Datapath: datapath.Options{ForceClsact: true}}, {Datapath: datapath.Options{Seed: 1}},
	} {
		t.Run(fmt.Sprintf("%+v", options), func(t *testing.T) {
			w, err := pool.New(t.Context(), topology(), options)
			require.NoError(t, err)
			require.NoError(t, w.Close())
		})
	}
	require.Zero(t, pool.Opened())
	require.NoError(t, pool.Close())
}

func TestWorldsShareWhatDoesWithoutTheSameFeatures(t *testing.T) {
	needRoot(t)
	pool := NewPool(1)
	for _, without := range [][]string{nil, {datapath.FeatureTCX}, {datapath.FeatureCoarseClock}, {datapath.FeatureTCX, datapath.FeatureCoarseClock}, nil} {
		w, err := pool.New(t.Context(), topology(), Options{Datapath: datapath.Options{Without: without}})
		require.NoError(t, err)
		d := w.Datapath("")
		for _, feature := range without {
			uses, err := d.Uses(feature)
			require.NoError(t, err)
			require.False(t, uses, "%s without %s", feature, without)
		}
		require.Equal(t, playService(t, w), playService(t, newTestWorld(t, Options{Datapath: datapath.Options{Without: without}})))
		require.NoError(t, w.Close())
	}
	require.Equal(t, 2, pool.Opened(), "as the kernel is, and without a coarse clock")
	require.NoError(t, pool.Close())
}

func TestNothingOfAPoolIsLeftBehind(t *testing.T) {
	needRoot(t)
	before := holdings(t)
	pool := NewPool(2)
	var users sync.WaitGroup
	for range 2 {
		users.Go(func() {
			for range 3 {
				w, err := pool.New(context.Background(), topology(), Options{})
				if err != nil {
					t.Errorf("build world: %v", err)
					return
				}
				if err := serveAndClose(w); err != nil {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	require.LessOrEqual(t, pool.Opened(), 2)
	require.NoError(t, pool.Close())
	requireNothingOver(t, before)
}

// serveAndClose leaves a listener to Close, and a frame on its way.
func serveAndClose(w *World) error {
	ctx := context.Background()
	if err := w.Listen(ctx, "default/web", model.ProtocolTCP, 80, echo("web")); err != nil {
		return err
	}
	if err := w.Send(ctx, "default/client", make([]byte, 60)); err != nil {
		return err
	}
	return w.Close()
}

func TestEachThingFollowsEach(t *testing.T) {
	order := afterEachOther(3)
	var pairs []string
	for i := 1; i < len(order); i++ {
		pairs = append(pairs, fmt.Sprint(order[i-1], order[i]))
	}
	slices.Sort(pairs)
	require.Equal(t, "0 0,0 1,0 2,1 0,1 1,1 2,2 0,2 1,2 2", strings.Join(pairs, ","))
}
