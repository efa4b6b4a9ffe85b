// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// roomy has room for 64k flows in either table.
func roomy() Options { return Options{Flows: 1 << 18, Unanswered: 1 << 18} }

// natBench is a node with an uplink, and who speaks through it.
type natBench struct {
	n      *node
	d      *Datapath
	uplink model.Uplink
	six    bool
}

// elsewhere is how many backends the service of a natBench has: a source port
// leads to each of them once.
const elsewhere = 8

func newNATBench(b *testing.B, six bool, change func(*model.State)) *natBench {
	b.Helper()
	n := newNode(b)
	nb := &natBench{n: n, uplink: withUplink(b, n), six: six}
	for i := range n.state.Services.Len() {
		s := n.state.Services.At(i)
		if s.Port != 30081 {
			continue
		}
		s.Backends = nil
		for k := range elsewhere {
			s.Backends = append(s.Backends, model.Backend{Address: nb.of(s.Address.Is6(), 200+k), Port: 8080})
		}
	}
	if change != nil {
		change(n.state)
	}
	nb.d = openDatapath(b, roomy())
	_, err := nb.d.Apply(n.state.Clone())
	require.NoError(b, err)
	return nb
}

// of is a host outside.
func (nb *natBench) of(six bool, host int) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%x", host))
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(host)})
}

func (nb *natBench) pick(four, six string) string {
	if nb.six {
		return six
	}
	return four
}

// decide passes a frame and gives what became of it: its ports and addresses.
func decide(b *testing.B, r *Runner, frame []byte, ifindex int) (Decision, netip.AddrPort, netip.AddrPort) {
	b.Helper()
	ran, err := r.Run(frame, ifindex, 0)
	require.NoError(b, err)
	src, dst := netip.AddrFrom4([4]byte(ran.Data[26:30])), netip.AddrFrom4([4]byte(ran.Data[30:34]))
	l4 := ran.Data[34:]
	if ran.Data[12] == 0x86 {
		src, dst = netip.AddrFrom16([16]byte(ran.Data[22:38])), netip.AddrFrom16([16]byte(ran.Data[38:54]))
		l4 = ran.Data[54:]
	}
	return ran.Decision, netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
}

// talk opens a flow at a hook, answers it at the uplink, and gives the frame
// that goes on with it.
func (nb *natBench) talk(b *testing.B, there, back *Runner, ifindex int, src, dst string, sport, dport uint16) []byte {
	b.Helper()
	dec, outside, peer := decide(b, there, tcpFrame(b, src, dst, sport, dport, syn), ifindex)
	require.Equalf(b, model.Forward, dec.Action, "%+v", dec)
	answer := tcpFrame(b, peer.Addr().String(), outside.Addr().String(), peer.Port(), outside.Port(), synAck)
	dec, _, _ = decide(b, back, answer, nb.uplink.Ifindex)
	require.Equalf(b, FlowKnown, dec.Flow, "%+v", dec)
	frame := tcpFrame(b, src, dst, sport, dport, ack)
	dec, _, _ = decide(b, there, frame, ifindex)
	require.Equalf(b, FlowKnown, dec.Flow, "%+v", dec)
	return frame
}

// BenchmarkNodePortSNAT measures packets of known flows from outside to
// backends elsewhere: of so many that take turns, none of which is in a cache
// any more when its turn comes, and of one beside the others.
func BenchmarkNodePortSNAT(b *testing.B) {
	forFamilies(b, []int{1, 256, 1 << 16}, func(b *testing.B, six bool, flows int) {
		nb := newNATBench(b, six, nil)
		r := nb.d.Runner(model.FromDevice)
		var frames [][]byte
		for i := range flows {
			client := nb.pick(fmt.Sprintf("198.51.100.%d", i%256), fmt.Sprintf("2001:db8:7::%x", 1+i%256))
			frames = append(frames, nb.talk(b, r, r, nb.uplink.Ifindex, client, nb.pick("192.0.2.1", "2001:db8::1"), uint16(1024+i/256), 30081))
		}
		shuffle(frames)
		measureTurns(b, program(b, nb.d, bpf.HostProgFromDevice), nb.uplink.Ifindex, frames)
	})
}

// measureTurns measures frames that take turns, and the first one alone; and
// what a single bare lookup among as many entries costs where they take turns,
// which is the least that a table of flows can cost.
func measureTurns(b *testing.B, prog *ebpf.Program, ifindex int, frames [][]byte) {
	b.Helper()
	base, full := compare(b, prog, ifindex, frames[0])
	b.ReportMetric(float64((full - base).Nanoseconds()), "ns/packet-of-one-over-BASE")
	measure(b, prog, ifindex, frames...)
	b.ReportMetric(float64(bareLookup(b, frames).Nanoseconds()), "ns/bare-lookup")
}

// bareLookup is the time of one lookup in a table with two entries of a flow's
// size for each frame, which are asked for in an order that memory does not have.
func bareLookup(b *testing.B, frames [][]byte) time.Duration {
	b.Helper()
	w := newBench(b, frames)
	keys := make([]bpf.BenchBareKey, 2*len(frames))
	for i, turn := range rand.New(rand.NewPCG(5, 6)).Perm(len(keys)) {
		keys[i].Words[0] = uint32(turn)
	}
	require.NoError(b, update(w.objs.Bare, keys, make([]bpf.BenchBareValue, len(keys))))
	var without, with []time.Duration
	for range 31 {
		without = append(without, w.run(b, w.objs.Nothing, 1, max(20000, len(frames))))
		with = append(with, w.run(b, w.objs.Lookup, 1, max(20000, len(frames))))
	}
	return median(with) - median(without)
}

