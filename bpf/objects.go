// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	_ "embed"
	"slices"
)

// ContainerObject, HostObject and SocketObject are the embedded object files, in
// copies.
func ContainerObject() []byte { return slices.Clone(_ContainerBytes) }
func HostObject() []byte      { return slices.Clone(_HostBytes) }
func SocketObject() []byte    { return slices.Clone(_SocketBytes) }

// Equivalents lists the errors that can be planted in the objects and are none.
//
//go:embed equivalents
var Equivalents string

// Survivors lists the errors that can be planted in the objects and that nothing in
// the lab notices, with what is known about them.
//
//go:embed survivors
var Survivors string
