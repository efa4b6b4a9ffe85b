// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// long is a frame of the transport with so many bytes of payload.
func long(t testing.TB, src, dst string, size int, transport ...frame.Layer) []byte {
	t.Helper()
	layers := append([]frame.Layer{ip(src, dst)}, transport...)
	b := build(t, append(layers, layer("payload", num("size", size)))...)
	for i := len(b) - size; i < len(b); i++ {
		b[i] = byte(i * 7)
	}
	h := readHeader(b)
	h.sum(b)
	return b
}

func tcpLayer(flags int) frame.Layer {
	return layer("tcp", num("sport", 1000), num("dport", 80), num("flags", flags), num("seq", 4_294_960_000))
}

// soundIPv4Header and soundTransport count bytes one by one: not as sum does.
func soundIPv4Header(frame []byte) bool {
	return onesSum(frame[14:14+int(frame[14]&15)*4], 0) == 0xffff
}

func soundTransport(frame []byte, l4 int, protocol byte) bool {
	ends := frame[26:34]
	if binary.BigEndian.Uint16(frame[12:]) == etherIPv6 {
		ends = frame[22:54]
	}
	total := int(protocol) + len(frame) - l4
	if protocol == byte(model.ProtocolICMP) {
		ends, total = nil, 0
	}
	return onesSum(append(bytes.Clone(ends), frame[l4:]...), total) == 0xffff
}

