// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

var tunnels = []model.Tunnel{model.TunnelIPIP, model.TunnelGeneve}

// newReturnWorld is newUplinkWorld where backends of other nodes answer clients
// from outside themselves.
func newReturnWorld(t testing.TB, tunnel model.Tunnel, options Options) *World {
	t.Helper()
	w := newNodesWorld(t, uplinkTopology(), options)
	applyToNodes(t, w, model.Options{Masquerade: true, Return: model.ReturnDSR, Tunnel: tunnel}, uplinkObjects)
	return w
}

// isStraight is whether a journey's answers take another way than by the node
// that the client came to.
func (j journey) isStraight() bool { return j.from == "outside" && j.to == "default/far" }

func straightJourneys() []journey {
	return slices.DeleteFunc(journeys(), func(j journey) bool { return !j.isStraight() })
}

func TestBackendsElsewhereAnswerClientsThemselves(t *testing.T) {
	for _, tunnel := range tunnels {
		w := newReturnWorld(t, tunnel, Options{})
		listenEverywhere(t, w, servers...)
		for _, j := range journeys() {
			if j.isStraight() {
				j.sees = []netip.Addr{outsideV4, outsideV6}
			}
			for i, address := range j.at {
				for _, port := range ports {
					t.Run(fmt.Sprintf("%s, %s, %s %s", tunnel, j.name, family(address), port.protocol), func(t *testing.T) {
						checkJourney(t, w, j, port.protocol, j.where(address, port.target), j.sees[i])
					})
				}
			}
		}
		for _, name := range []string{"default/client", "default/web", "default/far", "node", "node-2", "outside"} {
			requireWholeChecksums(t, w, name)
		}
	}
}

func TestTheNodeThatAClientCameToSeesNoAnswers(t *testing.T) {
	for _, tunnel := range tunnels {
		w := newReturnWorld(t, tunnel, Options{})
		listenEverywhere(t, w, servers...)
		for _, j := range straightJourneys() {
			for i, address := range j.at {
				for _, port := range ports {
					checkJourney(t, w, j, port.protocol, j.where(address, port.target), []netip.Addr{outsideV4, outsideV6}[i])
				}
			}
		}
		came, err := w.Arrived(within(t, patient), "node")
		require.NoError(t, err)
		require.NotEmpty(t, came)
		for _, f := range came {
			p := frame.Decode(f.Data)
			answer := p.Dst == outsideV4 || p.Dst == outsideV6 || p.Src == farV4 || p.Src == farV6
			require.False(t, answer, "%s: %s", tunnel, frame.Line(f.Data))
		}
	}
}

// TestASegmentThatDoesNotFitIsSentAgainSmaller sends single segments as large as
// the client's own link lets them be, whose checksum is made by nobody where
// offloads are on: the client has to learn what fits.
func TestASegmentThatDoesNotFitIsSentAgainSmaller(t *testing.T) {
	for _, tunnel := range tunnels {
		for _, condition := range conditions {
			t.Run(fmt.Sprintf("%s, %s", tunnel, condition.name), func(t *testing.T) {
				w := newReturnWorld(t, tunnel, Options{})
				listenEverywhere(t, w, servers...)
				setOffload(t, w, "outside", condition.offload)
				for _, j := range straightJourneys() {
					for _, address := range j.at {
						c, err := w.Dial(within(t, patient), j.from, model.ProtocolTCP, 0, j.where(address, 8080))
						require.NoError(t, err)
						message := bytes.Repeat([]byte("x"), mtu-20-20-12)
						if address.Is6() {
							message = message[20:]
						}
						answer, err := c.Exchange(within(t, patient), message)
						require.NoError(t, err, "%s, %s", j.name, address)
						require.Len(t, answer, len(j.to+": ")+len(message))
						require.NoError(t, c.Close())
						said := frame.Decode(await(t, w, "outside", isTooBig).Data)
						require.Equal(t, frame.Right, said.Checksums().Transport)
						if condition.offload { // to make the quoted checksum leaves it as it is
							quoted, ok := said.Quoted()
							require.True(t, ok)
							made := ^fold(add(0, quoted.Transport()))
							require.Equal(t, binary.BigEndian.Uint16(quoted.Transport()[16:]), made)
						}
					}
				}
				require.Contains(t, reasons(w.Walks()), model.Reason("too-big"))
			})
		}
	}
}

