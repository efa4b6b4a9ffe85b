// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A bzImage unpacks itself, which costs an emulated processor a second or
// two. The ELF file within can be started directly by way of its PVH entry.

// errNotBzImage means that a file is no x86 boot image.
var errNotBzImage = errors.New("not an x86 boot image")

// Offsets in the setup header: Documentation/arch/x86/boot.rst in the kernel.
const (
	setupSectors  = 0x1f1
	setupMagic    = 0x202 // "HdrS"
	setupVersion  = 0x206
	kernelVersion = 0x20e
	payloadOffset = 0x248
	payloadLength = 0x24c
)

// bzImageRelease returns what `uname -r` will say.
func bzImageRelease(image []byte) (string, error) {
	if len(image) < payloadLength+4 || string(image[setupMagic:setupMagic+4]) != "HdrS" {
		return "", errNotBzImage
	}
	at := int(binary.LittleEndian.Uint16(image[kernelVersion:])) + 0x200
	if at == 0x200 || at >= len(image) {
		return "", fmt.Errorf("%w: it has no version", errNotBzImage)
	}
	text, _, _ := bytes.Cut(image[at:min(at+256, len(image))], []byte{0})
	release, _, _ := strings.Cut(string(text), " ")
	return release, nil
}

// bzImageKernel returns the ELF file that a boot image carries.
func bzImageKernel(image []byte) ([]byte, error) {
	if len(image) < payloadLength+4 || string(image[setupMagic:setupMagic+4]) != "HdrS" {
		return nil, errNotBzImage
	}
	if v := binary.LittleEndian.Uint16(image[setupVersion:]); v < 0x208 {
		return nil, fmt.Errorf("%w: boot protocol %#x is older than 2.08", errNotBzImage, v)
	}
	sectors := int(image[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if length < 8 || start+length > len(image) {
		return nil, fmt.Errorf("%w: its payload lies beyond its end (truncated?)", errNotBzImage)
	}
	payload := image[start : start+length]
	// After the compressed bytes stands the size of the kernel.
	size := int(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	kernel, err := decompress(payload[:len(payload)-4], size)
	if err != nil {
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	if !bytes.HasPrefix(kernel, []byte(elf.ELFMAG)) {
		return nil, errors.New("unpack kernel: what is inside is not an ELF file")
	}
	return kernel, nil
}

// maxKernelSize bounds what a damaged size field can ask for, in bytes.
const maxKernelSize = 512 << 20

func decompress(data []byte, size int) ([]byte, error) {
	if size <= 0 || size > maxKernelSize {
		return nil, fmt.Errorf("size %d of the unpacked kernel is impossible", size)
	}
	switch {
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}):
		return decompressLZ4(data, size)
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderMaxWindow(1<<31))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readSized(r, size)
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return readSized(r, size)
	case bytes.HasPrefix(data, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return decompressWith("xz", data, size)
	case bytes.HasPrefix(data, []byte("BZh")):
		return decompressWith("bzip2", data, size)
	case bytes.HasPrefix(data, []byte{0x89, 'L', 'Z', 'O'}):
		return decompressWith("lzop", data, size)
	}
	return nil, fmt.Errorf("unknown compression (first bytes % x)", data[:min(6, len(data))])
}

func readSized(r io.Reader, size int) ([]byte, error) {
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	return out, nil
}

// decompressWith uses a tool for what few kernels use. (The filter for x86
// code that kernels apply under xz is in no Go library.)
func decompressWith(tool string, data []byte, size int) ([]byte, error) {
	path, err := exec.LookPath(tool)
	if err != nil {
		return nil, fmt.Errorf("this kernel is compressed with %s, which is not installed", tool)
	}
	cmd := exec.Command(path, "-dc")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if len(out) < size {
		return nil, fmt.Errorf("%s gave %d of %d bytes: %w", tool, len(out), size, err)
	}
	return out[:size], nil
}

// decompressLZ4 reads the legacy frame that kernels use: a magic number, then
// blocks of up to 8 MiB, each with its compressed size before it.
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
func decompressLZ4(data []byte, size int) ([]byte, error) {
	const maxBlock = 8 << 20
	out := make([]byte, 0, size)
	data = data[4:]
	for len(data) >= 4 && len(out) < size {
		n := int(binary.LittleEndian.Uint32(data))
		if n > len(data)-4 {
			return nil, errors.New("lz4: block lies beyond the end")
		}
		var err error
		if out, err = appendLZ4Block(out, data[4:4+n], min(size, len(out)+maxBlock)); err != nil {
			return nil, err
		}
		data = data[4+n:]
	}
	if len(out) != size {
		return nil, fmt.Errorf("lz4: %d of %d bytes", len(out), size)
	}
	return out, nil
}

var errLZ4 = errors.New("lz4: damaged block")

// appendLZ4Block appends one block to out, which may not grow beyond limit.
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
func appendLZ4Block(out, block []byte, limit int) ([]byte, error) {
	begin := len(out)
	for i := 0; i < len(block); {
		token := block[i]
		literals, next, err := lz4Length(block, i+1, int(token>>4))
		if err != nil || next+literals > len(block) || len(out)+literals > limit {
			return nil, errLZ4
		}
		out = append(out, block[next:next+literals]...)
		i = next + literals
		if i == len(block) {
			return out, nil // the last sequence has no match
		}
		if i+2 > len(block) {
			return nil, errLZ4
		}
		distance := int(binary.LittleEndian.Uint16(block[i:]))
		match, next, err := lz4Length(block, i+2, int(token&15))
		match += 4
		if err != nil || distance == 0 || distance > len(out)-begin || len(out)+match > limit {
			return nil, errLZ4
		}
		for range match { // byte by byte, since source and target may overlap
			out = append(out, out[len(out)-distance])
		}
		i = next
	}
	return out, nil
}

func lz4Length(block []byte, at, length int) (total, next int, err error) {
	if length < 15 {
		return length, at, nil
	}
	for at < len(block) {
		b := block[at]
		at++
		length += int(b)
		if b != 255 {
			return length, at, nil
		}
	}
	return 0, 0, errLZ4
}

// pvhNote is XEN_ELFNOTE_PHYS32_ENTRY, the entry point for a machine that
// starts a kernel without firmware (CONFIG_PVH).
const pvhNote = 18

// hasPVHEntry tells whether QEMU can start this ELF file directly.
func hasPVHEntry(r io.ReaderAt) bool {
	f, err := elf.NewFile(r)
	if err != nil {
		return false
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return false
		}
		if elfNotesHave(notes, f.ByteOrder, "Xen", pvhNote) {
			return true
		}
	}
	return false
}

func elfNotesHave(notes []byte, order binary.ByteOrder, name string, kind uint32) bool {
	align := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize, descSize, noteKind := order.Uint32(notes), order.Uint32(notes[4:]), order.Uint32(notes[8:])
		end := 12 + align(nameSize) + align(descSize)
		if end > uint64(len(notes)) {
			return false
		}
		if noteKind == kind && strings.TrimRight(string(notes[12:12+nameSize]), "\x00") == name {
			return true
		}
		notes = notes[end:]
	}
	return false
}

// writeBootable puts into the file `to` the form of a kernel image that starts
// fastest: the ELF file if that has a PVH entry, the image itself otherwise.
func writeBootable(image []byte, to string) error {
	if kernel, err := bzImageKernel(image); err == nil && hasPVHEntry(bytes.NewReader(kernel)) {
		image = kernel
	} else if err != nil && !errors.Is(err, errNotBzImage) {
		return err
	}
	return os.WriteFile(to, image, 0o644)
}
