// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// The network of these tests.
var (
	nodeV4, nodeV6       = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	clientV4, clientV6   = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	webV4, webV6         = netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
	otherV4, otherV6     = netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")
	outsideV4, outsideV6 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:ffff::7")
	secondV4, secondV6   = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:eeee::9")
)

func topology() lab.Topology {
	return lab.Topology{
		Nodes: []lab.Host{{Name: "node", Addresses: []netip.Addr{nodeV4, nodeV6}}},
		Pods: []lab.Host{
			{Name: "default/client", Addresses: []netip.Addr{clientV4, clientV6}},
			{Name: "default/web", Addresses: []netip.Addr{webV4, webV6}},
			{Name: "default/other", Addresses: []netip.Addr{otherV4, otherV6}},
		},
		Outside: []lab.Host{
			{Name: "outside", Addresses: []netip.Addr{outsideV4, outsideV6}},
			{Name: "second", Addresses: []netip.Addr{secondV4, secondV6}},
		},
		Gateways: model.Gateways(),
	}
}

// needRoot fails a test that cannot run, rather than skipping it in silence.
func needRoot(t testing.TB) {
	t.Helper()
	require.NoError(t, checkPrivilege())
}

func newTestWorld(t testing.TB, options Options) *World {
	t.Helper()
	needRoot(t)
	w, err := New(t.Context(), topology(), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// echo answers with who it is, so that tests see who served.
func echo(name string) func([]byte) []byte {
	return func(message []byte) []byte { return append([]byte(name+": "), message...) }
}

// pairs are who talks to whom, in both families.
var pairs = []struct {
	name, from, to string
	at             []netip.Addr
}{
	{"pod to pod", "default/client", "default/web", []netip.Addr{webV4, webV6}},
	{"pod to outside", "default/client", "outside", []netip.Addr{outsideV4, outsideV6}},
	{"pod to the second outside host", "default/client", "second", []netip.Addr{secondV4, secondV6}},
	{"outside to pod", "second", "default/web", []netip.Addr{webV4, webV6}},
	{"node to pod", "node", "default/web", []netip.Addr{webV4, webV6}},
	{"pod to node", "default/client", "node", []netip.Addr{nodeV4, nodeV6}},
	{"outside to outside", "outside", "second", []netip.Addr{secondV4, secondV6}},
	{"outside to node", "second", "node", []netip.Addr{nodeV4, nodeV6}},
	{"node to outside", "node", "second", []netip.Addr{secondV4, secondV6}},
}

func TestPlainWorldCarriesEveryPair(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	for _, host := range []string{"default/web", "outside", "second", "node"} {
		require.NoError(t, w.Listen(t.Context(), host, model.ProtocolTCP, 80, echo(host)))
		require.NoError(t, w.Listen(t.Context(), host, model.ProtocolUDP, 53, echo(host)))
	}
	for _, p := range pairs {
		for _, at := range p.at {
			t.Run(fmt.Sprintf("%s %s", p.name, at), func(t *testing.T) {
				require.NoError(t, w.Ping(within(t, patient), p.from, at))
				for protocol, port := range map[model.Protocol]uint16{model.ProtocolTCP: 80, model.ProtocolUDP: 53} {
					checkExchange(t, w, p.from, p.to, protocol, netip.AddrPortFrom(at, port))
				}
			})
		}
	}
}

// checkExchange has one conversation in which nothing translates the source.
func checkExchange(t testing.TB, w *World, from, to string, protocol model.Protocol, at netip.AddrPort) {
	t.Helper()
	c, err := w.Dial(within(t, patient), from, protocol, 0, at)
	require.NoError(t, err)
	answer, err := c.Exchange(within(t, patient), []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, to+": hello", string(answer))
	require.Equal(t, at, c.Remote())
	require.Equal(t, to, c.Server())
	require.Equal(t, c.Local(), c.Peer())
	require.NoError(t, c.Close())
}

func TestMessagesLargerThanASegmentArriveWhole(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true, Blind: true})
	require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolTCP, 80, echo("web")))
	c, err := w.Dial(t.Context(), "default/client", model.ProtocolTCP, 0, netip.AddrPortFrom(webV6, 80))
	require.NoError(t, err)
	for _, size := range []int{1, 1 << 10, 1 << 20, 3} {
		message := bytes.Repeat([]byte{'x'}, size)
		answer, err := c.Exchange(within(t, patient), message)
		require.NoError(t, err)
		require.Equal(t, append([]byte("web: "), message...), answer)
	}
	require.NoError(t, c.Close())
}

