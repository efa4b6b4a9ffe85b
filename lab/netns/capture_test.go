// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// udpFrame is a datagram in a frame, with good checksums.
func udpFrame(t testing.TB, src, dst net.HardwareAddr, from, to netip.AddrPort, payload []byte) []byte {
	t.Helper()
	udp := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
	eth := &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: layers.EthernetTypeIPv4}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	} = &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
		SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice(),
	}
	if to.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice(),
		}
	}
	require.NoError(t, udp.SetNetworkLayerForChecksum(ip))
	buffer := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, ip, udp, gopacket.Payload(payload)))
	// Without the padding to Ethernet's minimum, which a router takes off.
	length := map[bool]int{true: 14 + 20 + 8, false: 14 + 40 + 8}[to.Addr().Is4()] + len(payload)
	return buffer.Bytes()[:length]
}

// await gives the first frame at host that matches.
func await(t testing.TB, w *World, host string, matches func(lab.Frame) bool) lab.Frame {
	t.Helper()
	ctx := within(t, patient)
	for {
		frames, err := w.Arrived(ctx, host)
		require.NoError(t, err)
		require.NotEmpty(t, frames, "no such frame came to %s", host)
		for _, f := range frames {
			if matches(f) {
				return f
			}
		}
	}
}

// udpTo matches datagrams to a port.
func udpTo(port uint16) func(lab.Frame) bool {
	return func(f lab.Frame) bool {
		udp, ok := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.NoCopy).Layer(layers.LayerTypeUDP).(*layers.UDP)
		return ok && udp.DstPort == layers.UDPPort(port)
	}
}

func TestFramesArriveAsTheyWereSent(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	own, gateway, err := w.MACs("default/client")
	require.NoError(t, err)
	webOwn, webGateway, err := w.MACs("default/web")
	require.NoError(t, err)
	for _, tt := range []struct {
		name     string
		from, to netip.Addr
	}{
		{"IPv4", clientV4, webV4},
		{"IPv6", clientV6, webV6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := netip.AddrPortFrom(tt.from, 4000), netip.AddrPortFrom(tt.to, 4001)
			sent := time.Now()
			frame := udpFrame(t, own, gateway, from, to, []byte("a payload"))
			require.NoError(t, w.Send(t.Context(), "default/client", frame))
			arrived := await(t, w, "default/web", udpTo(4001))
			require.Equal(t, "default/web", arrived.Host)
			require.WithinRange(t, arrived.Time, sent.Add(-time.Second), time.Now().Add(time.Second))

			// The node routed it: other MACs, a lower TTL, and nothing else.
			want := udpFrame(t, webGateway, webOwn, from, to, []byte("a payload"))
			if tt.to.Is4() {
				want[14+8]--
				binary.BigEndian.PutUint16(want[14+10:], 0)
				binary.BigEndian.PutUint16(want[14+10:], ^fold(add(0, want[14:34])))
			} else {
				want[14+7]--
			}
			require.Equal(t, want, arrived.Data)
		})
	}
}

func TestNodeSendsToWhereTheDestinationIs(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	for _, tt := range []struct {
		host string
		to   netip.Addr
	}{
		{"default/web", webV4}, {"default/web", webV6},
		{"outside", outsideV4}, {"second", secondV6},
	} {
		t.Run(tt.host, func(t *testing.T) {
			own, gateway, err := w.MACs(tt.host)
			require.NoError(t, err)
			from, err := w.nodes[0].address(tt.to)
			require.NoError(t, err)
			frame := udpFrame(t, gateway, own, netip.AddrPortFrom(from, 1), netip.AddrPortFrom(tt.to, 4001), []byte("from the node"))
			require.NoError(t, w.Send(t.Context(), "node", frame))
			require.Equal(t, frame, await(t, w, tt.host, udpTo(4001)).Data)
		})
	}
}

func TestFramesThatNoInterfaceTakesAreNotDeliverable(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	require.ErrorIs(t, w.Send(t.Context(), "default/client", make([]byte, 13)), datapath.ErrNotDeliverable)
	require.ErrorIs(t, w.Send(t.Context(), "default/client", make([]byte, 1515)), datapath.ErrNotDeliverable)
}