func onesSum(b []byte, sum int) int {
	for i, octet := range b {
		sum += int(octet) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

// lengths checks that a frame's headers tell how long it is.
func lengths(t *testing.T, frame []byte) {
	t.Helper()
	if binary.BigEndian.Uint16(frame[12:]) == etherIPv4 {
		require.EqualValues(t, len(frame)-14, binary.BigEndian.Uint16(frame[16:]))
		require.True(t, soundIPv4Header(frame))
		return
	}
	require.EqualValues(t, len(frame)-54, binary.BigEndian.Uint16(frame[18:]))
}

func TestALongPacketIsJudgedByItsHeaders(t *testing.T) {
	udpLayer := layer("udp", num("sport", 1000), num("dport", 53))
	for name, c := range map[string]struct {
		frame    []byte
		protocol model.Protocol
	}{
		"TCP over IPv4":       {long(t, "10.0.0.1", "10.0.0.2", 60_000, tcpLayer(ack)), model.ProtocolTCP},
		"TCP over IPv6":       {long(t, "fd00::1", "fd00::2", 60_001, tcpLayer(ack)), model.ProtocolTCP},
		"UDP over IPv4":       {long(t, "10.0.0.1", "10.0.0.2", 9_000, udpLayer), model.ProtocolUDP},
		"UDP over IPv6":       {long(t, "fd00::1", "fd00::2", 3_700, udpLayer), model.ProtocolUDP},
		"an echo over IPv4":   {long(t, "10.0.0.1", "10.0.0.2", 8_000, layer("icmp", num("type", 8))), model.ProtocolICMP},
		"an echo over IPv6":   {long(t, "fd00::1", "fd00::2", 8_001, layer("icmpv6", num("type", 128))), model.ProtocolICMPv6},
		"one byte too much":   {long(t, "10.0.0.1", "10.0.0.2", datapath.MaxRunBytes-54+1, tcpLayer(ack)), model.ProtocolTCP},
		"one cut at 96 bytes": {long(t, "10.0.0.1", "10.0.0.2", 60_000, tcpLayer(ack))[:96], model.ProtocolTCP},
	} {
		t.Run(name, func(t *testing.T) {
			h := readHeader(c.frame)
			var cut cutter
			wire := len(c.frame)
			if wire == 96 {
				wire = 60_054
			}
			s := cut.shape(&h, c.frame, wire)
			got, why := cut.headers(c.frame, &s)
			require.Empty(t, why)
			want := datapath.MaxRunBytes
			if s.size > 0 {
				want = s.body + s.size
			}
			require.Len(t, got, want)
			lengths(t, got)
			require.True(t, soundTransport(got, h.l4, byte(c.protocol)))
			if c.protocol == model.ProtocolUDP {
				require.EqualValues(t, len(got)-h.l4, binary.BigEndian.Uint16(got[h.l4+4:]))
			}
			after := readHeader(got)
			require.Equal(t, h, after, "what the headers say besides is as it was")
			if len(c.frame) > len(got) {
				require.Equal(t, c.frame[s.body:len(got)], got[s.body:], "and so is the payload, as far as it goes")
			}
		})
	}
}

func TestASuperPacketIsSegmentedAsTheKernelWould(t *testing.T) {
	const fin, psh, cwr = 0x01, 0x08, 0x80
	for _, ends := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
		whole := long(t, ends[0], ends[1], 10_000, tcpLayer(fin|psh|ack|cwr))
		h := readHeader(whole)
		var cut cutter
		s := cut.shape(&h, whole, len(whole))
		require.Equal(t, usualMTU-(s.body-etherLen), s.size)
		require.Equal(t, 7, s.segments())
		var payload []byte
		for i := range s.segments() {
			got := cut.segment(whole, &s, i)
			lengths(t, got)
			require.True(t, soundTransport(got, h.l4, byte(model.ProtocolTCP)), i)
			require.Equal(t, uint32(4_294_960_000+i*s.size), binary.BigEndian.Uint32(got[h.l4+4:]), "the sequence number goes on, beyond 2^32")
			if h.EtherType == etherIPv4 {
				require.Equal(t, binary.BigEndian.Uint16(whole[18:])+uint16(i), binary.BigEndian.Uint16(got[18:]))
			}
			want := byte(ack)
			if i == 0 {
				want |= cwr
			}
			if i == 6 {
				want |= fin | psh
			}
			require.Equal(t, want, got[h.l4+13], "flags of segment %d", i)
			payload = append(payload, got[s.body:]...)
		}
		require.Equal(t, whole[s.body:], payload, "nothing is lost, nothing is there twice")
	}
}

func TestDatagramsOfAUDPSuperPacketHaveTheirOwnLengths(t *testing.T) {
	whole := long(t, "10.0.0.1", "10.0.0.2", 3_000, layer("udp", num("sport", 1000), num("dport", 443)))
	h := readHeader(whole)
	var cut cutter
	s := cut.shape(&h, whole, len(whole))
	require.Equal(t, 3, s.segments())
	for i, want := range []int{1472, 1472, 56} {
		got := cut.segment(whole, &s, i)
		lengths(t, got)
		require.EqualValues(t, want+8, binary.BigEndian.Uint16(got[38:]))
		require.True(t, soundTransport(got, h.l4, byte(model.ProtocolUDP)))
	}
}

func TestSegmentsAreAsLongAsTheEndsHaveToldThatTheyTake(t *testing.T) {
	var cut cutter
	for _, told := range []uint16{8960, 1360} {
		options := binary.BigEndian.AppendUint16([]byte{1, 3, 3, 7, 2, 4}, told) // behind a window scale
		opening := append(build(t, ip("10.0.0.1", "10.0.0.2"), tcpLayer(syn)), options...)
		opening[46] = 7 << 4
		h := readHeader(opening)
		cut.learn(&h, opening)
	}
	back := readHeader(build(t, ip("10.0.0.2", "10.0.0.1"), layer("tcp", num("sport", 80), num("dport", 1000))))
	require.Equal(t, 1360, cut.size(&back, 54), "the lesser, in both directions")
	require.Equal(t, 1348, cut.size(&back, 66), "less by what options take")
}

func TestWhatIsWrongAboutLengthsStaysSo(t *testing.T) {
	whole := long(t, "10.0.0.1", "10.0.0.2", 5_000, tcpLayer(ack))
	binary.BigEndian.PutUint16(whole[16:], 6_000) // more than there is
	h := readHeader(whole)
	var cut cutter
	s := cut.shape(&h, whole, len(whole))
	got, _ := cut.headers(whole, &s)
	require.EqualValues(t, len(got)-14+6_000-(len(whole)-14), binary.BigEndian.Uint16(got[16:]))
	require.False(t, soundIPv4Header(got), "the sum was wrong, too")
}

func TestAJumbogramIsJudgedWithoutTheHeaderThatNoWireCarries(t *testing.T) {
	needRoot(t)
	whole := long(t, "fd01::1", "fd01::2", 100_000, tcpLayer(ack))
	jumbo := append(bytes.Clone(whole[:54]), 6, 0, 0xc2, 4, 0, 1, 0x86, 0xb4)
	jumbo = append(jumbo, whole[54:]...)
	jumbo[20], jumbo[18], jumbo[19] = 0, 0, 0
	older := long(t, "10.1.0.1", "10.1.0.2", 100_000, tcpLayer(ack))
	binary.BigEndian.PutUint16(older[16:], 0) // as IPv4's are
	older[24], older[25] = 0, 0
	binary.BigEndian.PutUint16(older[24:], ^uint16(onesSum(older[14:34], 0)))
	got, _, err := replayed(t, captureOf(t, sent{0, jumbo, 0}, sent{0, older, 0}), Options{Objects: objects(t), Segments: 1})
	require.NoError(t, err)
	for i, o := range got {
		require.Equal(t, []int{70, 69}[i], o.Segments)
		require.Equal(t, Forward, o.Verdict, o.Reason)
		require.Equal(t, "default/web", o.To)
		require.Equal(t, o.Segments, o.Judged)
	}
}

func TestSuperPacketsMeetWhatTheirSegmentsMeet(t *testing.T) {
	needRoot(t)
	opening, data := tcp(t, "10.1.0.1", "10.96.0.1", 1000, 80, syn), long(t, "10.1.0.1", "10.96.0.1", 50_000, tcpLayer(ack))
	short := long(t, "10.1.0.1", "10.96.0.1", 2_800, tcpLayer(ack))
	captures := captureOf(t, sent{0, opening, 0}, sent{0, data, 0}, sent{0, data[:128], len(data)}, sent{0, short, 0})
	for segments, judged := range map[int][]int{0: {0, 0, 0, 0}, 1: {0, 35, 35, 2}, 2: {0, 35, 0, 2}} {
		got, _, err := replayed(t, captures, Options{Objects: objects(t), Segments: segments})
		require.NoError(t, err)
		for i, o := range got {
			require.Equal(t, Forward, o.Verdict, o.Reason)
			require.Equal(t, []int{0, 35, 35, 2}[i], o.Segments)
			require.Equal(t, judged[i], o.Judged)
			require.Equal(t, i == 1 || i == 2, o.Shortened || o.Judged == 35)
			require.Equal(t, "10.1.0.2", o.Translated.Dst.String())
		}
		denied, _, err := replayed(t, captures, Options{Objects: objects(t, closed), Segments: segments})
		require.NoError(t, err)
		for i, o := range denied {
			require.Equal(t, Drop, o.Verdict)
			require.Equal(t, judged[i], o.SegmentsDropped)
		}
	}
}

// FuzzCutter: whatever a frame says, what is made of it fits a test run, and is
// sound where the frame was.
func FuzzCutter(f *testing.F) {
	f.Add(long(f, "10.0.0.1", "10.0.0.2", 5_000, tcpLayer(ack)), 9_000, 1)
	f.Add(long(f, "fd00::1", "fd00::2", 4_000, layer("udp", num("sport", 1), num("dport", 2))), 4_062, 2)
	first, later := datagram(f, "10.0.0.1", "10.0.0.2", 7)
	f.Add(first, 5_000, 0)
	f.Add(later, 5_000, 0)
	f.Fuzz(func(t *testing.T, data []byte, wire, number int) {
		if len(data) < 14 || len(data) > 1<<17 || wire < len(data) || wire > 1<<18 {
			return
		}
		var cut cutter
		plain := cut.withoutJumbo(data)
		wire -= len(data) - len(plain)
		h := readHeader(plain)
		if h.Needed > len(plain) {
			return
		}
		cut.learn(&h, plain)
		s := cut.shape(&h, plain, wire)
		got, why := cut.headers(plain, &s)
		require.Equal(t, why != "", got == nil)
		require.LessOrEqual(t, len(got), datapath.MaxRunBytes)
		if s.size == 0 || s.body > datapath.MaxRunBytes {
			return
		}
		require.LessOrEqual(t, s.segments(), wire/leastMSS+1)
		number = max(0, number%s.segments())
		got = cut.segment(plain, &s, number)
		require.LessOrEqual(t, len(got), datapath.MaxRunBytes)
		after := readHeader(got)
		require.Equal(t, h.flow(), after.flow())
		if h.Protocol == model.ProtocolTCP && h.EtherType == etherIPv4 {
			require.True(t, soundTransport(got, h.l4, byte(model.ProtocolTCP)))
		}
	})
}
