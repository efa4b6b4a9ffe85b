// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
)

// sendMarked sends a datagram from a host, by a socket that marks what it sends.
func sendMarked(t *testing.T, w *World, host string, mark uint32, to netip.AddrPort) {
	t.Helper()
	require.NoError(t, w.byName[host].ns.run(func() error {
		family := unix.AF_INET
		if to.Addr().Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return err
		}
		return unix.Sendto(fd, []byte("?"), 0, sockaddr(to))
	}))
}

// Hooks let pass what has the datapath's marks. Who is root in a pod may mark what its
// sockets send: the kernel takes the mark off where the packet leaves the pod's
// namespace (skb_scrub_packet in net/core/skbuff.c), so that policies hold.
func TestAPodsOwnMarksOpenNothing(t *testing.T) {
	w := newTestWorld(t, Options{})
	applyObjects(t, w, serviceObjects, onlyClient)
	for _, mark := range []uint32{
		uint32(bpf.ContainerMarkMARK_DECIDED), uint32(bpf.ContainerMarkMARK_ANSWER),
		uint32(bpf.ContainerMarkMARK_DELIVERED), uint32(bpf.ContainerMarkMARK_MASK),
	} {
		for _, at := range []netip.Addr{webV4, webV6} {
			t.Run(fmt.Sprintf("%#x to %s", mark, at), func(t *testing.T) {
				before := policyDrops(t, w)
				sendMarked(t, w, "default/other", mark, netip.AddrPortFrom(at, 5353))
				require.Eventually(t, func() bool { return policyDrops(t, w) > before }, patient, time.Millisecond)
			})
		}
	}
}
