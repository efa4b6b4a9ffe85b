// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes a network namespace and loads BPF programs")
	}
}

var begin = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// sent is a packet of a test's capture, after as many seconds.
type sent struct {
	after  float64
	frame  []byte
	length int // on the wire; 0: all is captured
}

// captureOf writes a capture of Ethernet frames.
func captureOf(t testing.TB, packets ...sent) *Captures {
	t.Helper()
	var out bytes.Buffer
	w, err := pcap.NewWriter(&out)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	for _, p := range packets {
		at := begin.Add(time.Duration(p.after * float64(time.Second)))
		require.NoError(t, w.Write(pcap.Packet{Interface: n, Time: at, Data: p.frame, Length: p.length}))
	}
	return fileOf(t, out.Bytes())
}

func fileOf(t testing.TB, data []byte) *Captures {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.pcapng")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return &Captures{Paths: []string{path}}
}

func num(name string, n int) frame.Field { return frame.Field{Name: name, Value: frame.Num(n)} }

func build(t testing.TB, layers ...frame.Layer) []byte {
	t.Helper()
	eth := frame.Layer{Kind: "eth", Fields: []frame.Field{
		{Name: "src", Value: frame.MAC(net.HardwareAddr{2, 0, 0, 0, 0, 1})}, {Name: "dst", Value: frame.MAC(net.HardwareAddr{2, 0, 0, 0, 0, 2})}}}
	b, err := frame.Build(append([]frame.Layer{eth}, layers...)...)
	require.NoError(t, err)
	return b
}

func ip(src, dst string) frame.Layer {
	a := netip.MustParseAddr(src)
	l := frame.Layer{Kind: "ipv4", Fields: []frame.Field{{Name: "src", Value: frame.Addr(a)}, {Name: "dst", Value: frame.Addr(netip.MustParseAddr(dst))}}}
	if a.Is6() {
		l.Kind = "ipv6"
	}
	return l
}

func tcp(t testing.TB, src, dst string, sport, dport, flags int) []byte {
	t.Helper()
	return build(t, ip(src, dst), frame.Layer{Kind: "tcp", Fields: []frame.Field{num("sport", sport), num("dport", dport), num("flags", flags)}})
}

func udp(t testing.TB, src, dst string, sport, dport int, size int) []byte {
	t.Helper()
	return build(t, ip(src, dst), frame.Layer{Kind: "udp", Fields: []frame.Field{num("sport", sport), num("dport", dport)}},
		frame.Layer{Kind: "payload", Fields: []frame.Field{num("size", size)}})
}

const (
	syn, ack = 0x02, 0x10
)

// replayed replays captures and gives the outcomes, without what is good only
// until the next one, and the run's error.
func replayed(t testing.TB, captures *Captures, o Options) (outcomes []Outcome, setup Setup, ran error) {
	t.Helper()
	if o.At == "" {
		o.At = model.FromContainer
	}
	err := WithNetwork(context.Background(), func(n *Network) error {
		r, err := Open(context.Background(), n, captures, o)
		if err != nil {
			return err
		}
		setup = r.Setup
		ran = r.Run(context.Background(), captures, func(o *Outcome) error {
			kept := *o
			if kept.Translated != nil {
				h := *kept.Translated
				kept.Translated = &h
			}
			outcomes = append(outcomes, kept)
			return nil
		})
		return r.Close()
	})
	require.NoError(t, err)
	return outcomes, setup, ran
}

