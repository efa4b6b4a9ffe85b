// SPDX-License-Identifier: Apache-2.0

package mutant

import "github.com/cilium/ebpf/asm"

// opposite are conditions that are true where the others are not.
var opposite = map[asm.JumpOp]asm.JumpOp{
	asm.JEq: asm.JNE, asm.JNE: asm.JEq,
	asm.JGT: asm.JLE, asm.JLE: asm.JGT, asm.JGE: asm.JLT, asm.JLT: asm.JGE,
	asm.JSGT: asm.JSLE, asm.JSLE: asm.JSGT, asm.JSGE: asm.JSLT, asm.JSLT: asm.JSGE,
}

// shifted are conditions whose bound is one off.
var shifted = map[asm.JumpOp]asm.JumpOp{
	asm.JGT: asm.JGE, asm.JGE: asm.JGT, asm.JLT: asm.JLE, asm.JLE: asm.JLT,
	asm.JSGT: asm.JSGE, asm.JSGE: asm.JSGT, asm.JSLT: asm.JSLE, asm.JSLE: asm.JSLT,
}

func conditional(ins *asm.Instruction) bool {
	if !ins.OpCode.Class().IsJump() {
		return false
	}
	op := ins.OpCode.JumpOp()
	_, known := opposite[op]
	return known || op == asm.JSet
}

// conditions plants errors in a conditional jump.
//
// One that is made always or never compares a register with itself, so that both
// ways stay in the program: the kernel refuses what cannot be reached.
func (p *planter) conditions(i int) {
	ins := p.ins[i]
	if !conditional(&ins) {
		return
	}
	op := ins.OpCode.JumpOp()
	if o, ok := opposite[op]; ok {
		turned := ins
		turned.OpCode = ins.OpCode.SetJumpOp(o)
		p.plant(i, Round, turned)
	}
	p.plant(i, Always, itself(ins, asm.JEq))
	p.plant(i, Never, itself(ins, asm.JNE))
	if o, ok := shifted[op]; ok {
		off := ins
		off.OpCode = ins.OpCode.SetJumpOp(o)
		p.plant(i, Bound, off)
	}
	if ins.OpCode.Source() == asm.ImmSource && ins.Constant != 0 && (op == asm.JEq || op == asm.JNE || op == asm.JSet) {
		p.plant(i, Immediate, withConstant(ins, ins.Constant+1))
	}
}

func itself(ins asm.Instruction, op asm.JumpOp) asm.Instruction {
	ins.OpCode = asm.OpCode(asm.JumpClass).SetJumpOp(op).SetSource(asm.RegSource)
	ins.Src, ins.Constant = ins.Dst, 0
	return ins
}

func withConstant(ins asm.Instruction, c int64) asm.Instruction {
	ins.Constant = c
	return ins
}
