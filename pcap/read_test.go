// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// raw is a packet as a test writes it into a file, by hand.
type raw struct {
	seconds, fraction uint32
	data              []byte
	length            uint32
}

// classicFile makes a pcap file.
func classicFile(order binary.AppendByteOrder, magic uint32, link, snap uint32, packets ...raw) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(b, snap)
	b = order.AppendUint32(b, link)
	for _, p := range packets {
		for _, v := range []uint32{p.seconds, p.fraction, uint32(len(p.data)), p.length} {
			b = order.AppendUint32(b, v)
		}
		b = append(b, p.data...)
	}
	return b
}

// ngBlock makes a block of pcapng.
func ngBlock(order binary.AppendByteOrder, kind uint32, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	for len(all)%4 != 0 {
		all = append(all, 0)
	}
	b := order.AppendUint32(nil, kind)
	b = order.AppendUint32(b, uint32(len(all)+12))
	b = append(b, all...)
	return order.AppendUint32(b, uint32(len(all)+12))
}

func ngSection(order binary.AppendByteOrder) []byte {
	b := order.AppendUint32(nil, byteOrderMagic)
	b = order.AppendUint16(b, 1)
	b = order.AppendUint16(b, 0)
	return ngBlock(order, blockSection, b, bytes.Repeat([]byte{0xff}, 8))
}

func ngInterface(order binary.AppendByteOrder, link uint16, snap uint32, options ...[]byte) []byte {
	b := order.AppendUint16(nil, link)
	b = order.AppendUint16(b, 0)
	b = order.AppendUint32(b, snap)
	return ngBlock(order, blockInterface, append([][]byte{b}, options...)...)
}

func ngOption(order binary.AppendByteOrder, code uint16, value ...byte) []byte {
	b := order.AppendUint16(nil, code)
	b = order.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func words(order binary.AppendByteOrder, values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = order.AppendUint32(b, v)
	}
	return b
}

func padded(b []byte) []byte { return append(b[:len(b):len(b)], make([]byte, -len(b)&3)...) }

func ngPacket(order binary.AppendByteOrder, number uint32, ticks uint64, data []byte, length uint32, options ...[]byte) []byte {
	fields := words(order, number, uint32(ticks>>32), uint32(ticks), uint32(len(data)), length)
	return ngBlock(order, blockPacket, append([][]byte{fields, padded(data)}, options...)...)
}

func compressed(t testing.TB, data []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

// readAll reads a file to its end, and gives copies of its packets.
func readAll(file []byte) (packets []Packet, r *Reader, err error) {
	r, err = NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, nil, err
	}
	for {
		var p Packet
		if err := r.Next(&p); err != nil {
			if again := r.Next(&p); again != err {
				return packets, r, fmt.Errorf("the end is not the end: %w then %w", err, again)
			}
			if err == io.EOF {
				err = nil
			}
			return packets, r, err
		}
		p.Data = bytes.Clone(p.Data)
		packets = append(packets, p)
	}
}

var orders = map[string]binary.AppendByteOrder{"little-endian": binary.LittleEndian, "big-endian": binary.BigEndian}

func TestPcapIsReadInBothOrdersAndResolutions(t *testing.T) {
	data := bytes.Repeat([]byte{7}, 60)
	for name, order := range orders {
		for magic, fraction := range map[uint32]uint32{magicMicroseconds: 123456, magicNanoseconds: 123456000} {
			file := classicFile(order, magic, 1, 65535, raw{1_700_000_000, fraction, data, 60}, raw{1_700_000_001, 0, data[:20], 1500})
			for form, file := range map[string][]byte{"plain": file, "gzip": compressed(t, file)} {
				what := fmt.Sprintf("%s, magic %#x, %s", name, magic, form)
				packets, r, err := readAll(file)
				require.NoError(t, err, what)
				require.Len(t, packets, 2, what)
				require.Equal(t, time.Unix(1_700_000_000, 123_456_000).UTC(), packets[0].Time, what)
				require.Equal(t, data, packets[0].Data, what)
				require.Equal(t, 60, packets[0].Length, what)
				require.Equal(t, 1500, packets[1].Length, what)
				require.Len(t, packets[1].Data, 20, what)
				require.Equal(t, LinkEthernet, r.Interface(0).Link, what)
			}
		}
	}
}