// objects are those of a test: a service and a policy over two pods.
func objects(t testing.TB, more ...string) *manifest.Objects {
	t.Helper()
	text := strings.Join(append([]string{cluster}, more...), "\n---\n")
	objs, err := manifest.Parse("cluster.yaml", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}

const cluster = `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: "fd01::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
status: {podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}, {ip: "fd01::2"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd96::1"], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

const closed = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
`

func TestWithoutObjectsTheAddressesSeenBecomePods(t *testing.T) {
	needRoot(t)
	for family, a := range map[string][3]string{"IPv4": {"10.0.0.1", "10.0.0.2", "192.0.2.9"}, "IPv6": {"2001:db8::1", "2001:db8::2", "2001:db8:9::9"}} {
		captures := captureOf(t,
			sent{0, tcp(t, a[0], a[1], 1000, 80, syn), 0},
			sent{0.001, tcp(t, a[1], a[0], 80, 1000, syn|ack), 0},
			sent{0.002, tcp(t, a[0], a[2], 1000, 80, syn), 0})
		got, setup, err := replayed(t, captures, Options{})
		require.NoError(t, err)
		require.Equal(t, 2, setup.Endpoints, family)
		require.True(t, setup.Made)
		require.Len(t, got, 3)
		for i, want := range []struct {
			flow datapath.FlowLookup
			out  model.Out
			to   string
		}{{datapath.FlowNew, model.OutLocal, a[1]}, {datapath.FlowKnown, model.OutLocal, a[0]}, {datapath.FlowNew, model.OutDevice, ""}} {
			require.Equal(t, Forward, got[i].Verdict, "%s packet %d: %s", family, i+1, got[i].Reason)
			require.Equal(t, want.flow, got[i].Flow, "%s packet %d", family, i+1)
			require.Equal(t, want.out, got[i].Out)
			require.Equal(t, want.to, got[i].To)
			require.Equal(t, "bpf/lib/forward.h", got[i].File)
			require.NotZero(t, got[i].Line)
			require.Equal(t, i+1, got[i].Number)
			require.Nil(t, got[i].Translated)
		}
	}
}

func TestAtToContainerTheOtherEndIsOutside(t *testing.T) {
	needRoot(t)
	captures := captureOf(t,
		sent{0, tcp(t, "192.0.2.1", "10.0.0.1", 1000, 80, syn), 0},
		sent{1, tcp(t, "10.0.0.1", "192.0.2.1", 80, 1000, syn|ack), 0},
		sent{2, tcp(t, "10.0.0.1", "192.0.2.7", 80, 1000, syn), 0},
		sent{3, tcp(t, "192.0.2.1", "224.0.0.1", 80, 1000, syn), 0})
	got, _, err := replayed(t, captures, Options{At: model.ToContainer})
	require.NoError(t, err)
	require.Equal(t, Forward, got[0].Verdict)
	require.Equal(t, "10.0.0.1", got[0].To)
	require.Equal(t, []Verdict{Refused, Refused}, []Verdict{got[1].Verdict, got[2].Verdict})
	require.Equal(t, isOutside, got[2].Reason)
	require.Equal(t, string(model.ReasonNotForEndpoint), got[3].Reason)
}

func TestObjectsSayWhoIsAPodAndWhatIsAllowed(t *testing.T) {
	needRoot(t)
	there, back := tcp(t, "10.1.0.1", "10.96.0.1", 1000, 80, syn), tcp(t, "10.1.0.2", "10.1.0.1", 8080, 1000, syn|ack)
	captures := captureOf(t, sent{0, there, 0}, sent{0, back, 0}, sent{0, tcp(t, "192.0.2.1", "10.1.0.1", 1, 2, syn), 0})

	got, setup, err := replayed(t, captures, Options{Objects: objects(t)})
	require.NoError(t, err)
	require.Equal(t, 4, setup.Endpoints)
	require.Equal(t, Forward, got[0].Verdict)
	require.Equal(t, "default/web", got[0].To)
	require.Equal(t, "10.1.0.2", got[0].Translated.Dst.String())
	require.EqualValues(t, 8080, got[0].Translated.Dport)
	require.Equal(t, "10.96.0.1", got[1].Translated.Src.String())
	require.Equal(t, Refused, got[2].Verdict)
	require.Equal(t, noSource, got[2].Reason)

	got, _, err = replayed(t, captures, Options{Objects: objects(t, closed)})
	require.NoError(t, err)
	require.Equal(t, Drop, got[0].Verdict)
	require.Equal(t, string(model.ReasonPolicyIngress), got[0].Reason)
}

func TestADropByDefaultNamesThePoliciesThatIsolate(t *testing.T) {
	needRoot(t)
	ref := func(name string) model.PolicyRef {
		return model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: name}
	}
	captures := captureOf(t,
		sent{0, tcp(t, "10.1.0.1", "10.1.0.2", 1000, 80, syn), 0},
		sent{0, tcp(t, "10.1.0.1", "10.96.0.1", 1001, 80, syn), 0},
		sent{0, tcp(t, "fd01::1", "fd96::1", 1002, 80, syn), 0},
		sent{0, tcp(t, "10.1.0.2", "10.1.0.1", 1003, 80, syn), 0})
	inward := strings.Replace(closed, "name: closed", "name: also", 1)
	outward := strings.NewReplacer("name: closed", "name: mute", "[Ingress]", "[Egress]").Replace(closed)

	got, _, err := replayed(t, captures, Options{Objects: objects(t, closed, inward, outward)})
	require.NoError(t, err)
	for i := range got {
		require.Equal(t, string(model.ReasonPolicyEgress), got[3].Reason)
		want := []model.PolicyRef{ref("also"), ref("closed")}
		if i == 3 {
			want = []model.PolicyRef{ref("mute")}
		}
		require.Equal(t, want, got[i].Isolating, "packet %d", i+1)
		require.Equal(t, model.Origin{Policy: want[0], Rule: model.RuleNone}, got[i].Origin)
	}
	unpainted := func(Verdict) (string, string) { return "", "" }
	require.Contains(t, string(AppendText(nil, &got[0], unpainted)), "  by NetworkPolicy/default/also and NetworkPolicy/default/closed, no rule of which matches")
	require.Contains(t, string(AppendText(nil, &got[3], unpainted)), "  by NetworkPolicy/default/mute, no rule of which matches")
	require.Contains(t, string(AppendJSON(nil, &got[0], false)),
		`"policy":"NetworkPolicy/default/also","rule":-1,"isolating":["NetworkPolicy/default/also","NetworkPolicy/default/closed"]}`)
}

