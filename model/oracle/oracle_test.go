// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	_ "embed"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// clusterYAML is the cluster of these tests and of the compiler's, which the
// file draws.
//
//go:embed testdata/cluster.yaml
var clusterYAML string

const (
	client = "default/client"
	web0   = "default/web-0"
	web1   = "default/web-1"
)

func podMAC(name string) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 0, name[len(name)-1]}
}

func testLocal() model.Local {
	local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("fd00::fe")}}
	for _, name := range []string{client, web0, web1} {
		local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name, PodMAC: podMAC(name)}
	}
	return local
}

func mustParse(t testing.TB, text string) *manifest.Objects {
	t.Helper()
	objs, err := manifest.Parse("test.yaml", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}

func ref[T any](v T) *T { return &v }

// bench is an oracle and the clock of a test.
type bench struct {
	*testing.T
	oracle *Oracle
	objs   *manifest.Objects
	now    time.Time
}

func newBench(t *testing.T, extra ...string) *bench {
	b := &bench{T: t, oracle: NewOracle("node-a", testLocal()), objs: manifest.NewObjects(), now: time.Unix(1_000_000, 0)}
	b.apply(append([]string{clusterYAML}, extra...)...)
	return b
}

// apply upserts objects, as a cluster would show them from now on.
func (b *bench) apply(texts ...string) {
	b.Helper()
	b.objs = b.objs.Clone()
	for _, text := range texts {
		b.objs.Merge(mustParse(b, text))
	}
	b.oracle.SetObjects(b.objs)
}

func (b *bench) delete(kind, name string) {
	b.Helper()
	b.objs = b.objs.Clone()
	require.NoError(b, b.objs.Delete(kind, "", name))
	b.oracle.SetObjects(b.objs)
}

func (b *bench) from(endpoint string, frame []byte) Expectation {
	return b.oracle.Evaluate(frame, model.Where{Hook: model.FromContainer, Endpoint: endpoint}, b.now)
}

func (b *bench) to(endpoint string, frame []byte) Expectation {
	return b.oracle.Evaluate(frame, model.Where{Hook: model.ToContainer, Endpoint: endpoint}, b.now)
}

// told is what is right where the datapath says what it looked up.
func (b *bench) told(lookup Lookup, hook model.Hook, endpoint string, frame []byte) Expectation {
	return b.oracle.Look(frame, model.Where{Hook: hook, Endpoint: endpoint}, b.now).Judge(lookup)
}

// pass requires that a frame may leave as observed, and lets it.
func (b *bench) pass(e Expectation, observed model.Tuple, out model.Out) {
	b.Helper()
	require.NoError(b, e.Check(Outcome{Action: model.Forward, Tuple: observed, Out: out}), strings.Join(e.Story, "\n"))
	b.oracle.Observe(e, observed, b.now)
}

func requireDrop(t *testing.T, e Expectation, reasons ...model.Reason) {
	t.Helper()
	require.Equal(t, model.Drop, e.Action, e.String())
	require.ElementsMatch(t, reasons, e.Reasons, strings.Join(e.Story, "\n"))
	require.Empty(t, e.Alternatives)
	require.NotEmpty(t, e.Story)
}

func syn(src, dst string, sport, dport uint16) []byte {
	return ip(src, dst, model.ProtocolTCP, tcp(sport, dport, flagSYN))
}

func TestPodsMaySendOnlyAsThemselves(t *testing.T) {
	b := newBench(t)
	request := icmp(8, 0, 1)
	tests := []struct {
		name     string
		src, dst string
		want     []model.Reason
	}{
		{"another pod's address", "10.0.0.2", "10.0.0.3", []model.Reason{model.ReasonSpoofedSource}},
		{"another pod's IPv6 address", "fd00::2", "fd00::3", []model.Reason{model.ReasonSpoofedSource}},
		{"0/8", "0.0.0.1", "10.0.0.2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"loopback", "127.0.0.1", "10.0.0.2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"multicast", "224.0.0.1", "10.0.0.2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"broadcast", "255.255.255.255", "10.0.0.2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"link-local", "169.254.0.1", "10.0.0.2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"::", "::", "fd00::2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"::1", "::1", "fd00::2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"IPv6 multicast", "ff02::1", "fd00::2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"IPv6 link-local", "fe80::1", "fd00::2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"an IPv4 address in IPv6", "::ffff:10.0.0.1", "fd00::2", []model.Reason{model.ReasonSpoofedSource, model.ReasonMartianSource}},
		{"to itself", "10.0.0.1", "10.0.0.1", []model.Reason{model.ReasonSameAddress}},
		{"to 0/8", "10.0.0.1", "0.1.2.3", []model.Reason{model.ReasonMartianDestination}},
		{"to loopback", "10.0.0.1", "127.0.0.1", []model.Reason{model.ReasonMartianDestination}},
		{"to multicast", "10.0.0.1", "224.0.0.251", []model.Reason{model.ReasonMartianDestination}},
		{"to 240/4", "10.0.0.1", "240.0.0.1", []model.Reason{model.ReasonMartianDestination}},
		{"to broadcast", "10.0.0.1", "255.255.255.255", []model.Reason{model.ReasonMartianDestination}},
		{"to ::1", "fd00::1", "::1", []model.Reason{model.ReasonMartianDestination}},
		{"to IPv6 link-local", "fd00::1", "fe80::1", []model.Reason{model.ReasonMartianDestination}},
		{"to IPv6 multicast", "fd00::1", "ff02::1", []model.Reason{model.ReasonMartianDestination}},
		{"to an IPv4 address in IPv6", "fd00::1", "::ffff:10.0.0.2", []model.Reason{model.ReasonMartianDestination}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			payload, protocol := request, model.ProtocolICMP
			if strings.Contains(tt.src, ":") {
				payload, protocol = icmp(128, 0, 1), model.ProtocolICMPv6
			}
			requireDrop(t, b.from(client, ip(tt.src, tt.dst, protocol, payload)), tt.want...)
		})
	}
}

func TestPacketsOfPodsLeaveWhereTheyBelong(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name, src, dst string
		out            model.Out
		endpoint       string
		hops           int
	}{
		{"to a pod of the node", "10.0.0.1", "10.0.0.2", model.OutLocal, web0, 1},
		{"to a pod of the node by IPv6", "fd00::1", "fd00::2", model.OutLocal, web0, 1},
		{"to the node", "10.0.0.1", "172.18.0.2", model.OutHost, "", 0},
		{"to the gateway", "10.0.0.1", "10.0.0.254", model.OutHost, "", 0},
		{"to a pod of another node", "10.0.0.1", "10.0.1.1", model.OutDevice, "", 1},
		{"to another node", "fd00::1", "fd18::3", model.OutDevice, "", 1},
		{"to the world", "fd00::1", "2001:db8::1", model.OutDevice, "", 1},
		{"to an IPv4 link-local address, as of a metadata service", "10.0.0.1", "169.254.169.254", model.OutDevice, "", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := b.from(client, syn(tt.src, tt.dst, 40000, 80))
			require.Equal(t, model.Forward, e.Action, e)
			require.Len(t, e.Translations, 1)
			got := e.Translations[0]
			require.Equal(t, tuple(model.ProtocolTCP, tt.src, 40000, tt.dst, 80), got.Tuple)
			require.Equal(t, e.Tuple, got.Tuple)
			require.Equal(t, []any{tt.out, tt.endpoint, tt.hops}, []any{got.Out, got.Endpoint, got.Hops})
		})
	}
}

