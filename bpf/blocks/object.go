// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// ErrNoLines is a program whose instructions do not tell their source lines.
var ErrNoLines = errors.New("no line info: build the object with -g, and keep its .BTF.ext")

// Object is what was built from one source file.
type Object struct {
	// Name is the source file's, without folders: container.bpf.c.
	Name     string
	Programs []*Program // by name
}

// Program is one that is loaded, with all functions that it calls.
type Program struct {
	Name         string
	Instructions asm.Instructions // as they are in the ebpf.ProgramSpec
	Blocks       []Block
	Places       []Place // of each instruction
}

// Place is where in the source an instruction comes from.
type Place struct {
	File   string // as the compiler was given it: lib/packet.h
	Line   int    // from 1
	Column int
	Text   string // of the line
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Of reads the programs of an object. ErrNoLines when they do not tell their
// source.
func Of(spec *ebpf.CollectionSpec) (*Object, error) {
	o := &Object{}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		p, err := Read(name, spec.Programs[name].Instructions)
		if err != nil {
			return nil, err
		}
		o.Programs = append(o.Programs, p)
	}
	o.Name = o.source()
	return o, nil
}

// Read reads one program.
func Read(name string, insns asm.Instructions) (*Program, error) {
	p := &Program{Name: name, Instructions: insns}
	var err error
	if p.Places, err = places(insns); err != nil {
		return nil, fmt.Errorf("read program %s: %w", name, err)
	}
	if p.Blocks, err = split(insns); err != nil {
		return nil, fmt.Errorf("read program %s: %w", name, err)
	}
	return p, nil
}

// source is the file that most of the instructions' lines are of, among those
// that are no headers; without one, the programs' names.
func (o *Object) source() string {
	lines := map[string]int{}
	var names []string
	for _, p := range o.Programs {
		names = append(names, p.Name)
		for _, place := range p.Places {
			if !strings.HasSuffix(place.File, ".h") {
				lines[path.Base(place.File)]++
			}
		}
	}
	if len(lines) == 0 {
		return strings.Join(names, "+")
	}
	return slices.MaxFunc(slices.Sorted(maps.Keys(lines)), func(a, b string) int { return cmp.Compare(lines[a], lines[b]) })
}

// places says where each instruction comes from: the kernel too takes a line
// for those that follow it, up to the next or to the end of the function.
func places(insns asm.Instructions) ([]Place, error) {
	all := make([]Place, len(insns))
	var last Place
	for i := range insns {
		if line, ok := insns[i].Source().(*btf.Line); ok {
			last = Place{path.Clean(line.FileName()), int(line.LineNumber()), int(line.LineColumn()), line.Line()}
		} else if i == 0 || btf.FuncMetadata(&insns[i]) != nil {
			return nil, ErrNoLines
		}
		all[i] = last
	}
	return all, nil
}