func TestASnapLengthIsNoLimitToWhatIsThere(t *testing.T) {
	data := make([]byte, 100)
	for _, snap := range []uint32{0, 1, 99, math.MaxUint32} {
		packets, _, err := readAll(classicFile(binary.LittleEndian, magicMicroseconds, 1, snap, raw{0, 0, data, 100}))
		require.NoError(t, err)
		require.Len(t, packets, 1)
		require.Len(t, packets[0].Data, 100)
	}
}

func TestTheUpperBitsOfALinkTypeAreNotTheLinkType(t *testing.T) {
	_, r, err := readAll(classicFile(binary.BigEndian, magicMicroseconds, 0x24000001, 0))
	require.NoError(t, err)
	require.Equal(t, LinkEthernet, r.Interface(0).Link)
}

func TestPcapngIsReadWithItsSectionsInterfacesAndOptions(t *testing.T) {
	data := bytes.Repeat([]byte{9}, 61)
	for name, order := range orders {
		other := orders["little-endian"]
		if name == "little-endian" {
			other = orders["big-endian"]
		}
		file := bytes.Join([][]byte{
			ngSection(order),
			ngInterface(order, 1, 0, ngOption(order, optName, []byte("eth0")...), ngOption(order, optTimeUnits, 9), ngOption(order, 0)),
			ngInterface(order, 101, 64, ngOption(order, optTimeOffset, order.AppendUint64(nil, 1000)...)),
			ngBlock(order, 0xbad, []byte("a block that nobody knows")),
			ngPacket(order, 0, 1_700_000_000_123_456_789, data, 61, ngOption(order, optComment, []byte("first")...), ngOption(order, optFlags, order.AppendUint32(nil, 2)...)),
			ngPacket(order, 1, 5_000_001, data[:60], 1500),
			ngBlock(order, blockOldPacket, order.AppendUint16(nil, 0), order.AppendUint16(nil, 3), words(order, 0, 7, 4, 4), data[:4]),
			ngBlock(order, blockSimplePacket, words(order, 8), data[:8]),
			// Another section, in the other order: interfaces count from 0 again.
			ngSection(other),
			ngInterface(other, 113, 8),
			ngBlock(other, blockSimplePacket, words(other, 100), data[:8]),
		}, nil)
		packets, r, err := readAll(file)
		require.NoError(t, err, name)
		require.Len(t, packets, 5, name)
		require.Equal(t, time.Unix(1_700_000_000, 123_456_789).UTC(), packets[0].Time)
		require.Equal(t, data, packets[0].Data)
		require.Equal(t, []string{"first"}, packets[0].Comments)
		require.Equal(t, Out, packets[0].Direction)
		require.Equal(t, "eth0", r.Interface(packets[0].Interface).Name)
		require.Equal(t, time.Unix(1005, 1000).UTC(), packets[1].Time)
		require.Equal(t, 1500, packets[1].Length)
		require.Equal(t, LinkRaw, r.Interface(packets[1].Interface).Link)
		require.Equal(t, time.Unix(0, 7).UTC(), packets[2].Time)
		require.True(t, packets[3].Time.IsZero(), "a simple packet has no time")
		require.Equal(t, LinkLinuxCooked, r.Interface(packets[4].Interface).Link)
		require.Equal(t, 100, packets[4].Length)
		require.Len(t, packets[4].Data, 8)
		require.Equal(t, 3, r.Interfaces())
	}
}

