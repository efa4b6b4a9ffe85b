// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes the format that the kernel unpacks at boot.
// Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
// It is left uncompressed: unpacking costs an emulated processor more than
// copying does.
type cpioWriter struct {
	w     io.Writer
	inode int
	err   error
}

const (
	cpioDir    = 0o040000
	cpioFile   = 0o100000
	cpioDevice = 0o020000
)

func (c *cpioWriter) dir(name string) { c.entry(name, cpioDir|0o755, nil, 0, 0) }

func (c *cpioWriter) file(name string, mode fs.FileMode, content []byte) {
	c.entry(name, cpioFile|uint32(mode.Perm()), content, 0, 0)
}

func (c *cpioWriter) device(name string, major, minor int) {
	c.entry(name, cpioDevice|0o600, nil, major, minor)
}

// close writes the trailer, and returns the first error of all.
func (c *cpioWriter) close() error {
	c.inode = -1
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	return c.err
}

func (c *cpioWriter) entry(name string, mode uint32, content []byte, major, minor int) {
	if c.err != nil {
		return
	}
	c.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	c.padded([]byte(header + name + "\x00"))
	c.padded(content)
}

func (c *cpioWriter) padded(b []byte) {
	if c.err != nil {
		return
	}
	if _, c.err = c.w.Write(b); c.err != nil {
		return
	}
	if rest := len(b) % 4; rest != 0 {
		_, c.err = c.w.Write(make([]byte, 4-rest))
	}
}
