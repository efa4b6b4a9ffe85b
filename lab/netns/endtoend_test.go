// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// road is how a client reaches a server that listens on 5201 and 8080.
type road struct {
	name           string
	client, server *namespace
	at             func(v4 bool, port uint16) netip.AddrPort
}

// rules are of the node's own kernel, which lead the service's ports to web, as
// kube-proxy does in its modes.
var rules = []struct{ name, program, text string }{
	{"nftables", "nft", `
table inet services {
	chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr 10.96.0.10 meta l4proto {tcp, udp} dnat ip to 10.0.0.2 : th dport map {80 : 8080, 5001 : 5201}
		ip6 daddr fd96::10 meta l4proto {tcp, udp} dnat ip6 to fd00::2 : th dport map {80 : 8080, 5001 : 5201}
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		meta mark and 0x4000 != 0 masquerade
	}
}
`},
	{"iptables", "iptables-restore", iptablesRules("10.96.0.10/32", "10.0.0.2")},
	{"iptables", "ip6tables-restore", iptablesRules("fd96::10/128", "[fd00::2]")},
}

func iptablesRules(service, pod string) string {
	text := "*nat\n:SERVICES - [0:0]\n-A PREROUTING -j SERVICES\n-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n"
	for _, protocol := range []string{"tcp", "udp"} {
		for port, target := range map[int]int{80: 8080, 5001: 5201} {
			text += fmt.Sprintf("-A SERVICES -d %s -p %s --dport %d -j DNAT --to-destination %s:%d\n", service, protocol, port, pod, target)
		}
	}
	return text + "COMMIT\n"
}

// ways are two namespaces on one veth, the kernel's routing between pods, its NAT by
// nftables and by iptables, and the datapath to a pod and to a service.
func ways(b *testing.B) (all []road) {
	pod := func(v4 bool, port uint16) netip.AddrPort { return netip.AddrPortFrom(pick(v4, webV4, webV6), port) }
	service := func(v4 bool, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(pick(v4, webServiceV4, webServiceV6), map[uint16]uint16{8080: 80, 5201: 5001}[port])
	}
	add := func(name string, w *World, at func(bool, uint16) netip.AddrPort) {
		all = append(all, road{name, w.byName["default/client"].ns, w.byName["default/web"].ns, at})
	}
	all = append(all, rawVeth(b))
	plain := Options{Plain: true, Blind: true}
	add("routing", newTestWorld(b, plain), pod)
	for _, name := range []string{"nftables", "iptables"} {
		w := newTestWorld(b, plain)
		for _, r := range rules {
			if r.name == name {
				feed(b, w, r.program, r.text)
			}
		}
		add(name, w, service)
	}
	w := newTestWorld(b, Options{Blind: true})
	applyObjects(b, w, serviceObjects)
	add("weir-pod", w, pod)
	add("weir-service", w, service)
	return all
}

func pick(v4 bool, a, b netip.Addr) netip.Addr {
	if v4 {
		return a
	}
	return b
}

// feed gives rules to a program on the node.
func feed(b *testing.B, w *World, name, text string) {
	args := map[string][]string{"nft": {"-f", "-"}}[name]
	program := command(within(b, patient), b, name, args...)
	program.Stdin = strings.NewReader(text)
	var problems bytes.Buffer
	program.Stderr = &problems
	require.NoError(b, w.Start("node", program))
	require.NoError(b, program.Wait(), "%s: %s", name, &problems)
}