func TestDialEndsInTheLabsWords(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	nobody := netip.MustParseAddr("198.51.100.99") // The node's default route leads to nobody.
	for _, tt := range []struct {
		name  string
		to    netip.AddrPort
		after time.Duration
		want  error
	}{
		{"a closed port of a pod refuses", netip.AddrPortFrom(webV4, 81), patient, lab.ErrRefused},
		{"a closed port of a pod refuses over IPv6", netip.AddrPortFrom(webV6, 81), patient, lab.ErrRefused},
		{"an address of nobody times out", netip.AddrPortFrom(nobody, 80), brief, lab.ErrTimeout},
	} {
		t.Run("tcp: "+tt.name, func(t *testing.T) {
			_, err := w.Dial(within(t, tt.after), "default/client", model.ProtocolTCP, 0, tt.to)
			require.ErrorIs(t, err, tt.want)
		})
		t.Run("udp: "+tt.name, func(t *testing.T) {
			c, err := w.Dial(t.Context(), "default/client", model.ProtocolUDP, 0, tt.to)
			require.NoError(t, err)
			_, err = c.Exchange(within(t, tt.after), []byte("?"))
			require.ErrorIs(t, err, tt.want)
			require.NoError(t, c.Close())
		})
	}
	t.Run("ping: an address of nobody times out", func(t *testing.T) {
		require.ErrorIs(t, w.Ping(within(t, brief), "default/client", nobody), lab.ErrTimeout)
	})
	t.Run("tcp: a connection whose server resets it", func(t *testing.T) {
		require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolTCP, 82, echo("web")))
		c, err := w.Dial(t.Context(), "default/client", model.ProtocolTCP, 0, netip.AddrPortFrom(webV4, 82))
		require.NoError(t, err)
		require.Equal(t, "default/web", c.Server())
		_, _, end := w.meetings.metBy(c.(*conn).caller)
		require.NoError(t, end.conn.SetLinger(0))
		require.NoError(t, end.conn.Close())
		_, err = c.Exchange(within(t, patient), []byte("?"))
		require.ErrorIs(t, err, lab.ErrReset)
		require.NoError(t, c.Close())
	})
	t.Run("a host that is not there is named", func(t *testing.T) {
		_, err := w.Dial(t.Context(), "default/nobody", model.ProtocolTCP, 0, netip.AddrPortFrom(webV4, 80))
		require.ErrorContains(t, err, "no host is named default/nobody")
	})
}

func TestOneFiveTupleIsDialledAgainAtOnce(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolTCP, 80, echo("web")))
	for _, at := range []netip.Addr{webV4, webV6} {
		for range 20 {
			c, err := w.Dial(within(t, patient), "default/client", model.ProtocolTCP, 40000, netip.AddrPortFrom(at, 80))
			require.NoError(t, err)
			require.Equal(t, uint16(40000), c.Local().Port())
			_, err = c.Exchange(within(t, patient), []byte("hello"))
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
	}
}

func TestConversationsAtOnceAreNotMixedUp(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true, Blind: true})
	for _, host := range []string{"default/web", "default/other"} {
		require.NoError(t, w.Listen(t.Context(), host, model.ProtocolTCP, 80, echo(host)))
		require.NoError(t, w.Listen(t.Context(), host, model.ProtocolUDP, 80, echo(host)))
	}
	for n := range 30 {
		host, at := "default/web", webV4
		if n%2 == 1 {
			host, at = "default/other", otherV4
		}
		protocol := []model.Protocol{model.ProtocolTCP, model.ProtocolUDP}[n/2%2]
		t.Run(fmt.Sprintf("%s to %s, %d", protocol, host, n), func(t *testing.T) {
			t.Parallel()
			checkExchange(t, w, "default/client", host, protocol, netip.AddrPortFrom(at, 80))
		})
	}
}