func TestOptionsBehindMoreThanIsInMemoryAreLeftOut(t *testing.T) {
	le := binary.LittleEndian
	comments := make([][]byte, 20)
	for i := range comments {
		comments[i] = ngOption(le, optComment, bytes.Repeat([]byte{'x'}, 60000)...)
	}
	file := bytes.Join([][]byte{ngSection(le), ngInterface(le, 1, 0), ngPacket(le, 0, 1, []byte("packet"), 6, comments...), ngPacket(le, 0, 2, []byte("next"), 4)}, nil)
	packets, _, err := readAll(file)
	require.NoError(t, err)
	require.Len(t, packets, 2)
	require.Equal(t, "packet", string(packets[0].Data))
	require.Empty(t, packets[0].Comments)
	require.Equal(t, "next", string(packets[1].Data))
}

func TestTimesThatNoCaptureCanHaveAreRefused(t *testing.T) {
	const far = math.MaxInt64 / 1_000_000_000 // seconds, up to 2262
	for name, c := range map[string]struct {
		resolution resolution
		offset     int64
		ticks      uint64
		want       time.Time // zero: refused
	}{
		"no offset":                        {6, 0, 1_000_001, time.Unix(1, 1000)},
		"the first time":                   {6, -5, 5_000_000, time.Unix(0, 0)},
		"ticks since 1601":                 {7, -11_644_473_600, 133_444_736_000_000_000, time.Unix(1_700_000_000, 0)},
		"the last second":                  {0, far - 11, 10, time.Unix(far-1, 0)},
		"a second later":                   {0, far - 10, 10, time.Time{}},
		"a time before 1970":               {6, -1, 999_999, time.Time{}},
		"an offset that goes round":        {0, -1, 0, time.Time{}},
		"the greatest offset":              {6, math.MaxInt64, 0, time.Time{}},
		"the least offset":                 {6, math.MinInt64, 0, time.Time{}},
		"the greatest of both":             {0, math.MaxInt64, math.MaxUint64, time.Time{}},
		"an offset that is taken back":     {0, math.MinInt64, 1<<63 + 7, time.Unix(7, 0)},
		"ticks of seconds, without offset": {0, 0, math.MaxUint64, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, order := range orders {
				packets, _, err := readAll(bytes.Join([][]byte{
					ngSection(order),
					ngInterface(order, 1, 0, ngOption(order, optTimeUnits, byte(c.resolution)), ngOption(order, optTimeOffset, order.AppendUint64(nil, uint64(c.offset))...)),
					ngPacket(order, 0, c.ticks, []byte("packet"), 6),
				}, nil))
				if c.want.IsZero() {
					var damage *DamageError
					require.ErrorAs(t, err, &damage)
					require.ErrorContains(t, err, fmt.Sprintf("a packet's time is not between the years 1970 and 2262: interface 0 has an if_tsoffset of %d seconds", c.offset))
					require.Empty(t, packets)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, c.want.UTC(), packets[0].Time)
			}
		})
	}
}

func TestEveryTimeResolutionMakesATime(t *testing.T) {
	for name, c := range map[string]struct {
		resolution           resolution
		ticks                uint64
		seconds, nanoseconds uint64
	}{
		"seconds":              {0, 12, 12, 0},
		"microseconds":         {6, 12_345_678, 12, 345_678_000},
		"nanoseconds":          {9, 12_345_678_901, 12, 345_678_901},
		"picoseconds":          {12, 12_345_678_901_234, 12, 345_678_901},
		"10^-19 s":             {19, 12_345_678_901_234_567_890, 1, 234_567_890},
		"10^-20 s":             {20, 12_345_678_901_234_567_890, 0, 123_456_789},
		"10^-127 s":            {127, math.MaxUint64, 0, 0},
		"whole seconds in two": {0x80, 12, 12, 0},
		"half seconds":         {0x81, 25, 12, 500_000_000},
		"2^-32 s":              {0x80 | 32, 12<<32 | 1<<31, 12, 500_000_000},
		"2^-63 s":              {0x80 | 63, 1<<63 | 1<<62, 1, 500_000_000},
		"2^-64 s":              {0x80 | 64, 1 << 63, 0, 500_000_000},
		"2^-127 s":             {0x80 | 127, math.MaxUint64, 0, 0},
	} {
		seconds, nanoseconds := c.resolution.split(c.ticks)
		require.Equal(t, c.seconds, seconds, name)
		require.Equal(t, c.nanoseconds, nanoseconds, name)
	}
}

