// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// flooded is a node whose pod web floods one of its tables while client opens
// connections, all to one peer outside. Tables have the room that they have by default.
//
//	client, web ---- node, its address lent ~~~~ peer
type flooded struct {
	t          *testing.T
	n          *node
	d          *Datapath
	uplink     model.Uplink
	pods, back *Runner
	six        bool
}

// newFlooded lends as many ports, the first eighth of them to itself; 0: as many as by
// default.
func newFlooded(t *testing.T, six bool, ports uint16) *flooded {
	n := newNode(t)
	f := &flooded{t: t, n: n, uplink: withUplink(t, n), six: six}
	if ports > 0 {
		n.state.Node.Masquerade.FirstPort = 65535 - ports + 1
	}
	n.state.Node.Masquerade.NodePorts = (65535 - n.state.Node.Masquerade.FirstPort + 1) / 8
	f.d = openDatapath(t, Options{})
	_, err := f.d.Apply(n.state.Clone())
	require.NoError(t, err)
	f.pods, f.back = f.d.Runner(model.FromContainer), f.d.Runner(model.FromDevice)
	return f
}

// holds counts what the flood has at the end: flows that were answered, and others.
func (f *flooded) holds() (answered, unanswered int) {
	for table, count := range map[string]*int{bpf.ContainerMapCtAnswered: &answered, bpf.ContainerMapCtUnanswered: &unanswered} {
		require.NoError(f.t, readBatches(f.d.maps[table], func(key flowKey, _ flowValue) {
			if hooks[key.Hook] == model.FromContainer && key.Ifindex == uint32(f.n.web.Ifindex) {
				*count++
			}
		}))
	}
	return answered, unanswered
}

func (f *flooded) pick(four, six string) string {
	if f.six {
		return six
	}
	return four
}

func (f *flooded) pass(r *Runner, ifindex int, frame []byte) Ran {
	f.t.Helper()
	ran, err := r.Run(frame, ifindex, 0)
	require.NoError(f.t, err)
	return ran
}

func (f *flooded) client() string { return f.pick("10.0.0.1", "fd00::1") }
func (f *flooded) web() string    { return f.pick("10.0.0.2", "fd00::2") }
func (f *flooded) peer() string   { return f.pick("198.51.100.7", "2001:db8:7::7") }

// others is one of very many hosts outside.
func (f *flooded) others(i int) string {
	return f.pick(fmt.Sprintf("203.0.%d.%d", i/250%250, 1+i%250), fmt.Sprintf("2001:db8:9::%x", 1+i%62500))
}

func (f *flooded) from(device model.Device, src, dst string, sport, dport uint16, flags func(*layers.TCP)) Ran {
	f.t.Helper()
	return f.pass(f.pods, device.Ifindex, tcpFrame(f.t, src, dst, sport, dport, flags))
}

// opens passes the packets of a connection with who is outside, and others' between
// them. It is whether each went where it should.
func (f *flooded) opens(device model.Device, src, dst string, sport, dport uint16, between func()) bool {
	f.t.Helper()
	there := f.from(device, src, dst, sport, dport, syn)
	if there.Decision.Action != model.Forward {
		return false
	}
	l4 := 34
	if f.six {
		l4 = 54
	}
	lent := binary.BigEndian.Uint16(there.Data[l4:])
	between()
	answer := f.pass(f.back, f.uplink.Ifindex, tcpFrame(f.t, dst, f.pick("192.0.2.1", "2001:db8::1"), dport, lent, synAck)).Decision
	if answer.Action != model.Forward || answer.Flow != FlowKnown || answer.Out != model.OutLocal || answer.Ifindex != device.Ifindex {
		return false
	}
	between()
	return f.from(device, src, dst, sport, dport, ack).Decision.Flow == FlowKnown
}

