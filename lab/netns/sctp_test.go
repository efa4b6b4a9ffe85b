// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
)

// sctpPort is what SCTP is served on everywhere: its checksum covers the
// ports, so that no service translates them.
const sctpPort = 30132

// sctpService is a service of kind NodePort.
func sctpService(name, app string, v4, v6 netip.Addr, nodePort bool) string {
	kind, port := "ClusterIP", ""
	if nodePort {
		kind, port = "NodePort", fmt.Sprintf(", nodePort: %d", sctpPort)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec:
  type: %s
  selector: {app: %s}
  clusterIP: %s
  clusterIPs: [%[4]s, "%s"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports: [{port: %d, protocol: SCTP%s}]
`, name, kind, app, v4, v6, sctpPort, port)
}

// openSCTP opens a one-to-one socket of one address, so that no handshake
// tells of others. It has the patience of a test.
func openSCTP(at netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, err
	}
	wait := unix.NsecToTimeval(patient.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.Bind(fd, sockaddr(at)),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// serveSCTP takes one association and answers one message of it. What it has
// seen comes out of the channel.
func serveSCTP(t *testing.T, w *World, host string, at netip.Addr) <-chan string {
	t.Helper()
	h := w.byName[host]
	listener := -1
	require.NoError(t, h.ns.run(func() (err error) {
		if listener, err = openSCTP(netip.AddrPortFrom(at, sctpPort)); err == nil {
			err = unix.Listen(listener, 1)
		}
		return err
	}))
	saw := make(chan string, 1)
	go func() {
		defer unix.Close(listener)
		fd, from, err := unix.Accept(listener)
		if err != nil {
			saw <- err.Error()
			return
		}
		defer unix.Close(fd)
		buffer := make([]byte, 1500)
		n, err := unix.Read(fd, buffer)
		if err == nil {
			_, err = unix.Write(fd, append([]byte(host+": "), buffer[:n]...))
		}
		var peer netip.Addr
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			peer = netip.AddrFrom4(from.Addr)
		case *unix.SockaddrInet6:
			peer = netip.AddrFrom16(from.Addr)
		}
		saw <- fmt.Sprintf("%s %v", peer, err)
		// The association ends when the client is done.
		unix.Read(fd, buffer)
	}()
	return saw
}

func askSCTP(t *testing.T, w *World, from string, to netip.AddrPort) (answer string) {
	t.Helper()
	own, err := w.byName[from].address(to.Addr())
	require.NoError(t, err)
	require.NoError(t, w.byName[from].ns.run(func() error {
		fd, err := openSCTP(netip.AddrPortFrom(own, 0))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(to)); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		buffer := make([]byte, 1500)
		n, err := unix.Read(fd, buffer)
		answer = string(buffer[:max(n, 0)])
		return err
	}))
	return answer
}

func TestSCTPGoesThroughServicesAndMasquerading(t *testing.T) {
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		t.Skip("this kernel has no SCTP (CONFIG_IP_SCTP, modprobe sctp)")
	}
	require.NoError(t, err)
	require.NoError(t, unix.Close(probe))

	w := newNodesWorld(t, uplinkTopology(), Options{})
	applyToNodes(t, w, model.Options{Masquerade: true}, twoNodeObjects+
		sctpService("near", "web", nearV4, nearV6, false)+sctpService("distant", "far", distantV4, distantV6, true))
	for _, j := range []journey{
		{"pod to ClusterIP of a pod here", "default/client", "default/web", []netip.Addr{nearV4, nearV6}, nil, []netip.Addr{clientV4, clientV6}},
		{"pod to ClusterIP of a pod elsewhere", "default/client", "default/far", []netip.Addr{distantV4, distantV6}, nil, []netip.Addr{clientV4, clientV6}},
		{"node to ClusterIP of a pod here", "node", "default/web", []netip.Addr{nearV4, nearV6}, nil, []netip.Addr{nodeV4, nodeV6}},
		{"outside to a node port, pod there", "outside", "default/far", []netip.Addr{node2V4, node2V6}, nil, []netip.Addr{outsideV4, outsideV6}},
		{"outside to a node port, pod elsewhere", "second", "default/far", []netip.Addr{nodeV4, nodeV6}, nil, []netip.Addr{nodeV4, nodeV6}},
		{"pod to outside", "default/client", "outside", []netip.Addr{outsideV4, outsideV6}, nil, []netip.Addr{nodeV4, nodeV6}},
	} {
		for i, address := range j.at {
			t.Run(j.name+", "+family(address), func(t *testing.T) {
				saw := serveSCTP(t, w, j.to, firstOf(w.byName[j.to].addresses, address.Is4()))
				require.Equal(t, j.to+": hello", askSCTP(t, w, j.from, netip.AddrPortFrom(address, sctpPort)))
				require.Equal(t, j.sees[i].String()+" <nil>", <-saw)
			})
		}
	}
}