func TestHopsAreNeededWhereThisNodeRoutes(t *testing.T) {
	b := newBench(t)
	spent := func(frame []byte) []byte { return with(frame, 14+8, 1) }
	requireDrop(t, b.from(client, spent(syn("10.0.0.1", "10.0.0.2", 1, 2))), model.ReasonTTLExceeded)
	requireDrop(t, b.from(client, spent(syn("10.0.0.1", "192.0.2.1", 1, 2))), model.ReasonTTLExceeded)
	requireDrop(t, b.from(client, with(syn("fd00::1", "fd00::2", 1, 2), 14+7, 0)), model.ReasonTTLExceeded)
	require.Equal(t, model.Forward, b.from(client, spent(syn("10.0.0.1", "172.18.0.2", 1, 2))).Action)
	require.Equal(t, model.Forward, b.to(client, with(syn("192.0.2.1", "10.0.0.1", 1, 2), 14+8, 0)).Action)
}

func TestNobodyIsServedWithoutAnEndpoint(t *testing.T) {
	b := newBench(t)
	requireDrop(t, b.from("default/ghost", syn("10.0.0.9", "10.0.0.1", 1, 2)), model.ReasonNoEndpoint)
	requireDrop(t, b.from("default/far", syn("10.0.1.1", "10.0.0.1", 1, 2)), model.ReasonNoEndpoint)
	require.Equal(t, model.Forward, b.to("default/ghost", arp(1, podMAC(client), "10.0.0.254", "10.0.0.9")).Action, "ARP to a pod always passes")
	requireDrop(t, b.from("default/ghost", []byte{1}), model.ReasonNoEndpoint, model.ReasonTruncated)
}