func TestWorldSaysWhatItCannotDo(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true, Blind: true})
	_, err := w.Apply(t.Context(), "", &model.State{})
	require.ErrorIs(t, err, errPlain)
	require.ErrorIs(t, w.Advance(t.Context(), time.Second), errPlain)
	require.ErrorIs(t, w.Collect(t.Context()), errPlain)
	_, err = w.Arrived(t.Context(), "node")
	require.ErrorIs(t, err, errBlind)
	require.ErrorIs(t, w.Send(t.Context(), "node", make([]byte, 60)), errBlind)
	require.Contains(t, w.Enter(), "not kept")
	require.ErrorContains(t, w.Listen(t.Context(), "node", model.ProtocolSCTP, 80, echo("node")), "only tcp and udp")
	require.NoError(t, w.Close())
	require.NoError(t, w.Close(), "closing twice is fine")
	require.Error(t, w.Listen(t.Context(), "node", model.ProtocolTCP, 80, echo("node")))
}

func TestSilentHostsAnswerNothing(t *testing.T) {
	needRoot(t)
	network := topology()
	network.Pods[1].Silent, network.Outside[0].Silent = true, true
	w, err := New(t.Context(), network, Options{Plain: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	for host, addresses := range map[string][]netip.Addr{
		"default/web": {webV4, webV6}, "outside": {outsideV4, outsideV6},
	} {
		for _, a := range addresses {
			require.ErrorIs(t, w.Ping(within(t, 50*time.Millisecond), "default/client", a), lab.ErrTimeout)
			_, err = w.Dial(within(t, 50*time.Millisecond), "default/client", model.ProtocolTCP, 0, netip.AddrPortFrom(a, 80))
			require.ErrorIs(t, err, lab.ErrTimeout)

			from, err := w.byName["default/client"].address(a)
			require.NoError(t, err)
			own, gateway, err := w.MACs("default/client")
			require.NoError(t, err)
			frame := udpFrame(t, own, gateway, netip.AddrPortFrom(from, 1), netip.AddrPortFrom(a, 4001), []byte("hello?"))
			require.NoError(t, w.Send(t.Context(), "default/client", frame))
			await(t, w, host, udpTo(4001))
		}
		_, err = w.Dial(t.Context(), host, model.ProtocolTCP, 0, netip.AddrPortFrom(clientV4, 80))
		require.ErrorContains(t, err, "silent")
	}
}

// A second report of each multicast group would come within a second.
func TestStacksAreQuietSoonAfterNew(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	reports := func() (total int) {
		for _, h := range w.hosts() {
			require.NoError(t, h.ns.run(func() error {
				counters, err := os.ReadFile("/proc/thread-self/net/snmp6")
				for line := range strings.Lines(string(counters)) {
					if fields := strings.Fields(line); fields[0] == "Icmp6OutMsgs" || fields[0] == "Ip6OutRequests" {
						n, err := strconv.Atoi(fields[1])
						require.NoError(t, err)
						total += n
					}
				}
				return err
			}))
		}
		return total
	}
	quiet := func() bool {
		before := reports()
		require.Positive(t, before)
		time.Sleep(1200 * time.Millisecond) // Silence is no event.
		return reports() == before
	}
	// On a machine that is busy "soon" is a matter of seconds.
	for tries := 3; !quiet(); tries-- {
		require.Positive(t, tries)
	}
}

func TestTopologiesThatContradictThemselvesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*lab.Topology)
		want   string
	}{
		{"two hosts with one name", func(n *lab.Topology) { n.Pods[1].Name = n.Pods[0].Name }, "two hosts are named default/client"},
		{"two hosts with one address", func(n *lab.Topology) { n.Outside[0].Addresses = []netip.Addr{webV4} }, "default/web and outside both have 10.0.0.2"},
		{"a pod with two addresses of a family", func(n *lab.Topology) {
			n.Pods[0].Addresses = append(n.Pods[0].Addresses, netip.MustParseAddr("10.0.0.9"))
		}, "default/client has more than 1 address"},
		{"an IPv4-mapped address", func(n *lab.Topology) { n.Pods[0].Addresses = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")} }, "not a plain"},
		{"a pod on a node that is not there", func(n *lab.Topology) { n.Pods[1].Node = "node-9" }, "default/web is on node-9, which is no node"},
		{"a route to a node that is not there", func(n *lab.Topology) { n.Routes = []lab.Route{{To: webV4, Node: "outside"}} }, `10.0.0.2 is routed to "outside", which is no node`},
		{"a route of no address", func(n *lab.Topology) { n.Routes = []lab.Route{{Node: "node"}} }, "a route to node leads to"},
		{"no node", func(n *lab.Topology) { n.Nodes = nil }, "it has no node"},
		{"a host without a name", func(n *lab.Topology) { n.Outside[0].Name = "" }, "has no name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := topology()
			tt.change(&n)
			require.ErrorContains(t, checkTopology(n), tt.want)
		})
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	require.Empty(t, missingCapabilities(^uint64(0)))
	require.Equal(t, []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"}, missingCapabilities(0))
	require.Equal(t, []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}, missingCapabilities(1<<21), "CAP_SYS_ADMIN has those of BPF")
}

func TestKeptWorldsHaveNamesUntilTheyAreClosed(t *testing.T) {
	first := newTestWorld(t, Options{Plain: true, Keep: true})
	second := newTestWorld(t, Options{Plain: true, Keep: true})
	require.NotEqual(t, first.names.prefix, second.names.prefix)
	require.Contains(t, first.Enter(), "ip netns exec "+first.names.prefix+"default-client sh")
	for _, path := range first.names.paths {
		require.FileExists(t, path)
	}
	require.NoError(t, first.Close())
	for _, path := range first.names.paths {
		require.NoFileExists(t, path)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	needRoot(t)
	before := holdings(t)
	for range 3 {
		w, err := New(t.Context(), topology(), Options{Plain: true, Keep: true})
		require.NoError(t, err)
		require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolTCP, 80, echo("web")))
		require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolUDP, 80, echo("web")))
		for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
			c, err := w.Dial(t.Context(), "default/client", protocol, 0, netip.AddrPortFrom(webV6, 80))
			require.NoError(t, err)
			_, err = c.Exchange(t.Context(), []byte("left open"))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
	}
	requireNothingOver(t, before)
}

