// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/datapath"
)

// Object is an object whose programs are to have errors.
type Object struct {
	Name   string // its source's: container.bpf.c
	Digest string // of its file
	spec   *ebpf.CollectionSpec
	// use has datapaths load it in the place of the embedded one; nil for what
	// no hook of the lab runs.
	use      func(*datapath.Options)
	programs map[string]*blocks.Program
}

// Embedded are the objects of the datapath.
func Embedded() ([]*Object, error) {
	var out []*Object
	for _, file := range [][]byte{bpf.ContainerObject(), bpf.HostObject(), bpf.SocketObject()} {
		o, err := NewObject(file)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// NewObject reads an object file. Without line information it is refused.
func NewObject(file []byte) (*Object, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("read object file: %w", err)
	}
	sum := sha256.Sum256(file)
	o := &Object{Digest: hex.EncodeToString(sum[:8]), spec: spec, programs: map[string]*blocks.Program{}}
	read, err := blocks.Of(spec)
	if errors.Is(err, blocks.ErrNoLines) {
		return nil, fmt.Errorf("read object file: %w", mutant.ErrNoLines)
	}
	if err != nil {
		return nil, fmt.Errorf("read object file: %w", err)
	}
	o.Name = read.Name
	for _, p := range read.Programs {
		o.programs[p.Name] = p
	}
	switch {
	case spec.Programs[bpf.ContainerProgFromContainer] != nil:
		o.use = func(opts *datapath.Options) { opts.Object = file }
	case spec.Programs[bpf.HostProgFromDevice] != nil:
		o.use = func(opts *datapath.Options) { opts.HostObject = file }
	case spec.Programs[bpf.SocketProgConnect4] != nil:
		o.use = func(opts *datapath.Options) { opts.SocketObject = file }
	}
	return o, nil
}

// Runs says whether a hook of the lab runs the object's programs: without, all its
// mutants count as not executed.
func (o *Object) Runs() bool { return o.use != nil }