func TestARPOfPodsIsForTheGatewayAndAboutThemselves(t *testing.T) {
	b := newBench(t)
	mac := podMAC(client)
	question := arp(1, mac, "10.0.0.1", "10.0.0.254")
	requireReply(t, b.from(client, question), model.ReasonARPAnswered)
	require.Equal(t, model.OutHost, b.from(client, arp(2, mac, "10.0.0.1", "10.0.0.254")).Translations[0].Out)

	for name, frame := range map[string][]byte{
		"a question for another pod":         arp(1, mac, "10.0.0.1", "10.0.0.2"),
		"a question of another":              arp(1, mac, "10.0.0.2", "10.0.0.254"),
		"a probe":                            arp(1, mac, "0.0.0.0", "10.0.0.254"),
		"an announcement":                    arp(1, mac, "10.0.0.1", "10.0.0.1"),
		"an answer in the name of another":   arp(2, mac, "10.0.0.2", "10.0.0.254"),
		"an answer with another's MAC":       arp(2, podMAC(web0), "10.0.0.1", "10.0.0.254"),
		"an unknown operation":               arp(3, mac, "10.0.0.1", "10.0.0.254"),
		"hardware other than Ethernet":       with(question, 14, 0, 6),
		"a protocol other than IPv4":         with(question, 16, 8, 6),
		"hardware addresses of another size": with(question, 18, 8),
		"protocol addresses of another size": with(question, 19, 16),
		"a packet that is cut off":           question[:41],
	} {
		t.Run(name, func(t *testing.T) {
			e := b.from(client, frame)
			require.Equal(t, model.Drop, e.Action)
			require.Contains(t, e.Reasons, model.ReasonBadARP)
			require.Equal(t, model.Forward, b.to(client, frame).Action, "what comes from the node passes")
		})
	}
}

func requireReply(t *testing.T, e Expectation, reason model.Reason) {
	t.Helper()
	require.Equal(t, model.Reply, e.Action, e.String())
	require.Equal(t, []model.Reason{reason}, e.Reasons)
}

func TestNeighbourDiscoveryOfPodsIsForTheGatewayAndAboutThemselves(t *testing.T) {
	b := newBench(t)
	nd := func(src string, kind, code uint8, target string) []byte {
		return with(ip(src, "ff02::1:ff00:fe", model.ProtocolICMPv6, neighbour(kind, code, target)), 14+7, 255)
	}
	question := nd("fd00::1", 135, 0, "fd00::fe")
	requireReply(t, b.from(client, question), model.ReasonNDPAnswered)
	requireReply(t, b.from(client, nd("fe80::1", 135, 0, "fd00::fe")), model.ReasonNDPAnswered)
	require.Equal(t, model.OutHost, b.from(client, nd("fd00::1", 136, 0, "fd00::1")).Translations[0].Out)

	tests := []struct {
		name       string
		frame      []byte
		toThePodOK bool
	}{
		{"a hop limit that a router took from", with(question, 14+7, 254), false},
		{"a code", nd("fd00::1", 135, 1, "fd00::fe"), false},
		{"a question for another", nd("fd00::1", 135, 0, "fd00::2"), true},
		{"a question of another", nd("fd00::2", 135, 0, "fd00::fe"), true},
		{"a question of nobody", nd("::", 135, 0, "fd00::fe"), true},
		{"an advertisement for another", nd("fd00::1", 136, 0, "fd00::2"), true},
		{"an advertisement by another", nd("fd00::2", 136, 0, "fd00::1"), true},
		{"a router's advertisement", nd("fe80::1", 134, 0, "fd00::1"), false},
		{"a router solicitation", nd("fe80::1", 133, 0, "fd00::1"), false},
		{"a redirect", nd("fe80::1", 137, 0, "fd00::1"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := b.from(client, tt.frame)
			require.Equal(t, model.Drop, e.Action)
			require.Contains(t, e.Reasons, model.ReasonBadNDP)
			if tt.toThePodOK {
				require.Equal(t, model.Forward, b.to(client, tt.frame).Action)
			} else {
				requireDrop(t, b.to(client, tt.frame), model.ReasonBadNDP)
			}
		})
	}
	cut := with(ip("fd00::1", "ff02::1", model.ProtocolICMPv6, icmp(135, 0, 0)), 14+7, 255)
	requireDrop(t, b.from(client, cut), model.ReasonBadNDP, model.ReasonTruncated)
	requireDrop(t, b.to(client, cut), model.ReasonTruncated)
}