func requireNothingOver(t *testing.T, before held) {
	t.Helper()
	// Threads end a moment after their goroutines, and tell nobody.
	for deadline := time.Now().Add(patient); len(holdings(t).over(before)) > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	require.Empty(t, holdings(t).over(before))
}

// held is how much a process holds of the machine.
type held map[string]int

// over is what is more than it was.
func (h held) over(before held) []string {
	var more []string
	for what, count := range h {
		if count > before[what] {
			more = append(more, fmt.Sprintf("%s: %d, were %d", what, count, before[what]))
		}
	}
	return more
}

func holdings(t *testing.T) held {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	foreign := 0
	threads, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	for _, thread := range threads {
		at, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net")
		if err == nil && at != own { // An error: it has just ended.
			foreign++
		}
	}
	names, err := filepath.Glob(namesDir + "/weir-*")
	require.NoError(t, err)
	return held{
		"descriptors": len(fds), "goroutines": runtime.NumGoroutine(), "threads in other namespaces": foreign,
		"mounts": strings.Count(string(mounts), "\n"), "named namespaces": len(names),
	}
}

// BenchmarkWorldOfThreePods builds worlds one after another, applies objects
// where there is a datapath, and closes them.
func BenchmarkWorldOfThreePods(b *testing.B) {
	needRoot(b)
	pool := NewPool(1)
	b.Cleanup(func() { require.NoError(b, pool.Close()) })
	for _, bench := range []struct {
		name    string
		build   func(context.Context, lab.Topology, Options) (*World, error)
		options Options
	}{
		{"plain", New, Options{Plain: true}},
		{"with a datapath of its own", New, Options{}},
		{"with one of the pool", pool.New, Options{}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			t := topology()
			t.Outside = t.Outside[:1]
			for b.Loop() {
				w, err := bench.build(b.Context(), t, bench.options)
				require.NoError(b, err)
				if !bench.options.Plain {
					applyObjects(b, w, serviceObjects)
				}
				require.NoError(b, w.Close())
			}
		})
	}
}