// fragment is one of a pod's packets in two.
func (f *flooded) fragment(device model.Device, src, dst string, id uint32, first bool) []byte {
	frame := tcpFrame(f.t, src, dst, 5000, 80, ack)
	offset, more := uint16(3), false
	if first {
		offset, more = 0, true
	}
	if !f.six {
		binary.BigEndian.PutUint16(frame[18:], uint16(id))
		word := offset
		if more {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(frame[20:], word)
		return frame
	}
	word := offset << 3
	if more {
		word |= 1
	}
	header := []byte{frame[20], 0, byte(word >> 8), byte(word), 0, 0, 0, 0}
	binary.BigEndian.PutUint32(header[4:], id)
	frame[20] = 44
	frame = append(frame[:54:54], append(header, frame[54:]...)...)
	binary.BigEndian.PutUint16(frame[18:], uint16(len(frame)-54))
	return frame
}

// hoggings are what a pod does to have all of a table: the packets of one turn.
func hoggings() map[string]func(f *flooded, i int) {
	nothing := func() {}
	ports := func(first, count int) func(f *flooded, i int) {
		return func(f *flooded, i int) {
			port := uint16(first + i%count)
			if i < 18000 {
				f.opens(f.n.web, f.web(), f.peer(), port, 443, nothing)
			} else {
				f.from(f.n.web, f.web(), f.peer(), port, 443, syn)
			}
		}
	}
	return map[string]func(f *flooded, i int){
		"unanswered": func(f *flooded, i int) {
			f.from(f.n.web, f.web(), f.others(i), uint16(1024+i%60000), 80, syn)
		},
		"flows": func(f *flooded, i int) { // with those outside who are its friends
			f.opens(f.n.web, f.web(), f.others(i), uint16(37000+i%28000), 80, nothing)
		},
		// All ports towards the peer: as many answered as it may have, then others.
		"ports": ports(36864, 28672),
		"ports, unanswered": func(f *flooded, i int) {
			f.from(f.n.web, f.web(), f.peer(), uint16(36864+i%28672), 443, syn)
		},
		// The same where the operator lends few ports: fewer than a pod may have flows.
		"few ports": ports(58368, 7168),
		"fragments": func(f *flooded, i int) {
			f.pass(f.pods, f.n.web.Ifindex, f.fragment(f.n.web, f.web(), f.client(), uint32(i), true))
		},
	}
}

// One pod floods a table, without end: so many turns before another's first packet,
// and some before each of its further ones. Of the others' connections, and of their
// packets in fragments, 99 of 100 come through; the test prints how many.
func TestOthersOpenConnectionsWhileOnePodFloods(t *testing.T) {
	const before, between, tries = 60000, 20, 500
	lent := map[string]uint16{"few ports": 8192}
	for table, flood := range hoggings() {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", table, six), func(t *testing.T) {
				f, turn := newFlooded(t, six, lent[table]), 0
				run := func(turns int) {
					for range turns {
						flood(f, turn)
						turn++
					}
				}
				run(before)
				opened := 0
				for i := range tries {
					run(between)
					if table == "fragments" {
						if f.wholeOf(i, func() { run(between) }) {
							opened++
						}
					} else if f.opens(f.n.client, f.client(), f.peer(), uint16(40000+i), 443, func() { run(between) }) {
						opened++
					}
				}
				answered, unanswered := f.holds()
				t.Logf("%d of %d come through (%.1f %%), with %d turns of the flood, which has %d answered flows and %d others", opened, tries, 100*float64(opened)/tries, turn, answered, unanswered)
				require.GreaterOrEqual(t, opened*100, tries*99)
			})
		}
	}
}

// wholeOf is whether both parts of a packet of client's come to web.
func (f *flooded) wholeOf(i int, between func()) bool {
	id := uint32(i)
	first := f.pass(f.pods, f.n.client.Ifindex, f.fragment(f.n.client, f.client(), f.web(), id, true)).Decision.Action
	between()
	last := f.pass(f.pods, f.n.client.Ifindex, f.fragment(f.n.client, f.client(), f.web(), id, false)).Decision.Action
	return first == model.Forward && last == model.Forward
}