func TestWhatComesToAPodIsForItAndNotOfItsNeighbours(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name, src, dst string
		want           []model.Reason
	}{
		{"for another pod", "192.0.2.1", "10.0.0.2", []model.Reason{model.ReasonNotForEndpoint}},
		{"for another family's nobody", "2001:db8::1", "fd00::2", []model.Reason{model.ReasonNotForEndpoint}},
		{"of a pod of this node", "10.0.0.2", "10.0.0.1", []model.Reason{model.ReasonSpoofedSource}},
		{"of itself", "10.0.0.1", "10.0.0.1", []model.Reason{model.ReasonSpoofedSource, model.ReasonSameAddress}},
		{"of loopback", "127.0.0.1", "10.0.0.1", []model.Reason{model.ReasonMartianSource}},
		{"of link-local", "fe80::9", "fd00::1", []model.Reason{model.ReasonMartianSource}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			requireDrop(t, b.to(client, syn(tt.src, tt.dst, 1, 2)), tt.want...)
		})
	}
	for _, src := range []string{"192.0.2.1", "172.18.0.2", "172.18.0.3", "10.0.1.1", "10.0.0.254"} {
		e := b.to(client, syn(src, "10.0.0.1", 1, 2))
		require.Equal(t, model.Forward, e.Action, src)
		require.Equal(t, Translation{Tuple: tuple(model.ProtocolTCP, src, 1, "10.0.0.1", 2), Out: model.OutLocal, Endpoint: client}, bare(e.Translations[0]))
	}
}

// bare is a translation without what the oracle keeps for itself.
func bare(t Translation) Translation {
	return Translation{Tuple: t.Tuple, AnySport: t.AnySport, Out: t.Out, Endpoint: t.Endpoint, Hops: t.Hops}
}

func TestServicesLeadToTheirBackendsAndAnswerFromTheirAddress(t *testing.T) {
	for _, family := range []struct{ client, svc, web0, web1 string }{
		{"10.0.0.1", "10.96.0.10", "10.0.0.2", "10.0.0.3"},
		{"fd00::1", "fd96::10", "fd00::2", "fd00::3"},
	} {
		t.Run(family.client, func(t *testing.T) {
			b := newBench(t)
			first := syn(family.client, family.svc, 40000, 80)
			e := b.from(client, first)
			require.Len(t, e.Translations, 2, "any backend may be chosen")
			chosen := tuple(model.ProtocolTCP, family.client, 40000, family.web1, 8080)
			b.pass(e, chosen, model.OutLocal)

			again := b.from(client, first)
			require.Len(t, again.Translations, 1, "a known flow keeps its backend")
			b.pass(again, chosen, model.OutLocal)

			answer := b.from(web1, ip(family.web1, family.client, model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK)))
			b.pass(answer, tuple(model.ProtocolTCP, family.svc, 80, family.client, 40000), model.OutLocal)
			require.Equal(t, client, answer.Translations[0].Endpoint)

			direct := b.from(web0, ip(family.web0, family.client, model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK)))
			require.Equal(t, tuple(model.ProtocolTCP, family.web0, 8080, family.client, 40000), direct.Translations[0].Tuple, "who was not chosen has nothing to answer")
		})
	}
}

func TestServicesWithNobodyRefuse(t *testing.T) {
	b := newBench(t)
	requireReply(t, b.from(client, syn("10.0.0.1", "10.96.0.11", 1, 80)), model.ReasonNoBackend)
	requireReply(t, b.from(client, ip("fd00::1", "fd96::11", model.ProtocolUDP, udp(1, 53, 3))), model.ReasonNoBackend)
	require.Empty(t, b.from(client, syn("10.0.0.1", "10.96.0.11", 1, 80)).Alternatives)

	extended := b.from(client, ip("fd00::1", "fd96::11", 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(1, 53, 3)...)))
	require.NoError(t, extended.Check(Outcome{Action: model.Reply, Reason: model.ReasonNoBackend}))
	require.NoError(t, extended.Check(Outcome{Action: model.Drop, Reason: model.ReasonNoBackend}), "what cannot be quoted may be dropped")
	require.ErrorIs(t, extended.Check(Outcome{Action: model.Forward}), ErrUnexpected)

	requireDrop(t, b.from(client, ip("10.0.0.1", "10.96.0.11", model.ProtocolTCP, tcp(1, 80, flagRST))), model.ReasonNoBackend)
	requireDrop(t, b.from(client, syn("10.0.0.2", "10.96.0.11", 1, 80)), model.ReasonSpoofedSource)
	requireReply(t, b.from(client, syn("10.0.0.1", "10.96.0.11", 1, 81)), model.ReasonNoFrontend)
}