func TestWhatTheDatapathAnswersIsForwardedToItself(t *testing.T) {
	needRoot(t)
	a := func(name, addr string) frame.Field {
		return frame.Field{Name: name, Value: frame.Addr(netip.MustParseAddr(addr))}
	}
	arp := build(t, frame.Layer{Kind: "arp", Fields: []frame.Field{num("op", 1), a("spa", "10.1.0.1"), a("tpa", "169.254.1.1")}})
	got, _, err := replayed(t, captureOf(t, sent{0, arp, 0}), Options{Objects: objects(t)})
	require.NoError(t, err)
	require.Equal(t, Forward, got[0].Verdict)
	require.Equal(t, model.OutSelf, got[0].Out)
	require.Equal(t, string(model.ReasonARPAnswered), got[0].Reason)
}

func TestTheClockGoesAsTheTimestampsDo(t *testing.T) {
	needRoot(t)
	query := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10)
	got, _, err := replayed(t, captureOf(t,
		sent{0, query, 0},
		sent{29, query, 0},  // within the patience with unanswered UDP, 30 s
		sent{60, query, 0},  // beyond it
		sent{10, query, 0},  // a timestamp that goes back
		sent{88, query, 0},  // not 31 s after 60
		sent{119, query, 0}, // 31 s after 88
	), Options{})
	require.NoError(t, err)
	var flows []datapath.FlowLookup
	for _, o := range got {
		flows = append(flows, o.Flow)
	}
	require.Equal(t, []datapath.FlowLookup{"new", "known", "new", "known", "known", "new"}, flows)
}

func TestCutPacketsAreFilledUp(t *testing.T) {
	needRoot(t)
	whole := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 1000)
	got, _, err := replayed(t, captureOf(t,
		sent{0, whole[:96], len(whole)},
		sent{0, whole[:38], len(whole)},               // within the UDP header
		sent{0, whole[:13], len(whole)},               // within the Ethernet header
		sent{0, whole[:96], datapath.MaxRunBytes + 1}, // of which IP says that it is shorter
	), Options{})
	require.NoError(t, err)
	require.Equal(t, Forward, got[0].Verdict, got[0].Reason)
	require.Equal(t, []bool{true, true, true, true}, []bool{got[0].Truncated, got[1].Truncated, got[2].Truncated, got[3].Truncated})
	require.Equal(t, []bool{false, true}, []bool{got[0].CutHeaders, got[1].CutHeaders})
	require.Equal(t, Drop, got[1].Verdict)
	require.Equal(t, string(model.ReasonTruncated), got[1].Reason)
	require.Equal(t, "The capture has less of it than its link layer's header.", got[2].Reason)
	require.Equal(t, Forward, got[3].Verdict, got[3].Reason)
	require.Len(t, got[3].Frame, datapath.MaxRunBytes)
}

