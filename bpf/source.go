// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"embed"
	"io/fs"
)

//go:embed *.bpf.c lib/*.h
var sources embed.FS

// Sources has the C that the objects are built from, by the names that their
// line info calls it: lib/packet.h.
func Sources() fs.FS { return sources }