func TestAPodReachesItselfThroughItsService(t *testing.T) {
	b := newBench(t)
	b.delete("pod", "web-1")
	first := syn("10.0.0.2", "10.96.0.10", 40000, 80)
	e := b.from(web0, first)
	kept := tuple(model.ProtocolTCP, "172.18.0.2", 40000, "10.0.0.2", 8080)
	require.Equal(t, []Translation{{Tuple: kept, Out: model.OutLocal, Endpoint: web0, Hops: 1}}, []Translation{bare(e.Translations[0])})
	b.pass(e, kept, model.OutLocal)
	answer := b.from(web0, ip("10.0.0.2", "172.18.0.2", model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK)))
	b.pass(answer, tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.2", 40000), model.OutLocal)

	b.apply(strings.ReplaceAll(strings.ReplaceAll(serviceYAML, "NAME", "other"), "ADDRESS", "10.96.0.12"))
	e = b.from(web0, syn("10.0.0.2", "10.96.0.12", 40000, 80))
	require.True(t, e.Translations[0].AnySport, "the first flow holds port 40000")
	b.pass(e, tuple(model.ProtocolTCP, "172.18.0.2", 51234, "10.0.0.2", 8080), model.OutLocal)
	answer = b.from(web0, ip("10.0.0.2", "172.18.0.2", model.ProtocolTCP, tcp(8080, 51234, flagSYN|flagACK)))
	b.pass(answer, tuple(model.ProtocolTCP, "10.96.0.12", 80, "10.0.0.2", 40000), model.OutLocal)
}

const serviceYAML = `
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {clusterIP: ADDRESS, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

func TestAPodNeverBlocksItself(t *testing.T) {
	b := newBench(t, denyIngress("web"), denyEgress("web"))
	b.delete("pod", "web-1")
	first := syn("10.0.0.2", "10.96.0.10", 40000, 80)
	through := tuple(model.ProtocolTCP, "172.18.0.2", 40000, "10.0.0.2", 8080)
	b.pass(b.from(web0, first), through, model.OutLocal)
	b.apply() // the same policies, asked again
	b.pass(b.from(web0, first), through, model.OutLocal)
	b.apply()
	b.pass(b.from(web0, ip("10.0.0.2", "172.18.0.2", model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK))), tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.2", 40000), model.OutLocal)
}

func TestAHairpinNeedsAnAddressOfTheNode(t *testing.T) {
	b := newBench(t, "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n")
	b.delete("pod", "web-1")
	requireDrop(t, b.from(web0, syn("fd00::2", "fd96::10", 40000, 80)), model.ReasonNoSourcePort)
	require.Equal(t, model.Forward, b.from(web0, syn("10.0.0.2", "10.96.0.10", 40000, 80)).Action)
}

func denyIngress(to string) string {
	return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-` + to + `}
spec: {podSelector: {matchLabels: {app: ` + to + `}}, policyTypes: [Ingress]}
`
}

func denyEgress(from string) string {
	return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lock-` + from + `}
spec: {podSelector: {matchLabels: {app: ` + from + `}}, policyTypes: [Egress]}
`
}

func TestPolicyIsAskedOnBothSides(t *testing.T) {
	b := newBench(t, denyIngress("web"), denyEgress("client"))
	requireDrop(t, b.from(client, syn("10.0.0.1", "10.0.0.2", 1, 8080)), model.ReasonPolicyEgress) // the sender's are asked first
	requireDrop(t, b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80)), model.ReasonPolicyEgress) // the sender's are asked first
	requireDrop(t, b.from(client, syn("10.0.0.1", "172.18.0.2", 1, 80)), model.ReasonPolicyEgress)
	requireDrop(t, b.from(client, syn("10.0.0.1", "192.0.2.1", 1, 80)), model.ReasonPolicyEgress)
	requireDrop(t, b.to(web0, syn("192.0.2.1", "10.0.0.2", 1, 80)), model.ReasonPolicyIngress)
	requireDrop(t, b.to(web0, syn("10.0.1.1", "10.0.0.2", 1, 80)), model.ReasonPolicyIngress)
	require.Equal(t, model.Forward, b.to(web0, syn("172.18.0.2", "10.0.0.2", 1, 80)).Action, "the pod's own node is let in")
	requireDrop(t, b.to(web0, syn("172.18.0.3", "10.0.0.2", 1, 80)), model.ReasonPolicyIngress)
	require.Equal(t, model.Forward, b.from(web0, syn("10.0.0.2", "10.0.0.1", 1, 80)).Action)

	story := strings.Join(b.from(client, syn("10.0.0.1", "10.0.0.2", 1, 8080)).Story, "\n")
	require.Contains(t, story, "egress of Pod default/client to Pod default/web-0 is denied: NetworkPolicy/default/lock-client selects the pod, and no rule matches")
	require.Contains(t, story, "ingress of Pod default/web-0 from Pod default/client is denied: NetworkPolicy/default/deny-web selects the pod, and no rule matches")
}

func TestABackendThatPolicyForbidsIsADropOnlyWhenChosen(t *testing.T) {
	b := newBench(t, `
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web, closed: "yes"}}
spec: {nodeName: node-a}
status: {podIPs: [{ip: 10.0.0.3}, {ip: "fd00::3"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {closed: "yes"}}}
`)
	e := b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyIngress}))
	require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.3", 8080)}))
	require.Error(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyEgress}))
}

func TestRepliesPassWhateverPolicySays(t *testing.T) {
	b := newBench(t, denyIngress("client"))
	first := tuple(model.ProtocolTCP, "10.0.0.1", 1, "192.0.2.1", 443)
	b.pass(b.from(client, syn("10.0.0.1", "192.0.2.1", 1, 443)), first, model.OutDevice)
	b.pass(b.to(client, ip("192.0.2.1", "10.0.0.1", model.ProtocolTCP, tcp(443, 1, flagSYN|flagACK))), first.Reversed(), model.OutLocal)
	requireDrop(t, b.to(client, ip("192.0.2.1", "10.0.0.1", model.ProtocolTCP, tcp(443, 2, flagSYN|flagACK))), model.ReasonPolicyIngress)

	fromOutside := tuple(model.ProtocolUDP, "192.0.2.1", 5, "10.0.0.2", 53)
	b.apply(denyEgress("web"))
	b.pass(b.to(web0, ip("192.0.2.1", "10.0.0.2", model.ProtocolUDP, udp(5, 53, 0))), fromOutside, model.OutLocal)
	b.pass(b.from(web0, ip("10.0.0.2", "192.0.2.1", model.ProtocolUDP, udp(53, 5, 0))), fromOutside.Reversed(), model.OutDevice)

	fromNode := tuple(model.ProtocolUDP, "172.18.0.2", 5, "10.0.0.2", 53)
	b.pass(b.to(web0, ip("172.18.0.2", "10.0.0.2", model.ProtocolUDP, udp(5, 53, 0))), fromNode, model.OutLocal)
	b.pass(b.from(web0, ip("10.0.0.2", "172.18.0.2", model.ProtocolUDP, udp(53, 5, 0))), fromNode.Reversed(), model.OutHost)
}

func TestAPolicyThatComesStopsKnownFlowsInBothDirections(t *testing.T) {
	b := newBench(t)
	first := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
	answer := ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, 1, flagSYN|flagACK))
	b.pass(b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80)), first, model.OutLocal)

	b.apply(denyIngress("web"))
	requireDrop(t, b.from(web0, answer), model.ReasonPolicyIngress)
	requireDrop(t, b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80)), model.ReasonPolicyIngress)

	b.delete("netpol", "deny-web")
	e := b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80))
	require.Len(t, e.Translations, 1, "the flow was there all the time, and keeps its backend")
	b.pass(e, first, model.OutLocal)
	b.pass(b.from(web0, answer), tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.1", 1), model.OutLocal)
}

func terminating(name, address string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, labels: {app: web}, deletionTimestamp: "2030-01-01T00:00:00Z"}
spec: {nodeName: node-a}
status: {podIPs: [{ip: ` + address + `}]}
`
}