func TestWhatDoesNotReachAProgramSaysWhy(t *testing.T) {
	needRoot(t)
	var out bytes.Buffer
	w, err := pcap.NewWriter(&out)
	require.NoError(t, err)
	wifi, err := w.AddLink(127, "wlan0", "")
	require.NoError(t, err)
	raw, err := w.AddLink(pcap.LinkRaw, "tun0", "")
	require.NoError(t, err)
	good := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10)[14:]
	for _, p := range []pcap.Packet{
		{Interface: wifi, Time: begin, Data: good}, {Interface: raw, Time: begin, Data: good},
		{Interface: raw, Time: begin, Data: []byte{0x45, 0, 0, 1}}, {Interface: raw, Time: begin, Data: good, Length: 1 << 30},
	} {
		require.NoError(t, w.Write(p))
	}
	got, _, err := replayed(t, fileOf(t, out.Bytes()), Options{})
	require.NoError(t, err)
	require.Equal(t, []Verdict{Refused, Forward, Refused, Refused}, []Verdict{got[0].Verdict, got[1].Verdict, got[2].Verdict, got[3].Verdict})
	require.Contains(t, got[0].Reason, "IEEE802_11_RADIOTAP (127)")
	require.Equal(t, notTaken, got[2].Reason)
	require.Equal(t, tooMuch(1<<30), got[3].Reason)
	for _, i := range []int{0, 2, 3} {
		require.Regexp(t, `^[A-Z].*\.$`, got[i].Reason, "a sentence")
	}
}

func TestPacketsOfNobodysAddressAreJudgedToo(t *testing.T) {
	needRoot(t)
	got, _, err := replayed(t, captureOf(t,
		sent{0, udp(t, "0.0.0.0", "255.255.255.255", 68, 67, 300), 0},
		sent{0, build(t, frame.Layer{Kind: "raw", Fields: []frame.Field{{Name: "hex", Value: frame.Data([]byte("lldp"))}}}), 0},
	), Options{})
	require.NoError(t, err)
	require.Equal(t, string(model.ReasonMartianSource), got[0].Reason)
	require.Equal(t, string(model.ReasonUnknownEthertype), got[1].Reason)
}

func TestAFullEndpointTableRefusesTheOthers(t *testing.T) {
	needRoot(t)
	var packets []sent
	for i := range 4100 {
		packets = append(packets, sent{0, udp(t, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}).String(), "192.0.2.1", 1, 2, 0), 0})
	}
	got, setup, err := replayed(t, captureOf(t, packets...), Options{})
	require.NoError(t, err)
	require.Equal(t, 4096, setup.Endpoints)
	require.True(t, setup.Full)
	for i, o := range got {
		if i < 4096 {
			require.Equal(t, Forward, o.Verdict, "packet %d: %s", i+1, o.Reason)
		} else {
			require.Equal(t, noRoom, o.Reason, "packet %d", i+1)
		}
	}
}

func TestADamagedFileIsReplayedAsFarAsItGoes(t *testing.T) {
	needRoot(t)
	packet := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10)
	damaged, whole := captureOf(t, sent{0, packet, 0}, sent{0, packet, 0}), captureOf(t, sent{0, packet, 0})
	data, err := os.ReadFile(damaged.Paths[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(damaged.Paths[0], data[:len(data)-5], 0o600))
	got, _, err := replayed(t, &Captures{Paths: append(damaged.Paths, whole.Paths...)}, Options{})
	require.Len(t, got, 2, "one of each file")
	require.Equal(t, 2, got[1].Number)
	var damage *pcap.DamageError
	require.ErrorAs(t, err, &damage)
	require.ErrorContains(t, err, damaged.Paths[0])
	require.EqualValues(t, len(data)-int(lastBlock(data)), damage.Offset)
}

// lastBlock is how long a pcapng file's last block is.
func lastBlock(file []byte) uint32 { return binary.LittleEndian.Uint32(file[len(file)-4:]) }

