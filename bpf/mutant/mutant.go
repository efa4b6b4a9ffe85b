// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Kind is a kind of error.
type Kind string

// The kinds of errors, as they are called in reports and in lists of equivalents.
const (
	Round     Kind = "condition turned round"
	Always    Kind = "condition made always"
	Never     Kind = "condition made never"
	Bound     Kind = "bound off by one"
	Immediate Kind = "immediate changed"
	Swap      Kind = "byte swap left out"
	Store     Kind = "store left out"
	Call      Kind = "call left out"
	Arguments Kind = "arguments swapped"
	Confused  Kind = "source and destination confused"
)

// short is what a kind is called in an ID.
var short = map[Kind]string{
	Round: "round", Always: "always", Never: "never", Bound: "bound", Immediate: "immediate",
	Swap: "swap", Store: "store", Call: "call", Arguments: "arguments", Confused: "confused",
}

// Kinds are all kinds, in the order in which reports name them.
func Kinds() []Kind {
	return []Kind{Round, Always, Never, Bound, Immediate, Swap, Store, Call, Arguments, Confused}
}

// ErrNoLines is an object without BTF line information.
var ErrNoLines = errors.New("the object has no line information: build it with -g, and strip it with -g alone")

// Mutant is one error in one function. A function that several programs have is
// wrong in all of them.
type Mutant struct {
	// ID is the same as long as the function's instructions are: its name, the
	// index of the instruction in it, and the kind.
	ID       string
	Function string
	Programs []string // that have the function, sorted
	Index    int      // of the instruction in the function
	Kind     Kind
	// File, Line and Text are of the source that the instruction is made from.
	File string
	Line int
	Text string
	// Before and After are the instructions that change, as text.
	Before, After string

	edits []edit
	key   string // of the function
}

type edit struct {
	at  int // in the function
	ins asm.Instruction
	old asm.Instruction
}

// Enumerate lists the mutants of all programs of an object, by file, line and
// ID. Two that are the same to the last octet are one.
func Enumerate(spec *ebpf.CollectionSpec) ([]Mutant, error) {
	functions, err := functionsOf(spec)
	if err != nil {
		return nil, err
	}
	pairs := pairsOf(spec.Types)
	var all []Mutant
	for _, f := range functions {
		seen := map[string]bool{}
		for _, m := range f.mutants(pairs) {
			octets, err := m.octets(f)
			if err != nil {
				return nil, fmt.Errorf("encode mutant %s: %w", m.ID, err)
			}
			if !seen[octets] {
				seen[octets] = true
				all = append(all, m)
			}
		}
	}
	slices.SortStableFunc(all, compare)
	return all, nil
}

func compare(a, b Mutant) int {
	if a.File != b.File {
		if a.File < b.File {
			return -1
		}
		return 1
	}
	return a.Line - b.Line
}

// octets are what a mutant changes; equal to the function's own for one that
// changes nothing.
func (m *Mutant) octets(f *function) (string, error) {
	var b bytes.Buffer
	for _, e := range m.edits {
		ins := e.ins.WithMetadata(asm.Metadata{})
		fmt.Fprintf(&b, "%d:", e.at)
		if f.ins[e.at].IsFunctionCall() { // encoded only where it is linked
			ins.Constant = 0
		}
		if _, err := ins.Marshal(&b, binary.LittleEndian); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// Apply plants errors in a program, in place. It says whether the program has
// any of their functions. Two errors of one instruction exclude each other.
func Apply(prog *ebpf.ProgramSpec, mutants ...Mutant) (bool, error) {
	starts := startsOf(prog.Instructions)
	changed, done := false, map[int]string{}
	for _, m := range mutants {
		start, has := starts[m.Function]
		if !has || !slices.Contains(m.Programs, prog.Name) {
			continue
		}
		changed = true
		for _, e := range m.edits {
			at := start + e.at
			if other, taken := done[at]; taken {
				return false, fmt.Errorf("plant %s: %s has changed the instruction", m.ID, other)
			}
			done[at] = m.ID
			old := prog.Instructions[at]
			replaced := e.ins.WithMetadata(old.Metadata)
			if old.IsFunctionCall() && !replaced.IsFunctionCall() {
				replaced = replaced.WithReference("")
			}
			prog.Instructions[at] = replaced
		}
	}
	if changed {
		prog.Instructions = withoutUncalled(prog.Instructions)
	}
	return changed, nil
}

// Overlap says whether two mutants change one instruction.
func (m Mutant) Overlap(o Mutant) bool {
	if m.key != o.key {
		return false
	}
	for _, a := range m.edits {
		if slices.ContainsFunc(o.edits, func(b edit) bool { return a.at == b.at }) {
			return true
		}
	}
	return false
}