func TestTerminatingBackendsKeepTheirFlowsAndGetNoNewOnes(t *testing.T) {
	b := newBench(t)
	on0 := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
	b.pass(b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80)), on0, model.OutLocal)
	b.apply(terminating("web-0", "10.0.0.2"))
	known := b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80))
	require.Len(t, known.Translations, 1)
	b.pass(known, on0, model.OutLocal)
	fresh := b.from(client, syn("10.0.0.1", "10.96.0.10", 2, 80))
	require.Len(t, fresh.Translations, 1)
	require.Equal(t, netip.MustParseAddr("10.0.0.3"), fresh.Translations[0].Tuple.Dst)

	b.delete("pod", "web-0")
	gone := b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80))
	require.Len(t, gone.Translations, 1)
	require.Equal(t, netip.MustParseAddr("10.0.0.3"), gone.Translations[0].Tuple.Dst, "whose backend is gone gets another")

	b.apply(terminating("web-1", "10.0.0.3"))
	last := b.from(client, syn("10.0.0.1", "10.96.0.10", 3, 80))
	require.Len(t, last.Translations, 1, "where nobody else is left, those that end serve on")
}

func TestASynAfterTheEndIsANewConnection(t *testing.T) {
	for name, end := range map[string]tcpFlags{"FIN": flagFIN | flagACK, "RST": flagRST} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			first := syn("10.0.0.1", "10.96.0.10", 1, 80)
			on0 := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
			b.pass(b.from(client, first), on0, model.OutLocal)
			require.Len(t, b.from(client, first).Translations, 1)
			b.pass(b.from(web0, ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, 1, end))), tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.1", 1), model.OutLocal)
			require.Len(t, b.from(client, first).Translations, 2, "a fresh choice")
			require.Len(t, b.from(client, ip("10.0.0.1", "10.96.0.10", model.ProtocolTCP, tcp(1, 80, flagACK))).Translations, 1, "the last ACKs belong to the old one")
		})
	}
}

