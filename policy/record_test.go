// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

// captured writes frames as a capture.
func captured(t *testing.T, frames ...[]byte) []byte {
	var out bytes.Buffer
	w, err := pcap.NewWriter(&out)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	for _, data := range frames {
		require.NoError(t, w.Write(pcap.Packet{Interface: n, Data: data}))
	}
	return out.Bytes()
}

func address(text string) netip.Addr { return netip.MustParseAddr(text) }

func packet(t *testing.T, from, to, transport string, values ...any) []byte {
	value := func(spec frame.Layer) frame.Layer {
		for i := 0; i < len(values); i += 2 {
			spec = spec.With(values[i].(string), frame.Num(values[i+1].(int)))
		}
		return spec
	}
	ip := frame.Lower(frame.Layer{Kind: "ip"}, false).With("src", frame.Addr(address(from))).With("dst", frame.Addr(address(to)))
	data, err := frame.Build(frame.Layer{Kind: "eth"}.With("src", frame.MAC(net.HardwareAddr{2, 0, 0, 0, 0, 1})).With("dst", frame.MAC(net.HardwareAddr{2, 0, 0, 0, 0, 2})), ip, value(frame.Layer{Kind: transport}))
	require.NoError(t, err)
	return data
}

func TestACaptureTellsWhoOpenedAFlow(t *testing.T) {
	const syn, synAck, ack = 2, 18, 16
	record, err := ReadRecord(t.Context(), "capture", bytes.NewReader(captured(t,
		packet(t, "10.0.0.1", "10.96.0.1", "tcp", "sport", 4000, "dport", 80, "flags", syn),
		packet(t, "10.96.0.1", "10.0.0.1", "tcp", "sport", 80, "dport", 4000, "flags", synAck),
		packet(t, "10.0.0.2", "10.0.0.1", "tcp", "sport", 81, "dport", 4001, "flags", synAck), // its SYN was missed
		packet(t, "10.0.0.2", "10.0.0.1", "tcp", "sport", 82, "dport", 4002, "flags", ack),
		packet(t, "10.0.0.1", "10.0.0.2", "tcp", "sport", 4002, "dport", 82, "flags", ack),
		packet(t, "10.0.0.1", "10.0.0.2", "udp", "sport", 4003, "dport", 53),
		packet(t, "10.0.0.2", "10.0.0.1", "udp", "sport", 53, "dport", 4003),
	)))
	require.NoError(t, err)
	var opened []string
	for i := range record.Openings {
		opened = append(opened, record.Openings[i].String())
	}
	require.Equal(t, []string{"tcp 10.0.0.1:4000 to 10.96.0.1:80", "tcp 10.0.0.1:4001 to 10.0.0.2:81", "udp 10.0.0.1:4003 to 10.0.0.2:53"}, opened)
	require.Len(t, record.Headless, 1)

	// What went to a service is allowed to the pods behind it, by their port.
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(`
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {app: client}}, status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
`))
	require.NoError(t, err)
	found, err := Suggest(&Input{Objects: objs}, record, SuggestOptions{Bits4: 32, Bits6: 128})
	require.NoError(t, err)
	require.Equal(t, 3, found.Flows)
	require.Equal(t, map[string]int{leftHeadless: 1}, found.Left)
	require.Len(t, found.Policies, 2)
	egress := found.Policies[0].Spec.Egress
	require.Len(t, egress, 1)
	var ports []string
	for _, p := range egress[0].Ports {
		ports = append(ports, p.Port.String()+"/"+string(*p.Protocol))
	}
	require.Equal(t, []string{"81/TCP", "8080/TCP", "53/UDP"}, ports)
	require.Empty(t, found.Policies[0].Spec.Ingress)
}

// A flow is denied if one of the hooks that it meets denies it, in whatever order
// nodes tell of it, and behind a translation.
func TestAFlowIsDeniedWhereAnyHookDeniesIt(t *testing.T) {
	const lines = `
{"verdict":"drop","reason":"policy-ingress","protocol":"tcp","source":"192.0.2.1:4000","destination":"10.0.0.2:80","tcpFlags":"S"}
{"verdict":"forward","protocol":"tcp","source":"10.0.0.1:4000","translatedSource":"192.0.2.1:4000","destination":"10.96.0.1:80","translatedDestination":"10.0.0.2:80","tcpFlags":"S"}
{"verdict":"drop","reason":"bad-checksum","protocol":"tcp","source":"10.0.0.1:4001","destination":"10.0.0.2:80","tcpFlags":"S"}
{"verdict":"audit","reason":"audit-ingress","protocol":"udp","source":"10.0.0.1:4001","destination":"10.0.0.2:80"}
{"missed":3}
{"verdict":"forw`
	record, err := ReadRecord(t.Context(), "events", strings.NewReader(lines))
	require.NoError(t, err)
	denied := map[string]bool{}
	for i := range record.Openings {
		denied[record.Openings[i].String()] = record.Openings[i].Denied
	}
	require.Equal(t, map[string]bool{
		"tcp 192.0.2.1:4000 to 10.0.0.2:80":                        true,
		"tcp 10.0.0.1:4000 to 10.96.0.1:80 by backend 10.0.0.2:80": true,
		"udp 10.0.0.1:4001 to 10.0.0.2:80":                         false,
	}, denied)
	require.EqualValues(t, 3, record.Missed)
	require.True(t, record.Cut)
	other := &Record{Openings: []Opening{{Tuple: model.Tuple{Src: address("10.0.0.1"), Sport: 4001, Dst: address("10.0.0.2"), Dport: 80, Protocol: model.ProtocolUDP}, Denied: true}}}
	record.Merge(other)
	require.Len(t, record.Openings, 3)
	require.True(t, record.Openings[2].Denied, "what another node has denied")
}
