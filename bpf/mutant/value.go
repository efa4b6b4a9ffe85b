// SPDX-License-Identifier: Apache-2.0

package mutant

import "github.com/cilium/ebpf/asm"

// immediates plants an error in a constant that is moved, stored or calculated
// with: a return code, a flag, a port, a timeout. What moves an address within
// the stack or a struct is none of these, and neither is a shift, which the
// compiler makes of casts and of octets that it puts together.
func (p *planter) immediates(i int, types registers) {
	ins := p.ins[i]
	class, op := ins.OpCode.Class(), ins.OpCode.ALUOp()
	switch {
	case ins.OpCode.IsDWordLoad():
		p.plant(i, Immediate, withConstant(ins, other(ins.Constant)))
	case class == asm.StClass && ins.OpCode.Mode() == asm.MemMode:
		p.plant(i, Immediate, withConstant(ins, other(ins.Constant)))
	case !class.IsALU() || ins.OpCode.Source() != asm.ImmSource:
	case op == asm.Mov:
		p.plant(i, Immediate, withConstant(ins, other(ins.Constant)))
		if ins.Constant == shot {
			p.plant(i, Immediate, withConstant(ins, 0))
			p.found[len(p.found)-1].ID += "-pass"
		}
	case op == asm.And || op == asm.Or || op == asm.Xor:
		// The lowest bit that is set becomes the one above it.
		low := ins.Constant & -ins.Constant
		changed := ins.Constant&^low ^ low<<1
		if changed == int64(int32(changed)) {
			p.plant(i, Immediate, withConstant(ins, changed))
		}
	case op == asm.Add && (types[ins.Dst].address()):
	case op == asm.Add || op == asm.Sub || op == asm.Mul || op == asm.Div || op == asm.Mod:
		p.plant(i, Immediate, withConstant(ins, ins.Constant+1))
	}
}

// shot is TC_ACT_SHOT of linux/pkt_cls.h, by which a program drops a packet: 0 in
// its place lets the packet pass.
const shot = 2

// other is another constant: a truth turned round, and of anything else the next.
func other(c int64) int64 {
	switch c {
	case 1:
		return 0
	case 1<<31 - 1: // an immediate has no more
		return c - 1
	}
	return c + 1
}

// leftOut leaves instructions out.
func (p *planter) leftOut(i int) {
	ins := p.ins[i]
	class := ins.OpCode.Class()
	switch {
	case class.IsALU() && ins.OpCode.ALUOp() == asm.Swap:
		p.swapLeftOut(i)
	case class.IsStore() && ins.OpCode.Mode() == asm.MemMode, class.IsStore() && ins.OpCode.Mode() == asm.AtomicMode:
		p.plant(i, Store, nothing)
	case ins.IsBuiltinCall(), ins.IsFunctionCall():
		p.plant(i, Call, asm.Mov.Imm(asm.R0, 0))
	}
}

// nothing goes on with the next instruction.
var nothing = asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Ja)}

// swapLeftOut keeps what a swap does besides on a little-endian machine: it cuts
// the value off.
func (p *planter) swapLeftOut(i int) {
	ins := p.ins[i]
	if ins.OpCode.Class() == asm.ALU64Class { // bswap
		switch ins.Constant {
		case 16:
			p.plant(i, Swap, asm.And.Imm(ins.Dst, 0xffff))
		case 32:
			p.plant(i, Swap, asm.Mov.Reg32(ins.Dst, ins.Dst))
		default:
			p.plant(i, Swap, nothing)
		}
		return
	}
	if ins.OpCode.Endianness() == asm.BE {
		ins.OpCode = ins.OpCode.SetSource(asm.ImmSource) // to little-endian
		p.plant(i, Swap, ins)
	}
}
