// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/weirnet/weir/bpf/blocks"
)

// ErrNoRoom is a program that has no place for a choice between mutants: its
// stack is full, or a jump would be too far. They can be planted one by one.
var ErrNoRoom = errors.New("no room to choose between mutants")

// Selector is where a program of Switch finds the number of the mutant that it
// is to be: an array with one element of eight octets.
func Selector() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "mutant", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}
}

// Span is where a mutant's instructions lie in a program of Switch, in units of
// eight octets, as the verifier counts them.
type Span struct{ First, End int }

// Switched is a program that is many mutants.
type Switched struct {
	// Has says which of the mutants are in it.
	Has   []bool
	spans map[int][]Span // by number
}

// At gives the number of the mutant that an instruction of a program is of; 0
// when it is of none.
func (s *Switched) At(instruction int) int {
	for n, spans := range s.spans {
		for _, span := range spans {
			if span.First <= instruction && instruction < span.End {
				return n
			}
		}
	}
	return 0
}

// Switch makes a program be any of several mutants, by the number in a selector:
// 0 is the program as it was, n the n-th of the mutants. The kernel verifies them
// together in little more than the time that one takes, since they differ little.
//
// A function reads the selector where it begins and keeps it on its stack, so
// that the verifier knows that there is but one error on a way.
func Switch(prog *ebpf.ProgramSpec, selector *ebpf.Map, mutants []Mutant) (*Switched, error) {
	p, err := blocks.Read(prog.Name, prog.Instructions)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	s := &switcher{
		p: p, selector: selector, uses: p.Uses(), at: map[int][]alternative{}, crowded: map[int]bool{},
		made: &Switched{Has: make([]bool, len(mutants)), spans: map[int][]Span{}},
	}
	starts := startsOf(prog.Instructions)
	for n, m := range mutants {
		start, has := starts[m.Function]
		if !has || !slices.Contains(m.Programs, prog.Name) {
			continue
		}
		s.made.Has[n] = true
		for _, e := range m.edits {
			s.at[start+e.at] = append(s.at[start+e.at], alternative{n + 1, e.ins})
		}
		if m.Kind == Arguments {
			for i := start + m.edits[0].at; i <= start+m.Index; i++ {
				s.crowded[i] = true
			}
		}
	}
	if len(s.at) == 0 {
		return s.made, nil
	}
	out, err := s.build()
	if err != nil {
		return nil, err
	}
	prog.Instructions = out
	return s.made, nil
}

// alternative is what a mutant does in the place of an instruction.
type alternative struct {
	number int
	ins    asm.Instruction
}

type switcher struct {
	p        *blocks.Program
	selector *ebpf.Map
	uses     []blocks.Use
	at       map[int][]alternative
	crowded  map[int]bool // instructions at which registers of arguments are not to be written
	made     *Switched

	out   asm.Instructions
	raw   int // how long out is
	slot  int16
	later []detour
}

// detour is put behind a function: a mutant's instruction, and the way back.
type detour struct {
	alternative
	i, block int
	aside    bool
}

func (s *switcher) build() (asm.Instructions, error) {
	for n := range s.p.Blocks {
		b := &s.p.Blocks[n]
		first := n == 0 || s.p.Blocks[n-1].Function != b.Function
		if first {
			s.detours()
			if err := s.begin(n); err != nil {
				return nil, err
			}
		}
		free := s.free(n)
		for i := b.First; i < b.End; i++ {
			s.instruction(n, i, free[i-b.First], first)
		}
	}
	s.detours()
	return s.out, s.near()
}

// begin starts a function: it takes the number, where the function has mutants.
func (s *switcher) begin(n int) error {
	b := &s.p.Blocks[n]
	end := n
	for end < len(s.p.Blocks) && s.p.Blocks[end].Function == b.Function {
		end++
	}
	has := false
	for i := b.First; i < s.p.Blocks[end-1].End; i++ {
		has = has || len(s.at[i]) > 0
	}
	s.slot = 0
	if !has {
		return nil
	}
	if b.From > 0 {
		return fmt.Errorf("%w: function %s jumps to its start", ErrNoRoom, b.Function)
	}
	deepest := depth(s.p.Instructions[b.First:s.p.Blocks[end-1].End])
	if s.slot = deepest - 8; s.slot-8 < -512 {
		return fmt.Errorf("%w: the stack of function %s is full", ErrNoRoom, b.Function)
	}
	load := asm.LoadMapValue(asm.R0, s.selector.FD(), 0)
	old := s.p.Instructions[b.First]
	load = load.WithSymbol(old.Symbol()).WithSource(old.Source())
	if fn := btf.FuncMetadata(&old); fn != nil {
		load = btf.WithFuncMetadata(load, fn)
	}
	s.emit(load, asm.LoadMem(asm.R0, asm.R0, 0, asm.DWord), asm.StoreMem(asm.R10, s.slot, asm.R0, asm.DWord))
	return nil
}