func TestADamagedFileGivesWhatCanBeReadAndThenTheOffset(t *testing.T) {
	le := binary.LittleEndian
	good := classicFile(le, magicMicroseconds, 1, 0, raw{1, 0, make([]byte, 60), 60})
	ng := bytes.Join([][]byte{ngSection(le), ngInterface(le, 1, 0), ngPacket(le, 0, 1, make([]byte, 60), 60)}, nil)
	packed := compressed(t, append(good[:24:24], bytes.Repeat(good[24:], 1000)...))
	for name, c := range map[string]struct {
		file    []byte
		packets int
		offset  int64
		problem string
	}{
		"a header that is cut":                 {good[:23], 0, 0, "ends within its header"},
		"a packet's header that is cut":        {append(good[:100:100], 1), 1, 100, "ends within a packet's header"},
		"a packet that is cut":                 {good[:99], 0, 24, "ends within a packet of 60 bytes"},
		"a packet of 4 GB":                     {append(good[:100:100], words(le, 1, 0, math.MaxUint32, math.MaxUint32)...), 1, 100, "claims 4294967295 bytes"},
		"a block that is cut":                  {ng[:len(ng)-1], 0, 48, "ends within a block of 92 bytes"},
		"a block's header that is cut":         {append(ng[:len(ng):len(ng)], 6, 0), 1, int64(len(ng)), "ends within a block's header"},
		"a block of 4 GB":                      {append(ng[:len(ng):len(ng)], words(le, 0xbad, 0xfffffffc, 0)...), 1, int64(len(ng)) + 12, "ends 4294967280 bytes too early"},
		"a block of no length":                 {append(ng[:len(ng):len(ng)], words(le, 6, 0, 0)...), 1, int64(len(ng)), "claims 0 bytes, which no block has"},
		"a block of a crooked length":          {append(ng[:len(ng):len(ng)], words(le, 6, 33, 0)...), 1, int64(len(ng)), "claims 33 bytes, which no block has"},
		"a packet of an unknown interface":     {bytes.Join([][]byte{ng, ngPacket(le, 9, 1, nil, 0)}, nil), 1, int64(len(ng)), "of interface 9, but its section has described 1"},
		"a packet longer than its block":       {bytes.Join([][]byte{ng, ngBlock(le, 6, words(le, 0, 0, 0, 64, 64), make([]byte, 60))}, nil), 1, int64(len(ng)), "claims 64 bytes, but its block has room for 60"},
		"a block of two lengths":               {append(ng[:len(ng)-4:len(ng)-4], words(le, 96)...), 0, 48, "92 bytes at its beginning and 96 at its end"},
		"a packet before its interface":        {append(ngSection(le), ngPacket(le, 0, 1, nil, 0)...), 0, 28, "has described 0"},
		"a simple packet before its interface": {append(ngSection(le), ngBlock(le, 3, words(le, 0))...), 0, 28, "has described 0"},
		"a section of no byte order":           {bytes.Join([][]byte{ng, words(le, blockSection, 28, 5)}, nil), 1, int64(len(ng)), "byte order"},
		"a section of another version":         {bytes.Join([][]byte{ng, ngBlock(le, blockSection, words(le, byteOrderMagic, 7, 0, 0))}, nil), 1, int64(len(ng)), "version 7.0"},
		"compressed data that is cut":          {packed[:len(packed)-9], 1000, 24 + 76*1000, "within a packet"},
	} {
		packets, _, err := readAll(c.file)
		var damage *DamageError
		require.ErrorAs(t, err, &damage, name)
		require.Contains(t, err.Error(), c.problem, name)
		if name != "compressed data that is cut" { // how much comes out is the compression's
			require.Len(t, packets, c.packets, name)
			require.Equal(t, c.packets, damage.Packets, name)
			require.Equal(t, c.offset, damage.Offset, name)
		}
	}
}

