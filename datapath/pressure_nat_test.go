// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// translation is a flow that is translated at the node's edge.
type translation struct {
	hook           model.Hook // that its first packet meets
	ifindex        int
	client, server string // as the client has them
	port           uint16
	back           model.Hook // that its answers meet
	backIfindex    int
	peer, source   string // as the answerer has them
	peerPort       uint16
}

// translations are of each kind and family: by a node port to a pod and to
// elsewhere, and masqueraded.
func translations(n *node, uplink model.Uplink) map[string]translation {
	all := map[string]translation{}
	for family, a := range map[string]struct{ node, outside, pod, web, elsewhere string }{
		"ipv4": {"192.0.2.1", "198.51.100.7", "10.0.0.1", "10.0.0.2", "203.0.113.9"},
		"ipv6": {"2001:db8::1", "2001:db8:7::7", "fd00::1", "fd00::2", "2001:db8:9::9"},
	} {
		all["node port to a pod, "+family] = translation{
			model.FromDevice, uplink.Ifindex, a.outside, a.node, 30080,
			model.FromContainer, n.web.Ifindex, a.web, a.outside, 8080,
		}
		all["node port to elsewhere, "+family] = translation{
			model.FromDevice, uplink.Ifindex, a.outside, a.node, 30081,
			model.FromDevice, uplink.Ifindex, a.elsewhere, a.node, 8080,
		}
		all["masqueraded, "+family] = translation{
			model.FromContainer, n.client.Ifindex, a.pod, a.outside, 443,
			model.FromDevice, uplink.Ifindex, a.outside, a.node, 443,
		}
	}
	return all
}

// there passes a client's packet.
func (f translation) there(t *testing.T, d *Datapath, sport uint16, flags string) Ran {
	t.Helper()
	return runAt(t, d, f.hook, f.ifindex, tcpFrame(t, f.client, f.server, sport, f.port, tcpFlags[flags]), model.Forward)
}

// answer passes a packet of who serves. The source port of these flows is the
// client's own: nobody else has it.
func (f translation) answer(t *testing.T, d *Datapath, sport uint16, flags string) Ran {
	t.Helper()
	return runAt(t, d, f.back, f.backIfindex, tcpFrame(t, f.peer, f.source, f.peerPort, sport, tcpFlags[flags]), model.Forward)
}

var tcpFlags = map[string]func(*layers.TCP){"SYN": syn, "SYN+ACK": synAck, "ACK": ack}

func (f translation) establish(t *testing.T, d *Datapath, sport uint16) {
	t.Helper()
	f.there(t, d, sport, "SYN")
	f.answer(t, d, sport, "SYN+ACK")
	f.there(t, d, sport, "ACK")
}

// A SYN flood at the node's edge, from many sources, evicts only openings: who
// was answered goes on, in both directions.
func TestAFloodAtTheEdgeEvictsOnlyOpenings(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	d := openDatapath(t, Options{Flows: 256, Unanswered: 512})
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	kinds := translations(n, uplink)
	for _, f := range kinds {
		for i := range uint16(8) {
			f.establish(t, d, 40000+i)
		}
	}
	const flood = 1000
	for _, f := range kinds {
		for i := range uint16(flood) {
			f.there(t, d, 42000+i, "SYN")
		}
	}
	for name, f := range kinds {
		for i := range uint16(8) {
			require.Equal(t, FlowKnown, f.there(t, d, 40000+i, "ACK").Decision.Flow, name)
			require.Equal(t, FlowKnown, f.answer(t, d, 40000+i, "ACK").Decision.Flow, name)
		}
	}
}

// What is evicted of a translated flow is made again by its client's next
// packet, with the same port, and answers find back.
func TestOneHalfOfATranslatedFlowThatIsGoneIsMadeAgain(t *testing.T) {
	for half, replies := range map[string]bool{"opening": false, "answering": true} {
		t.Run(half, func(t *testing.T) {
			n := newNode(t)
			uplink := withUplink(t, n)
			d := openDatapath(t, small())
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			for name, f := range translations(n, uplink) {
				first := f.there(t, d, 40000, "SYN")
				forget(t, d.maps[bpf.ContainerMapCtUnanswered], replies)
				again := f.there(t, d, 40000, "SYN")
				require.Equal(t, FlowNew, again.Decision.Flow, name)
				require.Equal(t, first.Data, again.Data, name)
				require.Equal(t, FlowKnown, f.answer(t, d, 40000, "SYN+ACK").Decision.Flow, name)
				require.Equal(t, FlowKnown, f.there(t, d, 40000, "ACK").Decision.Flow, name)
				require.Equal(t, FlowKnown, f.answer(t, d, 40000, "ACK").Decision.Flow, name)
			}
		})
	}
}

// forget deletes the halves of one direction.
func forget(t *testing.T, table *ebpf.Map, replies bool) {
	t.Helper()
	entries, err := readFlows(table)
	require.NoError(t, err)
	gone := 0
	for key, e := range entries {
		if e.reply() == replies {
			require.NoError(t, table.Delete(&key))
			gone++
		}
	}
	require.Equal(t, 1, gone)
}