func TestTheOldFlowOfAReusedTupleAnswersOnlyWhereItMay(t *testing.T) {
	reopen := func(t *testing.T, to string) *bench {
		b := newBench(t, denyEgress("web"))
		opened := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
		b.pass(b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80)), opened, model.OutLocal)
		b.pass(b.from(client, ip("10.0.0.1", "10.96.0.10", model.ProtocolTCP, tcp(1, 80, flagRST))), opened, model.OutLocal)
		b.pass(b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80)), tuple(model.ProtocolTCP, "10.0.0.1", 1, to, 8080), model.OutLocal)
		return b
	}
	answer := ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, 1, flagACK))

	b := reopen(t, "10.0.0.2")
	require.Len(t, b.from(web0, answer).Translations, 1, "one backend, one flow")

	b = reopen(t, "10.0.0.3")
	late := b.from(web0, answer)
	require.NoError(t, late.Check(Outcome{Action: model.Forward}), "the old backend's entry may still be there")
	require.NoError(t, late.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyEgress}), "or not")
}

func TestAResetOfNothingIsJudgedAndForgotten(t *testing.T) {
	b := newBench(t, denyIngress("client"))
	reset := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 80)
	b.pass(b.from(client, ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(1, 80, flagRST))), reset, model.OutLocal)
	requireDrop(t, b.from(web0, ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(80, 1, flagACK))), model.ReasonPolicyIngress)
}

func TestPingsAreAnsweredByThosePinged(t *testing.T) {
	b := newBench(t, denyIngress("client"))
	pong := ip("10.0.0.2", "10.0.0.1", model.ProtocolICMP, icmp(0, 0, 7))
	requireDrop(t, b.from(web0, pong), model.ReasonICMPNoFlow)
	ping := tuple(model.ProtocolICMP, "10.0.0.1", 7, "10.0.0.2", 0)
	b.pass(b.from(client, ip("10.0.0.1", "10.0.0.2", model.ProtocolICMP, icmp(8, 0, 7))), ping, model.OutLocal)
	b.pass(b.from(web0, pong), ping.Reversed(), model.OutLocal)
	requireDrop(t, b.from(web0, ip("10.0.0.2", "10.0.0.1", model.ProtocolICMP, icmp(0, 0, 8))), model.ReasonICMPNoFlow)
}

func TestUnansweredFlowsEndByThemselves(t *testing.T) {
	tests := []struct {
		name     string
		protocol model.Protocol
		payload  []byte
		idle     time.Duration
	}{
		{"TCP", model.ProtocolTCP, tcp(1, 80, flagSYN), 60 * time.Second},
		{"UDP", model.ProtocolUDP, udp(1, 80, 0), 30 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.ReplaceAll(serviceYAML, "port: 80,", "port: 80, protocol: "+tt.name+",")
			text = strings.ReplaceAll(strings.ReplaceAll(text, "NAME", "timed"), "ADDRESS", "10.96.0.20")
			b := newBench(t, text)
			frame := ip("10.0.0.1", "10.96.0.20", tt.protocol, tt.payload)
			on0 := tuple(tt.protocol, "10.0.0.1", 1, "10.0.0.2", 8080)
			b.pass(b.from(client, frame), on0, model.OutLocal)
			b.now = b.now.Add(tt.idle - 3*time.Second)
			require.Len(t, b.from(client, frame).Translations, 1)
			b.now = b.now.Add(3 * time.Second)
			require.Greater(t, len(b.from(client, frame).Translations), 1, "at the very end it may be there or not")
			b.now = b.now.Add(2 * time.Second)
			e := b.from(client, frame)
			require.Len(t, e.Translations, 2)
			require.False(t, e.Translations[0].known || e.Translations[1].known)
		})
	}
}

func TestAnsweredFlowsEndByTheCollector(t *testing.T) {
	b := newBench(t, denyEgress("web"))
	opening := ip("10.0.0.1", "10.0.0.2", model.ProtocolUDP, udp(1, 53, 0))
	answer := ip("10.0.0.2", "10.0.0.1", model.ProtocolUDP, udp(53, 1, 0))
	flow := tuple(model.ProtocolUDP, "10.0.0.1", 1, "10.0.0.2", 53)
	b.pass(b.from(client, opening), flow, model.OutLocal)
	b.pass(b.from(web0, answer), flow.Reversed(), model.OutLocal)

	b.now = b.now.Add(170 * time.Second)
	b.oracle.Collect(b.now)
	require.Empty(t, b.from(web0, answer).Alternatives, "its time is not over")

	b.now = b.now.Add(20 * time.Second)
	late := b.from(web0, answer)
	require.NoError(t, late.Check(Outcome{Action: model.Forward, Tuple: flow.Reversed()}), "nobody has collected it, maybe")
	require.NoError(t, late.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyEgress}), "or somebody has")

	b.oracle.Collect(b.now)
	requireDrop(t, b.from(web0, answer), model.ReasonPolicyEgress)
}

