// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// function is one that programs of an object consist of: equal ones of several
// programs are one.
type function struct {
	name     string
	key      string
	programs []string
	ins      asm.Instructions
	lines    []*btf.Line // of each instruction; nil before the first that is known
	proto    *btf.FuncProto
	globals  map[string]*ebpf.MapSpec
}

// functionsOf takes the programs of an object apart, sorted by name.
func functionsOf(spec *ebpf.CollectionSpec) ([]*function, error) {
	known := map[string]*function{}
	lines := false
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		for _, part := range split(spec.Programs[name].Instructions) {
			key, err := digest(part)
			if err != nil {
				return nil, fmt.Errorf("encode function %s of program %s: %w", part[0].Symbol(), name, err)
			}
			f := known[key]
			if f == nil {
				f = &function{name: part[0].Symbol(), key: key, ins: part, globals: spec.Maps}
				f.read()
				known[key] = f
			}
			lines = lines || f.lines[len(f.lines)-1] != nil
			f.programs = append(f.programs, name)
		}
	}
	if !lines {
		return nil, ErrNoLines
	}
	return slices.SortedFunc(maps.Values(known), func(a, b *function) int {
		return strings.Compare(a.name+a.programs[0], b.name+b.programs[0])
	}), nil
}

// split cuts a program into its functions.
func split(all asm.Instructions) []asm.Instructions {
	var out []asm.Instructions
	for i := range all {
		if all[i].Symbol() != "" || i == 0 {
			out = append(out, nil)
		}
		last := &out[len(out)-1]
		*last = append(*last, all[i])
	}
	return out
}

// startsOf gives where the functions of a program begin.
func startsOf(all asm.Instructions) map[string]int {
	starts := map[string]int{}
	for i := range all {
		if s := all[i].Symbol(); s != "" {
			starts[s] = i
		}
	}
	return starts
}

// digest tells functions of one name apart.
func digest(f asm.Instructions) (string, error) {
	h := fnv.New64a()
	var b bytes.Buffer
	for i := range f {
		ins := f[i].WithMetadata(asm.Metadata{})
		if f[i].Reference() != "" {
			ins.Constant = 0
		}
		if _, err := ins.Marshal(&b, binary.LittleEndian); err != nil {
			return "", err
		}
		b.WriteString(f[i].Reference())
	}
	h.Write(b.Bytes())
	return fmt.Sprintf("%s %x", f[0].Symbol(), h.Sum64()), nil
}

// read finds the lines and the types of a function.
func (f *function) read() {
	var line *btf.Line
	for i := range f.ins {
		if l, ok := f.ins[i].Source().(*btf.Line); ok {
			line = l
		}
		f.lines = append(f.lines, line)
	}
	if fn := btf.FuncMetadata(&f.ins[0]); fn != nil {
		f.proto, _ = fn.Type.(*btf.FuncProto)
	}
}

// withoutUncalled leaves out functions that nothing calls any more: the kernel
// refuses what cannot be reached.
func withoutUncalled(all asm.Instructions) asm.Instructions {
	parts := split(all)
	byName := map[string]asm.Instructions{}
	for _, p := range parts {
		byName[p[0].Symbol()] = p
	}
	called := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if called[name] {
			return
		}
		called[name] = true
		for i := range byName[name] {
			if ins := &byName[name][i]; ins.IsFunctionReference() {
				visit(ins.Reference())
			}
		}
	}
	visit(parts[0][0].Symbol())
	var out asm.Instructions
	for _, p := range parts {
		if called[p[0].Symbol()] {
			out = append(out, p...)
		}
	}
	return out
}

// mutants are all errors that can be planted in the function.
func (f *function) mutants(pairs pairs) []Mutant {
	p := &planter{function: f}
	types := f.types()
	for i := range f.ins {
		if f.lines[i] == nil || f.fixed(i) {
			continue
		}
		p.conditions(i)
		p.immediates(i, types[i])
		p.leftOut(i)
		p.arguments(i)
		p.confused(i, types[i], pairs)
	}
	return p.found
}

// fixed are instructions that the loader has a say in.
func (f *function) fixed(i int) bool {
	ins := &f.ins[i]
	return btf.CORERelocationMetadata(ins) != nil || ins.IsKfuncCall() ||
		ins.IsLoadFromMap() || ins.Reference() != "" && !ins.IsFunctionCall()
}

// planter collects the mutants of a function.
type planter struct {
	*function
	found []Mutant
}

// plant notes a mutant that puts one other instruction in the place of i.
func (p *planter) plant(i int, kind Kind, ins asm.Instruction) {
	p.plantAll(i, kind, []edit{{i, ins, p.ins[i]}})
}

func (p *planter) plantAll(i int, kind Kind, edits []edit) {
	line := p.lines[i]
	m := Mutant{
		ID: fmt.Sprintf("%s+%d/%s", p.name, i, short[kind]), Function: p.name, Programs: p.programs,
		Index: i, Kind: kind,
		File: path.Clean(line.FileName()), Line: int(line.LineNumber()), Text: strings.TrimSpace(line.Line()),
		edits: edits, key: p.key,
	}
	var before, after []string
	for _, e := range edits {
		before = append(before, Text(p.ins[e.at]))
		after = append(after, Text(e.ins))
	}
	m.Before, m.After = strings.Join(before, "; "), strings.Join(after, "; ")
	p.found = append(p.found, m)
}