// rawVeth joins two namespaces by one veth, without a router.
func rawVeth(b *testing.B) road {
	needRoot(b)
	var both [2]*namespace
	for i := range both {
		ns, err := newNamespace(nil)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, ns.close()) })
		both[i] = ns
	}
	c, err := both[0].configurator()
	require.NoError(b, err)
	defer c.Close()
	require.NoError(b, c.connect(wire{nodeName: "eth0", nodeIndex: 100, nodeMAC: net.HardwareAddr{2, 0, 0, 0, 0, 10}, hostName: "eth1", hostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 11}}, both[1]))
	ip := func(ns *namespace, args ...string) { inNamespace(b, ns, "ip", args...) }
	for i, addresses := range [][2]string{{"192.0.2.10/24", "2001:db8::10/64"}, {"192.0.2.11/24", "2001:db8::11/64"}} {
		device := fmt.Sprint("eth", i)
		for _, address := range addresses {
			args := []string{"addr", "add", address, "dev", device}
			if strings.Contains(address, ":") {
				args = append(args, "nodad")
			}
			ip(both[i], args...)
		}
		ip(both[i], "link", "set", device, "up")
	}
	at := func(v4 bool, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(pick(v4, netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")), port)
	}
	return road{"raw-veth", both[0], both[1], at}
}

// inNamespace runs a program to its end and gives its output.
func inNamespace(b *testing.B, ns *namespace, name string, args ...string) string {
	program := command(within(b, patient), b, name, args...)
	var out, problems bytes.Buffer
	program.Stdout, program.Stderr = &out, &problems
	require.NoError(b, ns.run(program.Start))
	require.NoError(b, program.Wait(), "%s\n%s%s", program, &out, &problems)
	return out.String()
}

// echoOn answers what comes on TCP 8080 until the benchmark ends, and has iperf3
// listen on 5201.
func echoOn(b *testing.B, ns *namespace) {
	for _, network := range []string{"tcp4", "tcp6"} {
		var listener net.Listener
		require.NoError(b, ns.run(func() (err error) {
			listener, err = net.Listen(network, ":8080")
			return err
		}))
		b.Cleanup(func() { listener.Close() })
		go echoTo(listener)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := command(ctx, b, "iperf3", "-s", "-p", "5201", "--forceflush")
	out, err := server.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, ns.run(server.Start))
	b.Cleanup(func() { cancel(); server.Wait() })
	var said [256]byte
	for text := ""; !strings.Contains(text, "Server listening"); {
		n, err := out.Read(said[:])
		require.NoError(b, err, text)
		text += string(said[:n])
	}
	go io.Copy(io.Discard, out)
}

func echoTo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// span is how long each way is measured in a turn.
const span = 500 * time.Millisecond

// endToEnd are what is measured, in units a second.
var endToEnd = []struct {
	name, unit string
	measure    func(b *testing.B, w road, v4 bool) float64
}{
	{"TCP-stream", "bit", func(b *testing.B, w road, v4 bool) float64 { return iperf(b, w, v4, "-t", "1") }},
	{"small-UDP", "packet", func(b *testing.B, w road, v4 bool) float64 {
		return iperf(b, w, v4, "-t", "1", "-u", "-l", "64", "-b", "0") / (64 * 8)
	}},
	{"requests", "request", func(b *testing.B, w road, v4 bool) float64 {
		var conn net.Conn
		require.NoError(b, w.client.run(func() (err error) {
			conn, err = net.Dial("tcp", w.at(v4, 8080).String())
			return err
		}))
		defer conn.Close()
		return inSpan(b, w, func() error { return request(conn) })
	}},
	{"connections", "connection", func(b *testing.B, w road, v4 bool) float64 {
		return inSpan(b, w, func() error {
			conn, err := net.Dial("tcp", w.at(v4, 8080).String())
			if err != nil {
				return err
			}
			// No port waits for what may still come: there would soon be none left.
			conn.(*net.TCPConn).SetLinger(0)
			defer conn.Close()
			return request(conn)
		})
	}},
}

func request(conn net.Conn) error {
	var message [64]byte
	if _, err := conn.Write(message[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, message[:])
	return err
}

// inSpan counts how often f succeeds a second, in the client's namespace.
func inSpan(b *testing.B, w road, f func() error) float64 {
	count, begin := 0, time.Now()
	require.NoError(b, w.client.run(func() error {
		for ; time.Since(begin) < span; count++ {
			if err := f(); err != nil {
				return fmt.Errorf("by %s: %w", w.name, err)
			}
		}
		return nil
	}))
	return float64(count) / time.Since(begin).Seconds()
}

// iperf gives bits a second, as received.
func iperf(b *testing.B, w road, v4 bool, args ...string) float64 {
	at := w.at(v4, 5201)
	for tries := 20; ; tries-- {
		out := inNamespace(b, w.client, "iperf3", append([]string{"-J", "-c", at.Addr().String(), "-p", strconv.Itoa(int(at.Port()))}, args...)...)
		var report struct {
			Error string
			End   struct {
				SumReceived struct {
					BitsPerSecond float64 `json:"bits_per_second"`
				} `json:"sum_received"`
				Sum struct {
					BitsPerSecond float64 `json:"bits_per_second"`
					LostPercent   float64 `json:"lost_percent"`
				} `json:"sum"`
			} `json:"end"`
		}
		require.NoError(b, json.Unmarshal([]byte(out), &report), out)
		switch {
		case report.Error == "" && report.End.SumReceived.BitsPerSecond > 0:
			return report.End.SumReceived.BitsPerSecond
		case report.Error == "":
			return report.End.Sum.BitsPerSecond * (1 - report.End.Sum.LostPercent/100)
		}
		require.Condition(b, func() bool { return tries > 0 && isBetweenTests(report.Error) }, report.Error)
	}
}

// BenchmarkEndToEnd measures real sockets by each way in turn, so that other load on
// the machine meets all of them, and tells the median of each as a multiple of two
// namespaces on one veth.
func BenchmarkEndToEnd(b *testing.B) {
	all := ways(b)
	served := map[*namespace]bool{}
	for _, w := range all {
		if !served[w.server] {
			echoOn(b, w.server)
			served[w.server] = true
		}
	}
	for _, m := range endToEnd {
		for _, v4 := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/IPv%d", m.name, map[bool]int{true: 4, false: 6}[v4]), func(b *testing.B) {
				rates := map[string][]float64{}
				for b.Loop() {
					for _, w := range all {
						rates[w.name] = append(rates[w.name], m.measure(b, w, v4))
					}
				}
				median := func(name string) float64 {
					slices.Sort(rates[name])
					return rates[name][len(rates[name])/2]
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(median(all[0].name), m.unit+"/s")
				for _, w := range all[1:] {
					b.ReportMetric(median(w.name)/median(all[0].name), w.name+"/raw")
				}
			})
		}
	}
}