func TestArrivedKeepsVLANTags(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	own, gateway, err := w.MACs("outside")
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		tags []byte
	}{
		{"802.1Q", []byte{0x81, 0x00, 0x00, 0x2a}},
		{"priority only", []byte{0x81, 0x00, 0xe0, 0x00}},
		{"QinQ", []byte{0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x2a}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plain := udpFrame(t, gateway, own, netip.AddrPortFrom(nodeV4, 1), netip.AddrPortFrom(outsideV4, 2), []byte("tagged"))
			frame := append(append(append([]byte(nil), plain[:12]...), tt.tags...), plain[12:]...)
			require.NoError(t, w.Send(t.Context(), "node", frame)) // No address is read behind tags: the first uplink.
			require.Equal(t, frame, await(t, w, "outside", func(f lab.Frame) bool { return isVLAN(binary.BigEndian.Uint16(f.Data[12:])) }).Data)
		})
	}
}

func TestArrivedWaitsUntilItsContextEnds(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	frames, err := w.Arrived(ctx, "second")
	require.NoError(t, err)
	require.Empty(t, frames, "the stacks are quiet")
	require.Error(t, ctx.Err())
}

func TestCapturedFramesOfSocketsHaveWholeChecksums(t *testing.T) {
	w := newTestWorld(t, Options{Plain: true})
	require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolTCP, 80, echo("default/web")))
	require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolUDP, 53, echo("default/web")))
	for _, at := range []netip.Addr{webV4, webV6} {
		for protocol, port := range map[model.Protocol]uint16{model.ProtocolTCP: 80, model.ProtocolUDP: 53} {
			checkExchange(t, w, "default/client", "default/web", protocol, netip.AddrPortFrom(at, port))
		}
	}
	for _, host := range []string{"default/client", "default/web"} {
		requireWholeChecksums(t, w, host)
	}
}

// requireWholeChecksums reads what comes to host until it was TCP and UDP of
// sockets, whatever else there is.
func requireWholeChecksums(t testing.TB, w *World, host string) {
	t.Helper()
	ctx := within(t, patient)
	seen := map[byte]bool{}
	for !seen[6] || !seen[17] {
		frames, err := w.Arrived(ctx, host)
		require.NoError(t, err)
		require.NotEmpty(t, frames, "%s got TCP: %t, UDP: %t", host, seen[6], seen[17])
		for _, f := range frames {
			if segment, pseudo, protocol, ok := transport(f.Data); ok {
				seen[protocol] = true
				require.Equal(t, uint16(0xffff), fold(add(pseudo, segment)), "%x", f.Data)
			}
		}
	}
}

func TestFramesThatAreNotReadInTimeAreCounted(t *testing.T) {
	a := &arrivals{news: make(chan struct{})}
	for range maxFrames + 3 {
		a.add(lab.Frame{})
	}
	frames, lost, _ := a.take()
	require.Len(t, frames, maxFrames)
	require.Equal(t, 3, lost)
	frames, lost, news := a.take()
	require.Empty(t, frames)
	require.Zero(t, lost)
	require.NotNil(t, news)
}

func FuzzFinishChecksum(f *testing.F) {
	from, to := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	mac := macAddress(1, 1)
	f.Add(udpFrame(f, mac, mac, from, to, []byte("odd")))
	f.Add(udpFrame(f, mac, mac, netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:2"), nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		// Put the sum of the pseudo-header where a stack would: then the
		// finished frame must be one that a receiver takes.
		segment, pseudo, protocol, ok := transport(frame)
		at := map[byte]int{6: 16, 17: 6}[protocol]
		if ok && len(segment) >= at+2 {
			binary.BigEndian.PutUint16(segment[at:], fold(pseudo))
		}
		finishChecksum(frame)
		if ok && len(segment) >= at+2 {
			require.Equal(t, uint16(0xffff), fold(add(pseudo, segment)))
		}
	})
}
