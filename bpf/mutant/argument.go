// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"slices"

	"github.com/cilium/ebpf/asm"
)

// arguments swaps neighbours among the arguments of a call, by swapping the
// registers in what makes them. It looks no further back than the last jump.
func (p *planter) arguments(call int) {
	ins := &p.ins[call]
	if !ins.IsBuiltinCall() && !ins.IsFunctionCall() {
		return
	}
	begin := p.straight(call)
	for a := asm.R1; a < asm.R5; a++ {
		if edits := p.swapped(begin, call, a, a+1); edits != nil {
			p.plantAll(call, Arguments, edits)
			p.found[len(p.found)-1].ID += "-" + a.String()
		}
	}
}

// straight is where the instructions begin that are run before i whenever i is.
func (p *planter) straight(i int) int {
	at := p.offsets()
	targets := map[int]bool{}
	for j := range p.ins {
		if p.ins[j].OpCode.Class().IsJump() && !isCall(&p.ins[j]) && p.ins[j].OpCode.JumpOp() != asm.Exit {
			targets[at[j]+1+int(p.ins[j].Offset)] = true
		}
	}
	for i > 0 && !targets[at[i]] && !p.ins[i-1].OpCode.Class().IsJump() {
		i--
	}
	return i
}

func isCall(ins *asm.Instruction) bool { return ins.OpCode.JumpOp() == asm.Call }

// offsets are where instructions lie, in units of eight octets.
func (f *function) offsets() []int {
	at, n := make([]int, len(f.ins)), 0
	for i := range f.ins {
		at[i] = n
		n += int(f.ins[i].Size() / 8)
	}
	return at
}

// swapped renames two registers from where the first of them is made. Nil, if one
// of them is read there before it is made, or is not made at all.
func (p *planter) swapped(begin, call int, a, b asm.Register) []edit {
	first := call
	made := map[asm.Register]bool{}
	for i := call - 1; i >= begin && !(made[a] && made[b]); i-- {
		ins := &p.ins[i]
		if sets(ins) && (ins.Dst == a || ins.Dst == b) {
			made[ins.Dst] = true
			first = i
		}
	}
	if !made[a] || !made[b] {
		return nil
	}
	if p.same(first, call, a, b) {
		return nil
	}
	var edits []edit
	ready := map[asm.Register]bool{}
	for i := first; i < call; i++ {
		ins := p.ins[i]
		for _, r := range []asm.Register{a, b} {
			if reads(&ins, r) && !ready[r] {
				return nil
			}
		}
		if sets(&ins) {
			ready[ins.Dst] = true
		}
		renamed := ins
		renamed.Dst = renamedTo(ins.Dst, a, b)
		if usesSource(&ins) {
			renamed.Src = renamedTo(ins.Src, a, b)
		}
		if renamed.Dst == ins.Dst && renamed.Src == ins.Src {
			continue
		}
		if ins.Reference() != "" || p.fixed(i) {
			return nil
		}
		edits = append(edits, edit{i, renamed, ins})
	}
	return slices.Clip(edits)
}

// same says whether two registers are made alike, so that it does not matter
// which is which.
func (p *planter) same(first, call int, a, b asm.Register) bool {
	var makers []asm.Instruction
	for i := first; i < call; i++ {
		ins := p.ins[i]
		if ins.Dst != a && ins.Dst != b || ins.OpCode.Class().IsStore() {
			continue
		}
		if ins.OpCode.Class() == asm.LdXClass || !sets(&ins) {
			return false
		}
		makers = append(makers, ins)
	}
	if len(makers) != 2 {
		return false
	}
	x, y := makers[0], makers[1]
	if x.Constant != y.Constant {
		return false
	}
	// A number that is not negative is the same in 32 and in 64 bits.
	return x.OpCode == y.OpCode && x.Src == y.Src || isNumber(&x) && isNumber(&y) && x.Constant >= 0
}

// isNumber is whether an instruction gives its register a number.
func isNumber(ins *asm.Instruction) bool {
	return ins.OpCode.Class().IsALU() && ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.ImmSource
}

func renamedTo(r, a, b asm.Register) asm.Register {
	switch r {
	case a:
		return b
	case b:
		return a
	}
	return r
}

// sets says whether an instruction gives its destination a value that does not
// depend on the one before.
func sets(ins *asm.Instruction) bool {
	class := ins.OpCode.Class()
	return class.IsLoad() || class.IsALU() && ins.OpCode.ALUOp() == asm.Mov
}

func usesSource(ins *asm.Instruction) bool {
	class := ins.OpCode.Class()
	switch {
	case class == asm.LdXClass, class == asm.StXClass:
		return true
	case class.IsALU():
		return ins.OpCode.Source() == asm.RegSource && ins.OpCode.ALUOp() != asm.Swap && ins.OpCode.ALUOp() != asm.Neg
	}
	return false
}

func reads(ins *asm.Instruction, r asm.Register) bool {
	if usesSource(ins) && ins.Src == r {
		return true
	}
	class := ins.OpCode.Class()
	return ins.Dst == r && !sets(ins) && (class.IsALU() || class.IsStore())
}
