// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// bzImage makes the smallest boot image around a payload.
func bzImage(payload []byte, release string) []byte {
	image := make([]byte, 1024)
	image[setupSectors] = 1
	copy(image[setupMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[setupVersion:], 0x20f)
	binary.LittleEndian.PutUint16(image[kernelVersion:], 0x300-0x200)
	copy(image[0x300:], release+" (someone@somewhere) #1\x00")
	binary.LittleEndian.PutUint32(image[payloadLength:], uint32(len(payload)))
	return append(image, payload...)
}

func sized(compressed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(compressed, uint32(size))
}

// lz4Literals is a legacy frame without a single match.
func lz4Literals(data []byte) []byte {
	block := []byte{byte(min(len(data), 15)) << 4}
	if rest := len(data) - 15; rest >= 0 {
		for ; rest >= 255; rest -= 255 {
			block = append(block, 255)
		}
		block = append(block, byte(rest))
	}
	block = append(block, data...)
	frame := []byte{0x02, 0x21, 0x4c, 0x18}
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(block)))
	return append(frame, block...)
}

func TestTheKernelComesOutOfEveryCompression(t *testing.T) {
	kernel := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 1000)...)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(kernel)
	require.NoError(t, z.Close())
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	for name, compressed := range map[string][]byte{
		"gzip": zipped.Bytes(),
		"zstd": encoder.EncodeAll(kernel, nil),
		"lz4":  lz4Literals(kernel),
	} {
		t.Run(name, func(t *testing.T) {
			image := bzImage(sized(compressed, len(kernel)), "6.1.0-test")
			got, err := bzImageKernel(image)
			require.NoError(t, err)
			require.Equal(t, kernel, got)
			release, err := bzImageRelease(image)
			require.NoError(t, err)
			require.Equal(t, "6.1.0-test", release)

			_, err = bzImageKernel(image[:len(image)-100])
			require.ErrorContains(t, err, "truncated")
		})
	}
}

func TestLZ4MatchesOverlapTheirOwnOutput(t *testing.T) {
	// "ab", then 10 bytes from two back, then the last literal.
	block := []byte{0x26, 'a', 'b', 2, 0, 0x10, 'c'}
	out, err := appendLZ4Block(nil, block, 100)
	require.NoError(t, err)
	require.Equal(t, "abababababab"+"c", string(out))
}

func TestDamagedLZ4IsRefused(t *testing.T) {
	for name, block := range map[string][]byte{
		"a match from before the start": {0x14, 'a', 9, 0},
		"a match at distance 0":         {0x14, 'a', 0, 0},
		"literals beyond the end":       {0xf0, 200},
		"a length that never ends":      {0xf0, 255, 255},
		"half a distance":               {0x14, 'a', 1},
		"more than there is room for":   {0x1f, 'a', 1, 0, 255, 255, 255, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := appendLZ4Block(nil, block, 100)
			require.ErrorIs(t, err, errLZ4)
		})
	}
}

func FuzzBootImage(f *testing.F) {
	kernel := append([]byte("\x7fELF"), bytes.Repeat([]byte{7}, 100)...)
	f.Add(bzImage(sized(lz4Literals(kernel), len(kernel)), "6.1"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, image []byte) {
		if len(image) > 1<<16 {
			return
		}
		if at := len(image) - 4; at >= 0 && binary.LittleEndian.Uint32(image[at:]) > 1<<20 {
			return // a claim of half a gigabyte is allowed, and slow
		}
		kernel, err := bzImageKernel(image)
		if err == nil {
			require.True(t, bytes.HasPrefix(kernel, []byte("\x7fELF")))
		}
		bzImageRelease(image)
		hasPVHEntry(bytes.NewReader(image))
	})
}