// TestDatagramsInPartsGoThroughTunnels sends datagrams in parts that do not fit.
// The first ones are lost: they tell the client what fits.
func TestDatagramsInPartsGoThroughTunnels(t *testing.T) {
	message := bytes.Repeat([]byte("fragment"), 2970/8)
	for _, tunnel := range tunnels {
		w := newReturnWorld(t, tunnel, Options{Blind: true})
		listenEverywhere(t, w, servers...)
		for _, j := range straightJourneys() {
			for _, address := range j.at {
				t.Run(fmt.Sprintf("%s, %s, %s", tunnel, j.name, family(address)), func(t *testing.T) {
					c, err := w.Dial(within(t, patient), j.from, model.ProtocolUDP, 0, j.where(address, 5353))
					require.NoError(t, err)
					var answer []byte
					for over := within(t, patient); over.Err() == nil; {
						if answer, err = c.Exchange(within(t, 500*time.Millisecond), message); err == nil {
							break
						}
					}
					require.NoError(t, err)
					require.Equal(t, j.to+": "+string(message), string(answer))
					require.NoError(t, c.Close())
				})
			}
		}
		requireNoChecksumErrors(t, w)
	}
}

// TestDatagramsSentAsOneComeApartThroughTunnels is TestDatagramsSentAsOneArriveApart
// by a tunnel. Left out is Geneve between interfaces that never cut: of what came
// in a datagram, no kernel forgets that (SKB_GSO_UDP_TUNNEL) when it is taken
// out, and the pod's cuts it wrongly. Interfaces of hardware cut before.
func TestDatagramsSentAsOneComeApartThroughTunnels(t *testing.T) {
	const size, whole, rest = 1200, 9, 300
	written := make([]byte, whole*size+rest)
	for i := range written {
		written[i] = byte(i / size)
	}
	for _, tunnel := range tunnels {
		for _, condition := range conditions {
			if tunnel == model.TunnelGeneve && condition.offload {
				continue
			}
			w := newReturnWorld(t, tunnel, Options{Blind: true})
			for _, host := range []string{"outside", "node", "node-2", "default/far"} {
				setOffload(t, w, host, condition.offload)
			}
			for _, address := range []netip.Addr{nodeV4, nodeV6} {
				t.Run(fmt.Sprintf("%s, %s, %s", tunnel, condition.name, family(address)), func(t *testing.T) {
					listening := firstOf(w.byName["default/far"].addresses, address.Is4())
					receiver := openDatagrams(t, w, "default/far", func() (net.Conn, error) {
						return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(listening, 5353)))
					})
					sender := openDatagrams(t, w, "outside", func() (net.Conn, error) {
						return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 32353)))
					})
					sendAsOne(t, sender, written, size)
					require.NoError(t, receiver.SetDeadline(time.Now().Add(patient)))
					for n := range whole + 1 {
						want := written[n*size : min((n+1)*size, len(written))]
						got := make([]byte, 2*size)
						length, err := receiver.Read(got)
						require.NoError(t, err, "datagram %d", n)
						require.Equal(t, want, got[:length], "datagram %d", n)
					}
				})
			}
			requireNoChecksumErrors(t, w)
		}
	}
}