func TestWhichNodeIsMeantHasToBeClear(t *testing.T) {
	needRoot(t)
	nodes := "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: b}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: b}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}\n"
	objs, err := manifest.Parse("nodes.yaml", strings.NewReader(nodes))
	require.NoError(t, err)
	captures := captureOf(t, sent{0, udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10), 0})
	for _, name := range []string{"", "c"} {
		err := WithNetwork(context.Background(), func(n *Network) error {
			_, err := Open(context.Background(), n, captures, Options{At: model.FromContainer, Objects: objs, Node: name})
			return err
		})
		require.ErrorIs(t, err, ErrNode)
	}
	for name, want := range map[string]Verdict{"a": Refused, "b": Forward} {
		got, _, err := replayed(t, captures, Options{Objects: objs, Node: name})
		require.NoError(t, err)
		require.Equal(t, want, got[0].Verdict, name)
	}
}

func TestAResultIsOneLineOfJSON(t *testing.T) {
	o := Outcome{
		Number: 3, Capture: `a "quoted" name`, Time: begin.Add(1500 * time.Microsecond), Captured: 96, Length: 1500, Truncated: true,
		Header:  readHeader(tcp(t, "10.0.0.1", "10.96.0.1", 40000, 80, syn)),
		Verdict: Forward, Hook: model.FromContainer, File: "bpf/lib/forward.h", Line: 69, Out: model.OutLocal, To: "default/web", Flow: datapath.FlowNew,
	}
	left := readHeader(tcp(t, "10.0.0.1", "10.1.0.2", 40000, 8080, syn))
	o.Translated = &left
	require.JSONEq(t, `{"n":3,"capture":"a \"quoted\" name","time":"2024-01-02T03:04:05.0015Z","caplen":96,"len":1500,"truncated":true,
		"verdict":"forward","hook":"from-container","file":"bpf/lib/forward.h","line":69,"src":"10.0.0.1","dst":"10.96.0.1","proto":"tcp",
		"sport":40000,"dport":80,"xlate":{"src":"10.0.0.1","dst":"10.1.0.2","sport":40000,"dport":8080},"out":"local","to":"default/web","flow":"new"}`,
		string(AppendJSON(nil, &o, true)))

	ping := Outcome{Number: 1, Captured: 50, Length: 50, Verdict: Drop, Reason: "policy-egress", Hook: model.ToContainer,
		Header: readHeader(build(t, ip("fd00::1", "fd00::2"), frame.Layer{Kind: "icmpv6", Fields: []frame.Field{num("type", 128)}})),
		Origin: model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Rule: 2}}
	require.JSONEq(t, `{"n":1,"caplen":50,"len":50,"truncated":false,"verdict":"drop","reason":"policy-egress","hook":"to-container",
		"src":"fd00::1","dst":"fd00::2","proto":"icmpv6","policy":"NetworkPolicy/default/web","rule":2}`, string(AppendJSON(nil, &ping, false)))
}

func TestOutcomesStandBesideThePackets(t *testing.T) {
	needRoot(t)
	packet := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10)
	captures := captureOf(t, sent{0, packet, 0}, sent{1, packet[:40], len(packet)})
	var out bytes.Buffer
	err := WithNetwork(context.Background(), func(n *Network) error {
		o := Options{At: model.FromContainer}
		r, err := Open(context.Background(), n, captures, o)
		require.NoError(t, err)
		defer r.Close()
		a, err := NewAnnotator(&out, captures, o)
		require.NoError(t, err)
		return r.Run(context.Background(), captures, a.Write)
	})
	require.NoError(t, err)
	r, err := pcap.NewReader(&out)
	require.NoError(t, err)
	var p pcap.Packet
	require.NoError(t, r.Next(&p))
	require.Equal(t, packet, p.Data)
	require.Equal(t, begin, p.Time)
	require.Len(t, p.Comments, 1)
	require.Regexp(t, `^forward  out device  flow new  at bpf/lib/forward.h:\d+$`, p.Comments[0])
	require.Equal(t, "eth0", r.Interface(p.Interface).Name)
	require.NoError(t, r.Next(&p))
	require.Equal(t, packet[:40], p.Data)
	require.Equal(t, len(packet), p.Length)
	require.Contains(t, p.Comments[0], "has cut its headers")
}