func TestAFlowThatMayHaveBeenMadeAnewEndsAtEitherTime(t *testing.T) {
	b := newBench(t)
	opening := ip("10.0.0.1", "10.0.0.2", model.ProtocolUDP, udp(1, 53, 0))
	flow := tuple(model.ProtocolUDP, "10.0.0.1", 1, "10.0.0.2", 53)
	b.pass(b.from(client, opening), flow, model.OutLocal)
	b.pass(b.from(web0, ip("10.0.0.2", "10.0.0.1", model.ProtocolUDP, udp(53, 1, 0))), flow.Reversed(), model.OutLocal)

	b.now = b.now.Add(200 * time.Second)
	b.pass(b.from(client, opening), flow, model.OutLocal) // collected meanwhile, or not
	b.now = b.now.Add(60 * time.Second)
	e := b.from(client, opening)
	require.Len(t, e.Translations, 2, "a new one would have ended, the old one not")
	require.NotEqual(t, e.Translations[0].known, e.Translations[1].known)
}

func TestRoutesAreTheKernels(t *testing.T) {
	local := testLocal()
	local.Routes = []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}
	b := newBench(t)
	b.oracle.SetNetwork(b.objs, local)
	requireDrop(t, b.from(client, syn("10.0.0.1", "192.0.2.1", 1, 80)), model.ReasonNoRoute)
	require.Equal(t, model.Forward, b.from(client, syn("10.0.0.1", "172.18.9.9", 1, 80)).Action)
	require.Equal(t, model.Forward, b.from(client, syn("10.0.0.1", "10.0.0.2", 1, 80)).Action)

	b.oracle.RoutesUnknown = true
	e := b.from(client, syn("10.0.0.1", "172.18.9.9", 1, 80))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Out: model.OutDevice}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonNoRoute}))
}

func TestOfTwoFlowsWhoseAnswersWouldBeAlikeTheSecondHasAnotherPort(t *testing.T) {
	b := newBench(t)
	direct := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
	b.pass(b.from(client, syn("10.0.0.1", "10.0.0.2", 1, 8080)), direct, model.OutLocal)
	second := b.from(client, syn("10.0.0.1", "10.96.0.10", 1, 80))
	require.Error(t, second.Check(Outcome{Action: model.Forward, Tuple: direct}))
	other := tuple(model.ProtocolTCP, "10.0.0.1", 40000, "10.0.0.2", 8080)
	b.pass(second, other, model.OutLocal)
	answers := func(to uint16) Expectation {
		return b.from(web0, ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, to, flagSYN|flagACK)))
	}
	b.pass(answers(1), direct.Reversed(), model.OutLocal)
	b.pass(answers(40000), tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.1", 1), model.OutLocal)
}

func TestAnUnexpectedOutcomeNamesBothSides(t *testing.T) {
	b := newBench(t)
	e := b.from(client, syn("10.0.0.1", "10.0.0.2", 1, 80))
	require.EqualError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyEgress}),
		"not what should happen: drop (policy-egress); expected forward tcp 10.0.0.1:1 -> 10.0.0.2:80 out local default/web-0")
}

func TestExplainNamesPolicyAndRule(t *testing.T) {
	objs := mustParse(t, clusterYAML+`
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: far}}}]
  - from: [{podSelector: {matchLabels: {app: client}}}, {ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]
    ports: [{port: 8000, endPort: 8080}]
`)
	tests := []struct {
		from, to string
		port     uint16
		allowed  bool
		origin   model.Origin
	}{
		{client, web0, 8080, true, model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Rule: 1}},
		{client, web0, 8081, false, model.Origin{}},
		{"default/far", web0, 1, true, model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Rule: 0}},
		{web1, web0, 8080, false, model.Origin{}},
		{"192.0.2.1", web0, 8080, true, model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Rule: 1}},
		{"192.0.2.200", web0, 8080, false, model.Origin{}},
		{"node-b", web0, 8080, false, model.Origin{}},
		{web0, client, 9, true, model.Origin{}},
	}
	for _, tt := range tests {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			d, err := Explain(objs, tt.from, tt.to, tt.port, model.ProtocolTCP)
			require.NoError(t, err)
			require.Equal(t, tt.allowed, d.Allowed, d.Story())
			require.Equal(t, tt.origin, d.Rulings[len(d.Rulings)-1].Origin)
		})
	}
	d, err := Explain(objs, "node-a", web0, 1, model.ProtocolTCP)
	require.NoError(t, err)
	require.True(t, d.Allowed, "the pod's own node is let in")
	d, err = Explain(objs, web0, web0, 1, model.ProtocolTCP)
	require.NoError(t, err)
	require.True(t, d.Allowed, "a pod never blocks itself")
	_, err = Explain(objs, "default/ghost", web0, 1, model.ProtocolTCP)
	require.ErrorIs(t, err, manifest.ErrNotFound)
}
