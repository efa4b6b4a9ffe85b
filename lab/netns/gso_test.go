// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
)

// kernelFrom says whether the running kernel is that version or a later one.
func kernelFrom(t testing.TB, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	parts := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	require.GreaterOrEqual(t, len(parts), 2)
	runs, err := strconv.Atoi(parts[0])
	require.NoError(t, err)
	minorRuns, err := strconv.Atoi(strings.SplitN(parts[1], "-", 2)[0])
	require.NoError(t, err)
	return runs > major || runs == major && minorRuns >= minor
}

// segments are the TCP frames that come to a host's interface, and what its
// sender or its interface is to cut them into.
type segments struct{ fd int }

func watchSegments(t testing.TB, w *World, name string) *segments {
	t.Helper()
	h := w.byName[name]
	s := &segments{}
	require.NoError(t, h.ns.run(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: h.links[0].ifindex}),
		)
	}))
	t.Cleanup(func() { require.NoError(t, unix.Close(s.fd)) })
	return s
}

// sizes gives the IP packet sizes of what came: the largest that a frame is
// cut into, and the largest frame before that.
func (s *segments) sizes(t testing.TB) (segment, frame int) {
	t.Helper()
	const header = 10 // struct virtio_net_hdr
	buffer := make([]byte, header+maxFrame)
	for {
		n, err := unix.Read(s.fd, buffer)
		if errors.Is(err, unix.EAGAIN) {
			return segment, frame
		}
		require.NoError(t, err)
		data := buffer[header:n]
		tcp, _, protocol, ok := transport(data)
		if !ok || protocol != unix.IPPROTO_TCP {
			continue
		}
		whole := len(data) - 14
		frame = max(frame, whole)
		if cut := int(binary.NativeEndian.Uint16(buffer[4:])); cut > 0 { // gso_size
			whole = whole - len(tcp) + int(tcp[12]>>4)*4 + cut
		}
		segment = max(segment, whole)
	}
}

func TestSegmentsFitTheMTU(t *testing.T) {
	message := bytes.Repeat([]byte("0123456789abcdef"), 1<<15) // 512 KiB
	for _, g := range grounds() {
		for _, condition := range conditions {
			t.Run(g.name+", "+condition.name, func(t *testing.T) {
				w := g.build(t, true)
				require.NoError(t, w.Listen(t.Context(), "default/web", model.ProtocolTCP, 8080, echo("")))
				watches := map[string]*segments{}
				for _, host := range []string{"default/client", "default/web"} {
					setOffload(t, w, host, condition.offload)
					watches[host] = watchSegments(t, w, host)
				}
				for _, address := range g.addresses {
					c, err := w.Dial(within(t, patient), "default/client", model.ProtocolTCP, 0, g.at(address, 8080))
					require.NoError(t, err)
					answer, err := c.Exchange(within(t, patient), message)
					require.NoError(t, err)
					require.Equal(t, ": "+string(message), string(answer))
					require.NoError(t, c.Close())
					for host, watch := range watches {
						segment, frame := watch.sizes(t)
						require.LessOrEqual(t, segment, mtu, "%s, at %s", family(address), host)
						require.Greater(t, segment, mtu/2, "%s, at %s: segments are as large as they may be", family(address), host)
						require.Equal(t, condition.offload, frame > mtu, "%s, at %s: larger frames come where offloads are on alone, %d bytes came", family(address), host, frame)
					}
				}
				requireNoChecksumErrors(t, w)
			})
		}
	}
}

// TestDatagramsSentAsOneArriveApart has the kernel, or an interface, cut what
// a program wrote into datagrams (UDP_SEGMENT of udp(7)).
func TestDatagramsSentAsOneArriveApart(t *testing.T) {
	const size, whole, rest = 1200, 9, 300
	written := make([]byte, whole*size+rest)
	for i := range written {
		written[i] = byte(i / size)
	}
	eachGround(t, func(t *testing.T, w *World, g ground, address netip.Addr) {
		listening := firstOf(w.byName["default/web"].addresses, address.Is4())
		receiver := openDatagrams(t, w, "default/web", func() (net.Conn, error) {
			return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(listening, 5353)))
		})
		sender := openDatagrams(t, w, "default/client", func() (net.Conn, error) {
			return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(g.at(address, 5353)))
		})
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
		for n := range whole + 1 {
			want := written[n*size : min((n+1)*size, len(written))]
			got := make([]byte, 2*size)
			length, err := receiver.Read(got)
			require.NoError(t, err, "datagram %d", n)
			require.Equal(t, want, got[:length], "datagram %d", n)
		}
	})
}

func openDatagrams(t testing.TB, w *World, host string, open func() (net.Conn, error)) net.Conn {
	t.Helper()
	var socket net.Conn
	require.NoError(t, w.byName[host].ns.run(func() (err error) {
		socket, err = open()
		return err
	}))
	t.Cleanup(func() { require.NoError(t, socket.Close()) })
	require.NoError(t, socket.SetDeadline(time.Now().Add(patient)))
	return socket
}

func TestProgramsAreAttachedAsTheKernelCanAndAsToldTo(t *testing.T) {
	own := "clsact"
	if kernelFrom(t, 6, 6) {
		own = "tcx"
	}
	for _, tt := range []struct {
		force bool
		want  string
	}{{false, own}, {true, "clsact"}} {
		t.Run(fmt.Sprintf("clsact forced: %t", tt.force), func(t *testing.T) {
			var options Options
			options.Datapath.ForceClsact = tt.force
			w := newTestWorld(t, options)
			applyObjects(t, w, serviceObjects, onlyClient)
			require.Equal(t, tt.want, w.Datapath("").Attachment())
			listenEverywhere(t, w, "default/web")
			for _, address := range []netip.Addr{webServiceV4, webServiceV6} {
				for _, port := range ports {
					at := netip.AddrPortFrom(address, port.service)
					checkExchange(t, w, "default/client", "default/web", port.protocol, at)
				}
			}
			for over := within(t, patient); policyDrops(t, w) == 0 && over.Err() == nil; { // time may be up before anything is sent
				require.Error(t, w.Ping(within(t, brief), "default/other", webV4))
			}
			require.Contains(t, reasons(w.Walks()), model.Reason("policy-ingress"))
		})
	}
}