func TestAReplayLeavesNothingBehind(t *testing.T) {
	needRoot(t)
	captures := captureOf(t, sent{0, udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10), 0})
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(entries)
	}
	_, _, err := replayed(t, captures, Options{})
	require.NoError(t, err)
	before := open()
	ctx, cancel := context.WithCancel(context.Background())
	stopped := errors.New("stopped")
	err = WithNetwork(ctx, func(n *Network) error {
		r, err := Open(ctx, n, captures, Options{At: model.FromContainer})
		require.NoError(t, err)
		cancel()
		return errors.Join(r.Run(ctx, captures, func(*Outcome) error { return stopped }), r.Close())
	})
	require.ErrorIs(t, err, stopped)
	require.ErrorIs(t, WithNetwork(ctx, func(*Network) error { return nil }), context.Canceled)
	require.LessOrEqual(t, open(), before)
	links, err := net.Interfaces()
	require.NoError(t, err)
	for _, l := range links {
		require.NotContains(t, l.Name, "uplink", "the replay's devices are in a namespace of its own")
	}
}

// TestEveryCaptureOfAFolderIsReplayed needs captures of the user's: set
// WEIR_CAPTURES to a folder.
func TestEveryCaptureOfAFolderIsReplayed(t *testing.T) {
	folder := os.Getenv("WEIR_CAPTURES")
	if folder == "" {
		t.Skip("WEIR_CAPTURES names no folder of captures")
	}
	needRoot(t)
	var captures Captures
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			captures.Paths = append(captures.Paths, path)
		}
		return err
	})
	require.NoError(t, err)
	for _, hook := range []model.Hook{model.FromContainer, model.ToContainer} {
		got, _, err := replayed(t, &captures, Options{At: hook})
		if err != nil {
			t.Log(err)
		}
		require.NotEmpty(t, got)
		var s Summary
		for i := range got {
			s.Add(&got[i])
			if got[i].Verdict == Refused {
				require.Regexp(t, `^[A-Z].*\.$`, got[i].Reason)
			}
			require.True(t, json.Valid(AppendJSON(nil, &got[i], true)))
		}
		s.Finish()
		var text bytes.Buffer
		require.NoError(t, s.Text(&text))
		t.Log(hook, text.String())
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(tcp(f, "10.0.0.1", "10.0.0.2", 1, 2, syn))
	f.Add(udp(f, "fd00::1", "fd00::2", 1, 2, 3))
	f.Add(build(f, frame.Layer{Kind: "arp", Fields: nil}))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := readHeader(data)
		require.GreaterOrEqual(t, h.Needed, 14)
		require.Equal(t, h.IP || h.ARP, h.Src.IsValid())
		o := Outcome{Header: h, Verdict: Drop, Time: begin}
		require.True(t, json.Valid(AppendJSON(nil, &o, false)))
		require.NotEmpty(t, AppendText(nil, &o, func(Verdict) (string, string) { return "", "" }))
		if len(data) >= 14 { // and a script can say it, in layers or in bytes
			s := &script{options: Options{At: model.FromContainer}, pods: []scriptPod{{name: "client"}}}
			require.NotEmpty(t, s.layers(&step{frame: data, header: h}))
		}
	})
}

// BenchmarkReplay replays packets of 1,000 flows between 100 pods and writes
// their results as JSON, all of it: two passes over the file too.
func BenchmarkReplay(b *testing.B) {
	needRoot(b)
	const flows, rounds = 1000, 100
	var out bytes.Buffer
	w, err := pcap.NewWriter(&out)
	require.NoError(b, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(b, err)
	for i := range flows * rounds {
		f := i % flows
		data := udp(b, fmt.Sprintf("10.0.0.%d", f%100+1), fmt.Sprintf("10.0.0.%d", (f+1)%100+1), 1000+f, 53, 200)
		require.NoError(b, w.Write(pcap.Packet{Interface: n, Time: begin.Add(time.Duration(i) * time.Microsecond), Data: data}))
	}
	captures := fileOf(b, out.Bytes())
	b.ReportAllocs()
	var took time.Duration
	for b.Loop() {
		err := WithNetwork(context.Background(), func(n *Network) error {
			r, err := Open(context.Background(), n, captures, Options{At: model.FromContainer})
			if err != nil {
				return err
			}
			var line []byte
			start := time.Now()
			err = r.Run(context.Background(), captures, func(o *Outcome) error {
				line = AppendJSON(line[:0], o, false)
				return nil
			})
			took += time.Since(start)
			return errors.Join(err, r.Close())
		})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N*flows*rounds)/took.Seconds(), "packets/s")
}