func (s *switcher) emit(insns ...asm.Instruction) {
	for _, ins := range insns {
		s.out = append(s.out, ins)
		s.raw += int(ins.Size() / 8)
	}
}

// instruction puts an instruction, and the choice before it.
func (s *switcher) instruction(n, i int, free blocks.Registers, opens bool) {
	b := &s.p.Blocks[n]
	ins := s.p.Instructions[i]
	symbol := ins.Symbol()
	switch {
	case opens && i == b.First && s.slot != 0: // begin has it
		symbol = ""
		ins = btf.WithFuncMetadata(ins, nil)
	case symbol == "" && i == b.First:
		symbol = block(n)
	case symbol == "" && len(s.at[i-1]) > 0:
		symbol = behind(i - 1)
	}
	ins = s.target(n, i, ins)
	var guard asm.Instructions
	if alternatives := s.at[i]; len(alternatives) > 0 {
		reg, aside := s.register(i, free)
		if aside {
			guard = append(guard, asm.StoreMem(asm.R10, s.slot-8, reg, asm.DWord))
		}
		guard = append(guard, asm.LoadMem(reg, asm.R10, s.slot, asm.DWord))
		for _, a := range alternatives {
			guard = append(guard, asm.JEq.Imm(reg, int32(a.number), away(a.number, i)))
			s.later = append(s.later, detour{a, i, n, aside})
		}
		if aside {
			guard = append(guard, asm.LoadMem(reg, asm.R10, s.slot-8, asm.DWord))
		}
	}
	if len(guard) > 0 {
		guard[0] = guard[0].WithSymbol(symbol)
		if source := ins.Source(); source != nil {
			guard[0] = guard[0].WithSource(source)
		}
		symbol = ""
	}
	s.emit(guard...)
	s.emit(ins.WithSymbol(symbol))
}

// setAside is the register that is used where all hold something.
const setAside = asm.R9

// register finds one that nobody reads any more.
func (s *switcher) register(i int, free blocks.Registers) (reg asm.Register, aside bool) {
	for _, r := range []asm.Register{asm.R0, asm.R9, asm.R8, asm.R7, asm.R6, asm.R5, asm.R4, asm.R3, asm.R2, asm.R1} {
		if free.Has(r) && (!s.crowded[i] || r == asm.R0 || r > asm.R5) {
			return r, false
		}
	}
	return setAside, true
}

// target leads a jump to where its block is now.
func (s *switcher) target(n, i int, ins asm.Instruction) asm.Instruction {
	b := &s.p.Blocks[n]
	op := ins.OpCode.JumpOp()
	switch {
	case i != b.End-1 || op == asm.InvalidJumpOp || op == asm.Call || op == asm.Exit:
		return ins
	case b.Branches():
		return jumpTo(ins, s.start(b.Taken))
	case op == asm.Ja:
		return jumpTo(ins, s.start(b.Next))
	}
	return ins
}

func (s *switcher) start(n int) string {
	if symbol := s.p.Instructions[s.p.Blocks[n].First].Symbol(); symbol != "" {
		return symbol
	}
	return block(n)
}

func block(n int) string        { return fmt.Sprintf("block %d", n) }
func behind(i int) string       { return fmt.Sprintf("behind %d", i) }
func away(number, i int) string { return fmt.Sprintf("mutant %d at %d", number, i) }

func jumpTo(ins asm.Instruction, symbol string) asm.Instruction {
	if ins.OpCode.Class() == asm.Jump32Class && ins.OpCode.JumpOp() == asm.Ja {
		ins.Constant = -1
	} else {
		ins.Offset = -1
	}
	return ins.WithReference(symbol)
}

