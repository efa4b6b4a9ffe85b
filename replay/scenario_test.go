// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

func scenarioOf(t testing.TB, captures *Captures, o Options, number int) (text string, err error) {
	t.Helper()
	if o.At == "" {
		o.At = model.FromContainer
	}
	ran := WithNetwork(context.Background(), func(n *Network) error {
		var made []byte
		made, err = Scenario(context.Background(), n, captures, o, number)
		text = string(made)
		return nil
	})
	require.NoError(t, ran)
	return text, err
}

// requireRepeats runs a scenario.
func requireRepeats(t *testing.T, text string) {
	t.Helper()
	s, err := scenarios.Parse("packet"+syntax.Suffix, []byte(text))
	require.NoError(t, err, text)
	results, err := (&scenarios.Runner{Parallel: 1}).Run(context.Background(), []*scenarios.Scenario{s})
	require.NoError(t, err, text)
	require.NotEmpty(t, results)
	for _, r := range results {
		require.Equal(t, scenarios.Pass, r.Outcome, "%s\n%s", r.Reason, text)
	}
}

func TestAPacketBecomesAScenarioThatRepeatsIt(t *testing.T) {
	needRoot(t)
	arp := build(t, frame.Layer{Kind: "arp", Fields: []frame.Field{num("op", 1),
		{Name: "spa", Value: frame.Addr(netip.MustParseAddr("10.1.0.1"))}, {Name: "tpa", Value: frame.Addr(netip.MustParseAddr("169.254.1.1"))}}})
	spoofed := tcp(t, "10.1.0.9", "10.1.0.2", 1, 2, syn)
	bad := tcp(t, "10.1.0.1", "10.1.0.2", 3, 4, syn)
	bad[14] = 0x43 // a header length of 12
	captures := captureOf(t,
		sent{0, arp, 0}, // 1
		sent{0, tcp(t, "10.1.0.1", "10.96.0.1", 1000, 80, syn), 0},        // 2
		sent{0.5, tcp(t, "10.1.0.2", "10.1.0.1", 8080, 1000, syn|ack), 0}, // 3
		sent{1, tcp(t, "fd01::1", "fd96::1", 1000, 80, syn), 0},           // 4
		sent{2, udp(t, "10.1.0.1", "192.0.2.1", 5, 53, 100), 0},           // 5
		sent{50, udp(t, "10.1.0.1", "192.0.2.1", 5, 53, 100), 0},          // 6, of a flow that is over
		sent{51, bad, 0},     // 7
		sent{52, spoofed, 0}, // 8
	)
	for name, c := range map[string]struct {
		objects *manifest.Objects
		number  int
		has     []string
	}{
		"a service's reply, with its request":    {objects(t), 3, []string{"dst=web.default", "verdict forward out=local flow=known", "advance 500ms"}},
		"a service over IPv6":                    {objects(t), 4, []string{"families ipv6"}},
		"a packet that policy drops":             {objects(t, closed), 2, []string{"verdict drop reason=policy-ingress", "name: closed"}},
		"a flow that has expired":                {objects(t), 6, []string{"advance 48s", "collect", "dst=internet"}},
		"a malformed header":                     {objects(t), 7, []string{"verdict drop reason=bad-ip-header"}},
		"an answered ARP request":                {objects(t), 1, []string{"verdict reply reason=arp-answered out=self"}},
		"without objects, pods of the addresses": {nil, 3, []string{"send client", "verdict forward out=local flow=new"}},
	} {
		text, err := scenarioOf(t, captures, Options{Objects: c.objects}, c.number)
		require.NoError(t, err, name)
		for _, want := range c.has {
			require.Contains(t, text, want, name)
		}
		requireRepeats(t, text)
	}
}

func TestAPacketAtToContainerBecomesAScenarioThatRepeatsIt(t *testing.T) {
	needRoot(t)
	captures := captureOf(t,
		sent{0, tcp(t, "192.0.2.1", "10.1.0.2", 1000, 8080, syn), 0},
		sent{1, tcp(t, "192.0.2.1", "10.1.0.2", 1000, 8080, ack), 0},
		sent{2, tcp(t, "198.18.0.2", "10.1.0.2", 1000, 8080, syn), 0})
	for number, c := range map[int]struct {
		objects *manifest.Objects
		want    string
	}{
		1: {objects(t, closed), "verdict drop reason=policy-ingress at=to-container"},
		2: {objects(t), "verdict forward out=local flow=known at=to-container"},
		3: {objects(t, closed), "ipv4(src=node dst=web)"},
	} {
		text, err := scenarioOf(t, captures, Options{At: model.ToContainer, Objects: c.objects}, number)
		require.NoError(t, err)
		require.Contains(t, text, c.want)
		requireRepeats(t, text)
	}
}