func TestDatagramsSentAsOneThatDoNotFitAreTold(t *testing.T) {
	for _, tunnel := range tunnels {
		for _, address := range []netip.Addr{nodeV4, nodeV6} {
			t.Run(fmt.Sprintf("%s, %s", tunnel, family(address)), func(t *testing.T) {
				size := mtu - 28
				if address.Is6() {
					size -= 20
				}
				w := newReturnWorld(t, tunnel, Options{})
				sender := openDatagrams(t, w, "outside", func() (net.Conn, error) {
					return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 32353)))
				})
				sendAsOne(t, sender, make([]byte, 3*size), size)
				said := frame.Decode(await(t, w, "outside", isTooBig).Data)
				require.Equal(t, frame.Right, said.Checksums().Transport)
				require.Contains(t, reasons(w.Walks()), model.Reason("too-big"))
			})
		}
	}
}

// sendAsOne writes datagrams of a size in one piece, which the kernel cuts.
func sendAsOne(t *testing.T, sender net.Conn, written []byte, size int) {
	t.Helper()
	raw, err := sender.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	var failed error
	require.NoError(t, raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	}))
	require.NoError(t, failed)
	_, err = sender.Write(written)
	if errors.Is(err, unix.EIO) && !kernelFrom(t, 6, 11) {
		t.Skip("kernels before 6.11 (10154dbded6d) do not cut datagrams for interfaces without checksum offload")
	}
	require.NoError(t, err)
}

func isTooBig(f lab.Frame) bool {
	p := frame.Decode(f.Data)
	b := p.Transport()
	return p.Version == 4 && p.Proto == unix.IPPROTO_ICMP && b[0] == 3 && b[1] == 4 ||
		p.Version == 6 && p.Proto == unix.IPPROTO_ICMPV6 && b[0] == 2
}

// TestLargeDataGoesThroughTunnels sends data in segments that do not fit until
// the client has learned what fits, and in super-packets.
func TestLargeDataGoesThroughTunnels(t *testing.T) {
	message := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for _, tunnel := range tunnels {
		for _, condition := range conditions {
			for _, at := range []string{"outside", "node"} {
				t.Run(fmt.Sprintf("%s, %s, at %s", tunnel, condition.name, at), func(t *testing.T) {
					w := newReturnWorld(t, tunnel, Options{Blind: true})
					listenEverywhere(t, w, servers...)
					setOffload(t, w, at, condition.offload)
					setOffload(t, w, "default/far", condition.offload)
					watch := watchSegments(t, w, "node-2")
					for _, j := range straightJourneys() {
						for _, address := range j.at {
							c, err := w.Dial(within(t, patient), j.from, model.ProtocolTCP, 0, j.where(address, 8080))
							require.NoError(t, err)
							answer, err := c.Exchange(within(t, patient), message)
							require.NoError(t, err, "%s, %s", j.name, address)
							require.Equal(t, j.to+": "+string(message), string(answer))
							require.NoError(t, c.Close())
							largest, whole := watch.tunnelled(t)
							require.LessOrEqual(t, largest, mtu, "%s, %s", j.name, address)
							require.Greater(t, largest, mtu/2, "%s, %s", j.name, address)
							require.Equal(t, condition.offload, whole > mtu, "%s, %s: %d bytes came", j.name, address, whole)
						}
					}
					requireNoChecksumErrors(t, w)
				})
			}
		}
	}
}

// tunnelled gives the sizes of what came in a tunnel: the largest packet that a
// frame is cut into, and the largest frame before that, without Ethernet.
func (s *segments) tunnelled(t testing.TB) (packet, whole int) {
	t.Helper()
	const header = 10 // struct virtio_net_hdr
	buffer := make([]byte, header+maxFrame)
	for {
		n, err := unix.Read(s.fd, buffer)
		if errors.Is(err, unix.EAGAIN) {
			return packet, whole
		}
		require.NoError(t, err)
		p := frame.Decode(buffer[header:n])
		inner, ok := p.Carried()
		if !ok || inner.Proto != unix.IPPROTO_TCP {
			continue
		}
		size := len(p.Data) - p.L3
		whole = max(whole, size)
		if cut := int(binary.NativeEndian.Uint16(buffer[4:])); cut > 0 { // gso_size
			size = inner.L4 - p.L3 + int(inner.Data[inner.L4+12]>>4)*4 + cut
		}
		packet = max(packet, size)
	}
}
