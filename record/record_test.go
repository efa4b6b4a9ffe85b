// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

const objects = `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
status: {podIP: 10.0.0.10, podIPs: [{ip: 10.0.0.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
status: {podIP: 10.0.0.11, podIPs: [{ip: 10.0.0.11}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}]}
`

func host(name string, silent bool, addresses ...string) lab.Host {
	h := lab.Host{Name: name, Silent: silent}
	for _, a := range addresses {
		h.Addresses = append(h.Addresses, netip.MustParseAddr(a))
	}
	return h
}

// recorded makes a world, lets a test use it, and gives what was recorded.
func recorded(t *testing.T, silent bool, use func(context.Context, *World)) (lines []string, w *World) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and loads BPF programs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	topology := lab.Topology{
		Nodes:    []lab.Host{host("node", false, "198.18.0.2")},
		Pods:     []lab.Host{host("default/client", silent, "10.0.0.10"), host("default/web", false, "10.0.0.11")},
		Outside:  []lab.Host{host("internet", false, "203.0.113.10")},
		Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1")},
	}
	world, err := netns.New(ctx, topology, Options())
	require.NoError(t, err)
	w, err = New(world, topology)
	if err != nil {
		require.NoError(t, errors.Join(err, world.Close()))
	}
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(objects))
	require.NoError(t, err)
	state, _, err := compile.All(manifest.DeriveEndpointSlices(objs), "node", model.Local{Devices: model.DevicesOf(w.Devices("")), Gateways: topology.Gateways})
	require.NoError(t, err)
	_, err = w.Apply(ctx, "", state)
	require.NoError(t, err)
	use(ctx, w)
	require.NoError(t, w.Close())

	var out bytes.Buffer
	require.NoError(t, w.Write(&out, "a test"))
	return read(t, &out), w
}

// read gives each packet as one line: host, direction, packet, notes.
func read(t *testing.T, in io.Reader) []string {
	t.Helper()
	r, err := pcap.NewReader(in)
	require.NoError(t, err)
	var lines []string
	var p pcap.Packet
	var last time.Time
	for err = r.Next(&p); err == nil; err = r.Next(&p) {
		require.False(t, p.Time.Before(last), "packets are in the order of time")
		last = p.Time
		direction := map[pcap.Direction]string{pcap.In: "in", pcap.Out: "out"}[p.Direction]
		lines = append(lines, fmt.Sprintf("%s %s %s %v", r.Interface(p.Interface).Name, direction, frame.Line(p.Data), p.Comments))
	}
	require.Equal(t, io.EOF, err)
	return lines
}

// counted is how many packets the node has dropped for a reason.
func counted(t *testing.T, w *World, reason model.Reason) (packets uint64) {
	t.Helper()
	counters, err := w.Datapath("").Counters()
	require.NoError(t, err)
	for _, c := range counters {
		if c.Reason == reason {
			packets += c.Packets
		}
	}
	return packets
}

func requireLine(t *testing.T, lines []string, pattern string) {
	t.Helper()
	for _, l := range lines {
		if ok, err := regexp.MatchString(pattern, l); err == nil && ok {
			return
		}
	}
	require.Failf(t, "no such packet", "%s\nin\n%s", pattern, strings.Join(lines, "\n"))
}

func TestAnExchangeIsRecordedWithItsDecisions(t *testing.T) {
	lines, w := recorded(t, false, func(ctx context.Context, w *World) {
		require.NoError(t, w.Listen(ctx, "default/web", model.ProtocolTCP, 8080, func(m []byte) []byte { return m }))
		c, err := w.Dial(ctx, "default/client", model.ProtocolTCP, 0, netip.MustParseAddrPort("10.96.0.10:80"))
		require.NoError(t, err)
		answer, err := c.Exchange(ctx, []byte("hello"))
		require.NoError(t, err)
		require.Equal(t, "hello", string(answer))
		require.NotEmpty(t, w.Walks(), "who asks for walks has them too")
		require.NoError(t, c.Close())

		for counted(t, w, "policy-ingress") == 0 && ctx.Err() == nil { // time may be up before anything is sent
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			_, err = w.Dial(short, "internet", model.ProtocolTCP, 0, netip.MustParseAddrPort("10.0.0.11:8080"))
			cancel()
			require.ErrorIs(t, err, lab.ErrTimeout)
		}
	})
	requireLine(t, lines, `^default/client out arp\(op=request .*\[from-container of default/client: reply, arp-answered`)
	requireLine(t, lines, `^default/client out ipv4\(src=10.0.0.10 dst=10.96.0.10 .*flags=S .*\[from-container of default/client: forward, out local .*flow new`)
	requireLine(t, lines, `^default/web in ipv4\(src=10.0.0.10 dst=10.0.0.11 .*flags=S `)
	requireLine(t, lines, `^default/web out ipv4\(src=10.0.0.11 .*flags=SA .*\[from-container of default/web: forward, .*flow known`)
	requireLine(t, lines, `^default/client in ipv4\(src=10.96.0.10 .*flags=SA `)
	requireLine(t, lines, `^internet out ipv4\(src=203.0.113.10 dst=10.0.0.11 .*\[to-container of default/web: drop, policy-ingress`)
	require.Zero(t, w.Lost)
	require.Zero(t, w.Unplaced, "every decision stands beside its packet\n%s", strings.Join(lines, "\n"))
}

func TestWhatASilentHostIsToldToSendIsRecorded(t *testing.T) {
	lines, _ := recorded(t, true, func(ctx context.Context, w *World) {
		own, gateway, err := w.MACs("default/client")
		require.NoError(t, err)
		data, err := frame.Build(
			frame.Layer{Kind: "eth", Fields: []frame.Field{{Name: "src", Value: frame.MAC(own)}, {Name: "dst", Value: frame.MAC(gateway)}, {Name: "type", Value: frame.Num(0x88b5)}}},
			frame.Layer{Kind: "payload", Fields: []frame.Field{{Name: "size", Value: frame.Num(50)}}})
		require.NoError(t, err)
		require.NoError(t, w.Send(ctx, "default/client", data))
		require.Eventually(t, func() bool { return counted(t, w, model.ReasonUnknownEthertype) > 0 }, time.Minute, time.Millisecond)
	})
	requireLine(t, lines, `^default/client out .*unknown-ethertype`)
}