func TestAScenarioTellsWhatTheVerdictCameFrom(t *testing.T) {
	needRoot(t)
	const rst, fin = 0x04, 0x01
	segment := func(src, dst string, sport, dport, flags, seq, acked int) []byte {
		return build(t, ip(src, dst), frame.Layer{Kind: "tcp", Fields: []frame.Field{
			num("sport", sport), num("dport", dport), num("flags", flags), num("seq", seq), num("ack", acked)}})
	}
	about := func(kind, outer, src, dst string, mtu int) []byte {
		fields := []frame.Field{num("type", 3), num("code", 4), num("mtu", mtu)}
		if kind == "icmpv6" {
			fields = []frame.Field{num("type", 2), num("code", 0), num("mtu", mtu)}
		}
		return build(t, ip(outer, src), frame.Layer{Kind: kind, Fields: fields}, ip(src, dst),
			frame.Layer{Kind: "udp", Fields: []frame.Field{num("sport", 5), num("dport", 53)}})
	}
	told := build(t, frame.Layer{Kind: "arp", Fields: []frame.Field{num("op", 2),
		{Name: "sha", Value: frame.MAC(net.HardwareAddr{2, 0, 0, 0, 9, 9})},
		{Name: "spa", Value: frame.Addr(netip.MustParseAddr("10.1.0.1"))}, {Name: "tpa", Value: frame.Addr(netip.MustParseAddr("10.1.0.2"))}}})
	captures := captureOf(t,
		sent{0, segment("10.1.0.1", "10.1.0.2", 1000, 80, syn, 4000000000, 0), 0},     // 1
		sent{1, segment("10.1.0.2", "10.1.0.1", 80, 1000, syn|ack, 7, 4000000001), 0}, // 2
		sent{2, segment("10.1.0.1", "10.1.0.2", 1000, 80, ack, 4000000001, 8), 0},     // 3
		sent{3, segment("10.1.0.1", "10.1.0.2", 1000, 80, rst, 2000000000, 0), 0},     // 4
		sent{4, segment("10.1.0.1", "10.1.0.2", 1000, 80, fin|ack, 4000000001, 8), 0}, // 5
		sent{5, udp(t, "10.1.0.1", "10.1.0.2", 5, 53, 8), 0},                          // 6
		sent{6, about("icmp", "10.1.0.2", "10.1.0.1", "10.1.0.2", 20), 0},             // 7
		sent{7, about("icmp", "10.1.0.2", "10.1.0.1", "10.1.0.2", 1400), 0},           // 8
		sent{8, udp(t, "fd01::1", "fd01::2", 5, 53, 8), 0},                            // 9
		sent{9, about("icmpv6", "fd01::2", "fd01::1", "fd01::2", 1000), 0},            // 10
		sent{10, about("icmpv6", "fd01::2", "fd01::1", "fd01::2", 1400), 0},           // 11
		sent{11, told, 0}, // 12
	)
	for number, has := range map[int][]string{
		3:  {"flags=A)", "verdict forward out=local flow=known"},
		4:  {"flags=R seq=2000000000)", "verdict drop reason=out-of-window"},
		5:  {"flags=FA seq=4000000001 ack=8)", "verdict forward out=local flow=known"},
		7:  {"udp(sport=5 dport=53)", "mtu=20)", "verdict drop reason=icmp-mtu"},
		8:  {"mtu=1400)", "verdict forward out=local flow=known"},
		10: {"mtu=1000)", "verdict drop reason=icmp-mtu"},
		11: {"mtu=1400)", "verdict forward out=local flow=known"},
		12: {"sha=02:00:00:00:09:09", "verdict drop reason=bad-arp"},
	} {
		text, err := scenarioOf(t, captures, Options{}, number)
		require.NoError(t, err, number)
		for _, want := range has {
			require.Contains(t, text, want, number)
		}
		requireRepeats(t, text)
	}
}

func TestAPacketThatNoScenarioCanHaveIsRefused(t *testing.T) {
	needRoot(t)
	far := "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: there}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: near}\nspec: {nodeName: here}\nstatus: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: far}\nspec: {nodeName: there}\nstatus: {podIP: 10.2.0.1, podIPs: [{ip: 10.2.0.1}]}\n"
	objs, err := manifest.Parse("far.yaml", strings.NewReader(far))
	require.NoError(t, err)
	captures := captureOf(t, sent{0, tcp(t, "10.1.0.1", "10.2.0.1", 1, 2, syn), 0}, sent{0, tcp(t, "192.0.2.1", "10.2.0.1", 1, 2, syn), 0})
	o := Options{Objects: objs, Node: "here"}
	_, err = scenarioOf(t, captures, o, 1)
	require.ErrorIs(t, err, ErrScenario)
	require.ErrorContains(t, err, "a pod of another node")
	_, err = scenarioOf(t, captures, o, 2)
	require.ErrorIs(t, err, ErrNoPacket)
	require.ErrorContains(t, err, noSource)
	_, err = scenarioOf(t, captures, o, 3)
	require.ErrorIs(t, err, ErrNoPacket)
	require.ErrorContains(t, err, "the captures have 2")
}
