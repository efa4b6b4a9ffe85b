// SPDX-License-Identifier: Apache-2.0

package blocks

import "github.com/cilium/ebpf/asm"

// Registers is a set of r0 to r9; the frame pointer is not in it.
type Registers uint16

// Has says whether a register is in the set.
func (r Registers) Has(reg asm.Register) bool { return r&set(reg) != 0 }

const (
	noRegisters  Registers = 0
	allRegisters Registers = 1<<10 - 1
	arguments    Registers = 0b111110 // r1 to r5
)

func set(regs ...asm.Register) Registers {
	var s Registers
	for _, r := range regs {
		if r < asm.RFP {
			s |= 1 << r
		}
	}
	return s
}

// Use is what registers hold at the start of a block.
type Use struct {
	// Free hold nothing of use: whoever puts instructions there may write them.
	Free Registers
	// Held have been written on every way there: they may be read.
	Held Registers
}

// Uses gives what registers hold at the start of each block. What a call reads
// is not known, so every argument that was ever written counts as read.
func (p *Program) Uses() []Use {
	live := p.live()
	some, every := p.written(noRegisters, union), p.written(allRegisters, intersection)
	uses := make([]Use, len(p.Blocks))
	for i := range uses {
		uses[i] = Use{Free: allRegisters &^ (live[i] & some[i]), Held: every[i]}
	}
	return uses
}

func union(a, b Registers) Registers        { return a | b }
func intersection(a, b Registers) Registers { return a & b }

// live gives the registers that may be read after the start of each block
// before they are written.
func (p *Program) live() []Registers {
	reads, writes := make([]Registers, len(p.Blocks)), make([]Registers, len(p.Blocks))
	for n, b := range p.Blocks {
		for i := b.End - 1; i >= b.First; i-- {
			r, w := touches(p.Instructions[i])
			reads[n] = reads[n]&^w | r
			writes[n] |= w
		}
	}
	live := make([]Registers, len(p.Blocks))
	for changed := true; changed; {
		changed = false
		for n := len(p.Blocks) - 1; n >= 0; n-- {
			b := &p.Blocks[n]
			after := noRegisters
			if b.Next >= 0 {
				after |= live[b.Next]
			}
			if b.Taken >= 0 {
				after |= live[b.Taken]
			}
			if now := after&^writes[n] | reads[n]; now != live[n] {
				live[n], changed = now, true
			}
		}
	}
	return live
}

// written gives the registers that hold something at the start of each block, on
// ways there that are met as told. A program that reads another is refused by
// the verifier.
func (p *Program) written(unmet Registers, meet func(a, b Registers) Registers) []Registers {
	in := make([]Registers, len(p.Blocks))
	for n, b := range p.Blocks {
		switch {
		case n == 0:
			in[n] = set(asm.R1)
		case b.Function == p.Blocks[n-1].Function:
			in[n] = unmet
		case unmet == noRegisters: // how many arguments it has is not known
			in[n] = arguments
		}
	}
	for changed := true; changed; {
		changed = false
		for n, b := range p.Blocks {
			out := in[n]
			for i := b.First; i < b.End; i++ {
				_, w := touches(p.Instructions[i])
				if p.Instructions[i].OpCode.JumpOp() == asm.Call {
					out = out&^w | set(asm.R0)
				} else {
					out |= w
				}
			}
			for _, to := range []int{b.Next, b.Taken} {
				if to >= 0 && meet(in[to], out) != in[to] {
					in[to], changed = meet(in[to], out), true
				}
			}
		}
	}
	return in
}

// touches says which registers an instruction reads, and which it writes.
func touches(ins asm.Instruction) (reads, writes Registers) {
	op, dst, src := ins.OpCode, set(ins.Dst), set(ins.Src)
	switch op.Class() {
	case asm.ALUClass, asm.ALU64Class:
		if op.Source() == asm.RegSource && op.ALUOp() != asm.Swap {
			reads |= src
		}
		if alu := op.ALUOp() & 0xff; alu != asm.Mov {
			reads |= dst
		}
		return reads, dst
	case asm.LdXClass:
		return src, dst
	case asm.StClass:
		return dst, noRegisters
	case asm.StXClass:
		if op.Mode() == asm.AtomicMode { // some read r0, and some write a register: not to be counted on
			return dst | src | set(asm.R0), noRegisters
		}
		return dst | src, noRegisters
	case asm.LdClass:
		if op.IsDWordLoad() {
			return noRegisters, dst
		}
		return src | set(asm.R6), set(asm.R0) | arguments
	}
	return touchesOfJump(ins, dst, src)
}

func touchesOfJump(ins asm.Instruction, dst, src Registers) (reads, writes Registers) {
	switch op := ins.OpCode; {
	case op.JumpOp() == asm.Call:
		return arguments, set(asm.R0) | arguments
	case op.JumpOp() == asm.Exit:
		return set(asm.R0), noRegisters
	case op.JumpOp() == asm.Ja:
		return noRegisters, noRegisters
	case op.Source() == asm.RegSource:
		return dst | src, noRegisters
	}
	return dst, noRegisters
}