// BenchmarkMasquerade measures packets of known flows from a pod to the world.
func BenchmarkMasquerade(b *testing.B) {
	forFamilies(b, []int{1, 1 << 16}, func(b *testing.B, six bool, flows int) {
		nb := newNATBench(b, six, nil)
		there, back := nb.d.Runner(model.FromContainer), nb.d.Runner(model.FromDevice)
		var frames [][]byte
		for i := range flows {
			peer := nb.pick(fmt.Sprintf("198.51.100.%d", i%256), fmt.Sprintf("2001:db8:7::%x", 1+i%256))
			frames = append(frames, nb.talk(b, there, back, nb.n.client.Ifindex, nb.pick("10.0.0.1", "fd00::1"), peer, uint16(32768+i/256), 443))
		}
		shuffle(frames)
		measureTurns(b, program(b, nb.d, bpf.ContainerProgFromContainer), nb.n.client.Ifindex, frames)
	})
}

// BenchmarkNewFlowWhenPortsRunOut measures what opens flows towards a peer for
// which so many hundredths of the source ports are taken, their own too. What
// finds none is dropped, and bounded as well: `opened` is the share that does
// not. How many ports are tried is told as chance has it.
func BenchmarkNewFlowWhenPortsRunOut(b *testing.B) {
	const first, ports, sample = 57344, 8192, 64
	const probes = 48 // MAX_PORT_PROBES of bpf/lib/limits.h
	forFamilies(b, []int{0, 50, 90, 99, 100}, func(b *testing.B, six bool, fill int) {
		nb := newNATBench(b, six, func(s *model.State) {
			s.Node.Masquerade.FirstPort = first
			for i := range s.Services.Len() {
				s.Services.At(i).Backends = s.Services.At(i).Backends[:1]
			}
		})
		// Who comes from outside has them: a pod has its share alone.
		there := nb.d.Runner(model.FromDevice)
		peer := nb.of(six, 200).String()
		order := rand.New(rand.NewPCG(1, 2)).Perm(ports)
		taken := order[:ports*fill/100]
		for _, port := range taken {
			opening := tcpFrame(b, nb.pick("198.51.100.7", "2001:db8:7::7"), nb.pick("192.0.2.1", "2001:db8::1"), uint16(first+port), 30081, syn)
			_, lent, to := decide(b, there, opening, nb.uplink.Ifindex)
			require.Equal(b, uint16(first+port), lent.Port())
			require.Equal(b, peer, to.Addr().String())
		}
		var frames [][]byte
		for i := range sample {
			port := order[i] // taken, where any is
			frames = append(frames, tcpFrame(b, nb.pick("10.0.0.2", "fd00::2"), peer, uint16(first+port), 8080, syn))
		}
		w := newBench(b, frames)
		prog := program(b, nb.d, bpf.ContainerProgFromContainer)
		var base, full []time.Duration
		opened := 0
		const rounds = 41
		for range rounds {
			base = append(base, w.run(b, w.objs.Nothing, nb.n.web.Ifindex, sample))
			full = append(full, w.run(b, prog, nb.n.web.Ifindex, sample))
			opened += nb.forget(b, netip.MustParseAddr(nb.pick("10.0.0.2", "fd00::2")))
		}
		report(b, median(base), median(full))
		b.ReportMetric(float64(opened)/(rounds*sample), "opened")
		tries := 0.0
		for i := range probes {
			tries += math.Pow(float64(fill)/100, float64(i))
		}
		b.ReportMetric(tries, "probes-expected")
	})
}

// forget deletes the flows that a pod has opened, and counts them.
func (nb *natBench) forget(b *testing.B, pod netip.Addr) int {
	b.Helper()
	m := nb.d.maps[bpf.ContainerMapCtUnanswered]
	var keys []flowKey
	opened := 0
	require.NoError(b, readBatches(m, func(key flowKey, value flowValue) {
		opener := decodeAddr(key.Src) == pod
		if opener {
			opened++
		}
		if opener || decodeAddr(value.Dst) == pod {
			keys = append(keys, key)
		}
	}))
	for i := range keys {
		require.NoError(b, m.Delete(&keys[i]))
	}
	return opened
}

// forFamilies runs a benchmark for both families and some numbers.
func forFamilies(b *testing.B, numbers []int, do func(b *testing.B, six bool, number int), of ...string) {
	b.Helper()
	for _, number := range numbers {
		for name, six := range map[string]bool{"ipv4": false, "ipv6": true} {
			path := append(slices.Clone(of), fmt.Sprint(number), name)
			b.Run(joined(path), func(b *testing.B) { do(b, six, number) })
		}
	}
}

func joined(path []string) string {
	text := path[0]
	for _, p := range path[1:] {
		text += "/" + p
	}
	return text
}

func shuffle(frames [][]byte) {
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
}