func TestCompressionThatIsDamagedIsToldAsSuch(t *testing.T) {
	file := compressed(t, classicFile(binary.LittleEndian, magicMicroseconds, 1, 0, raw{1, 0, make([]byte, 60), 60}))
	file[len(file)-6] ^= 0xff // of the checksum
	_, _, err := readAll(file)
	require.ErrorIs(t, err, gzip.ErrChecksum)
	require.ErrorContains(t, err, "of the uncompressed data")
}

func TestWhatIsNoCaptureIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct{ file, says string }{
		"nothing":        {"", "the file is empty"},
		"text":           {"a text file", "begins with 61 20 74 65"},
		"zstd":           {"\x28\xb5\x2f\xfd....", "zstd-compressed"},
		"snoop":          {"snoop\x00\x00\x00", "snoop"},
		"pcap version 3": {string(classicFile(binary.LittleEndian, magicMicroseconds, 1, 0))[:4] + "\x03\x00\x00\x00" + string(make([]byte, 16)), "version 3.0"},
	} {
		_, _, err := readAll([]byte(c.file))
		require.ErrorIs(t, err, ErrFormat, name)
		require.ErrorContains(t, err, c.says, name)
	}
}

func TestWhatAFileClaimsCostsNoMemory(t *testing.T) {
	le := binary.LittleEndian
	file := append(classicFile(le, magicMicroseconds, 1, math.MaxUint32), words(le, 0, 0, math.MaxUint32, math.MaxUint32)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		_, _, err := readAll(file)
		require.Error(t, err)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(10*2*readAhead))
}

func FuzzReader(f *testing.F) {
	le, be := binary.LittleEndian, binary.BigEndian
	data := []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00payload")
	f.Add(classicFile(le, magicMicroseconds, 1, 0, raw{1, 2, data, 21}))
	f.Add(classicFile(be, magicNanoseconds, 101, 65535, raw{1, 2, data[14:], 99}))
	f.Add(compressed(f, classicFile(le, magicMicroseconds, 0, 1, raw{1, 2, data, 21})))
	f.Add(bytes.Join([][]byte{ngSection(le), ngInterface(le, 1, 0, ngOption(le, optTimeUnits, 20)), ngPacket(le, 0, 1, data, 21, ngOption(le, optComment, 'a'))}, nil))
	f.Add(bytes.Join([][]byte{ngSection(be), ngInterface(be, 113, 9), ngBlock(be, blockSimplePacket, words(be, 21), padded(data)), ngSection(le)}, nil))
	f.Fuzz(func(t *testing.T, file []byte) {
		packets, r, err := readAll(file)
		if err != nil && !errors.Is(err, ErrFormat) {
			var damage *DamageError
			require.ErrorAs(t, err, &damage)
			require.NotEmpty(t, damage.Problem)
		}
		for _, p := range packets {
			require.LessOrEqual(t, len(p.Data), MaxPacket)
			require.GreaterOrEqual(t, p.Length, len(p.Data))
			frame, added, err := r.Interface(p.Interface).Link.Frame(nil, p.Data)
			if err == nil {
				require.Len(t, frame, len(p.Data)+added)
			}
		}
	})
}

// BenchmarkReader reads packets of 200 bytes from memory.
func BenchmarkReader(b *testing.B) {
	one := classicFile(binary.LittleEndian, magicMicroseconds, 1, 0, raw{1, 2, make([]byte, 200), 200})
	file := append(one[:24:24], bytes.Repeat(one[24:], 100_000)...)
	b.ReportAllocs()
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(file))
		require.NoError(b, err)
		var p Packet
		for err = r.Next(&p); err == nil; {
			err = r.Next(&p)
		}
		require.Equal(b, io.EOF, err)
	}
	b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "packets/s")
}
