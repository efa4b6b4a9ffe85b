// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// ErrObject is an object file that is not a datapath that this loader can fill.
var ErrObject = errors.New("not an object file of the datapath, or of another layout")

// readObject reads the programs that are to be loaded: the embedded ones, or
// those of an ELF file whose tables this loader knows how to fill.
func readObject(object []byte) (*ebpf.CollectionSpec, error) {
	embedded, err := bpf.LoadContainer()
	if err != nil {
		return nil, fmt.Errorf("read the embedded objects: %w", err)
	}
	if object == nil {
		return embedded, nil
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read object file: %w: %w", ErrObject, err)
	}
	return spec, sameLayout(embedded, spec)
}

// sameLayout refuses what the loader would fill wrongly.
func sameLayout(embedded, spec *ebpf.CollectionSpec) error {
	if spec.Types == nil {
		return fmt.Errorf("read object file: %w: it has no BTF: build it with -g", ErrObject)
	}
	for name := range embedded.Programs {
		if spec.Programs[name] == nil {
			return fmt.Errorf("read object file: %w: it lacks program %s", ErrObject, name)
		}
	}
	for name := range embedded.Variables {
		if spec.Variables[name] == nil {
			return fmt.Errorf("read object file: %w: it lacks constant %s", ErrObject, name)
		}
	}
	for _, name := range pinnedMaps { // the others are the programs' own
		want, got := embedded.Maps[name], spec.Maps[name]
		if got == nil {
			return fmt.Errorf("read object file: %w: it lacks table %s", ErrObject, name)
		}
		if got.Type != want.Type || got.KeySize != want.KeySize || got.ValueSize != want.ValueSize {
			return fmt.Errorf("read object file: %w: table %s is a %s of %d and %d bytes, this loader fills a %s of %d and %d",
				ErrObject, name, got.Type, got.KeySize, got.ValueSize, want.Type, want.KeySize, want.ValueSize)
		}
	}
	return nil
}