// detours ends a function by what its mutants do.
func (s *switcher) detours() {
	for _, d := range s.later {
		b := &s.p.Blocks[d.block]
		old := s.p.Instructions[d.i]
		first := s.raw
		ins := d.ins.WithMetadata(asm.Metadata{})
		if ins.IsFunctionCall() || ins.OpCode == old.OpCode && old.Reference() != "" {
			ins = ins.WithReference(old.Reference())
		}
		switch op := ins.OpCode.JumpOp(); {
		case op == asm.InvalidJumpOp, op == asm.Call, op == asm.Ja:
		default:
			ins = jumpTo(ins, s.start(b.Taken))
		}
		var insns asm.Instructions
		if d.aside {
			insns = append(insns, asm.LoadMem(setAside, asm.R10, s.slot-8, asm.DWord))
		}
		if d.ins.OpCode.JumpOp() != asm.Ja {
			insns = append(insns, ins)
		}
		back := behind(d.i)
		if d.i == b.End-1 {
			back = s.start(b.Next)
		}
		insns = append(insns, asm.Ja.Label(back))
		insns[0] = insns[0].WithSymbol(away(d.number, d.i))
		s.emit(insns...)
		s.made.spans[d.number] = append(s.made.spans[d.number], Span{first, s.raw})
	}
	s.later = nil
}

// near refuses jumps that are too far for 16 bits.
func (s *switcher) near() error {
	at, symbols, n := make([]int, len(s.out)), map[string]int{}, 0
	for i := range s.out {
		at[i] = n
		if symbol := s.out[i].Symbol(); symbol != "" {
			symbols[symbol] = n
		}
		n += int(s.out[i].Size() / 8)
	}
	for i := range s.out {
		ins := &s.out[i]
		if op := ins.OpCode.JumpOp(); op == asm.InvalidJumpOp || op == asm.Call || op == asm.Exit {
			continue
		}
		if by := symbols[ins.Reference()] - at[i] - 1; by != int(int16(by)) {
			return fmt.Errorf("%w: a jump of function is %d instructions long", ErrNoRoom, by)
		}
	}
	return nil
}

// depth is how far down a function uses its stack, in octets, below zero.
func depth(f asm.Instructions) int16 {
	lowest := int64(0)
	for i := range f {
		ins := &f[i]
		class := ins.OpCode.Class()
		switch {
		case class == asm.LdXClass && ins.Src == asm.R10, class.IsStore() && ins.Dst == asm.R10:
			lowest = min(lowest, int64(ins.Offset))
		case class == asm.ALU64Class && ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource && ins.Constant >= -512:
			lowest = min(lowest, ins.Constant)
		}
	}
	return int16(lowest &^ 7)
}

// free are the registers that hold nothing of use before each instruction of a
// block.
func (s *switcher) free(n int) []blocks.Registers {
	const all = blocks.Registers(1<<10 - 1)
	b := &s.p.Blocks[n]
	var live blocks.Registers
	for _, to := range []int{b.Next, b.Taken} {
		if to >= 0 {
			live |= all &^ s.uses[to].Free
		}
	}
	out := make([]blocks.Registers, b.End-b.First)
	for i := b.End - 1; i >= b.First; i-- {
		ins := &s.p.Instructions[i]
		for r := asm.R0; r <= asm.R9; r++ {
			bit := blocks.Registers(1) << r
			if writes(ins, r) {
				live &^= bit
			}
			if needs(ins, r) {
				live |= bit
			}
		}
		out[i-b.First] = all &^ live
	}
	return out
}

func writes(ins *asm.Instruction, r asm.Register) bool {
	if isCall(ins) {
		return r <= asm.R5
	}
	return sets(ins) && ins.Dst == r
}

func needs(ins *asm.Instruction, r asm.Register) bool {
	class, op := ins.OpCode.Class(), ins.OpCode.JumpOp()
	switch {
	case class == asm.LdClass && !ins.OpCode.IsDWordLoad():
		return true
	case class == asm.StXClass && ins.OpCode.Mode() == asm.AtomicMode:
		return r == ins.Dst || r == ins.Src || r == asm.R0
	case !class.IsJump():
		return reads(ins, r)
	case op == asm.Call:
		return r >= asm.R1 && r <= asm.R5
	case op == asm.Exit:
		return r == asm.R0
	case op == asm.Ja:
		return false
	}
	return r == ins.Dst || ins.OpCode.Source() == asm.RegSource && r == ins.Src
}
