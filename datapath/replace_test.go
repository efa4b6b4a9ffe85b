// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weirnet/weir/model"
)

// movePod puts a device's pod side into a namespace of its own, with an
// address and a default route: the gateway is the datapath's to answer.
func movePod(t *testing.T, dev model.Device, address string) netns.NsHandle {
	t.Helper()
	home, err := netns.Get()
	require.NoError(t, err)
	defer home.Close()
	pod, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pod.Close()) })
	require.NoError(t, netns.Set(home))

	side, err := netlink.LinkByName(dev.Name + "-pod")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetNsFd(side, int(pod)))
	h, err := netlink.NewHandleAt(pod)
	require.NoError(t, err)
	defer h.Close()
	side, err = h.LinkByName(dev.Name + "-pod")
	require.NoError(t, err)
	require.NoError(t, h.AddrAdd(side, &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP(address))}))
	require.NoError(t, h.LinkSetUp(side))
	gateway := net.ParseIP("169.254.1.1")
	require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: side.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: netlink.NewIPNet(gateway)}))
	require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: side.Attrs().Index, Gw: gateway}))
	return pod
}

// listenIn makes a UDP socket in a namespace: it stays there.
func listenIn(t *testing.T, ns netns.NsHandle) *net.UDPConn {
	t.Helper()
	home, err := netns.Get()
	require.NoError(t, err)
	defer home.Close()
	require.NoError(t, netns.Set(ns))
	defer func() { require.NoError(t, netns.Set(home)) }()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 7000})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestProgramsAreReplacedAThousandTimesUnderLoadWithoutALoss counts datagrams
// from pod to pod meanwhile. The window keeps sockets from dropping any.
func TestProgramsAreReplacedAThousandTimesUnderLoadWithoutALoss(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if tcx, err := haveTCX(); err != nil || !tcx && !clsact {
				t.Skip("kernel before 6.6 has no tcx")
			}
			sender, receiver := movePod(t, n.client, "10.0.0.1"), movePod(t, n.web, "10.0.0.2")
			opts := small()
			opts.Attach, opts.ForceClsact = true, clsact
			d := openDatapath(t, opts)
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.Equal(t, name, d.Attachment())
			load := startLoad(t, listenIn(t, sender), listenIn(t, receiver))
			load.wait(t, 100)

			first := d.programs
			second, err := d.loadAgain()
			require.NoError(t, err)
			const least = 1000
			times := 0
			// On a busy machine frames take their time: as many come as programs, but where all are lost.
			for ; times < least || load.sent.Load() <= least && times < 20*least; times += 2 {
				require.NoError(t, d.attached.replace(second))
				require.NoError(t, d.attached.replace(first))
			}
			sent, received := load.stop(t)
			require.NoError(t, second.close())
			fmt.Printf("%s: programs replaced %d times under load: %d of %d frames lost\n", name, times, sent-received, sent)
			require.Equal(t, sent, received)
			require.Greater(t, sent, uint64(least))
		})
	}
}

// load is a stream of numbered datagrams.
type load struct {
	sent, received atomic.Uint64
	end            chan struct{}
	ended          chan error
}

const window = 64

func startLoad(t *testing.T, from, to *net.UDPConn) *load {
	t.Helper()
	l := &load{end: make(chan struct{}), ended: make(chan error, 1)}
	credit := make(chan struct{}, window)
	for range window {
		credit <- struct{}{}
	}
	go func() {
		b := make([]byte, 8)
		for {
			if _, err := to.Read(b); err != nil {
				return
			}
			l.received.Add(1)
			credit <- struct{}{}
		}
	}()
	go func() {
		b := make([]byte, 8)
		for {
			select {
			case <-l.end:
				l.ended <- nil
				return
			case <-credit:
			}
			binary.BigEndian.PutUint64(b, l.sent.Load())
			if _, err := from.WriteToUDP(b, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 7000}); err != nil {
				l.ended <- err
				return
			}
			l.sent.Add(1)
		}
	}()
	return l
}

func (l *load) wait(t *testing.T, frames uint64) {
	t.Helper()
	require.Eventually(t, func() bool { return l.received.Load() >= frames }, time.Minute, time.Millisecond)
}

func (l *load) stop(t *testing.T) (sent, received uint64) {
	t.Helper()
	close(l.end)
	require.NoError(t, <-l.ended)
	sent = l.sent.Load()
	// What is still on its way arrives, or is lost.
	for end := time.Now().Add(time.Minute); l.received.Load() != sent && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return sent, l.received.Load()
}
