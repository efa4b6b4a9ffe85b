// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/asm"
)

var conditionSigns = map[asm.JumpOp]string{
	asm.JEq: "==", asm.JNE: "!=", asm.JGT: ">", asm.JGE: ">=", asm.JLT: "<", asm.JLE: "<=",
	asm.JSGT: "s>", asm.JSGE: "s>=", asm.JSLT: "s<", asm.JSLE: "s<=", asm.JSet: "&",
}

var aluSigns = map[asm.ALUOp]string{
	asm.Add: "+=", asm.Sub: "-=", asm.Mul: "*=", asm.Div: "/=", asm.Mod: "%=", asm.Or: "|=", asm.And: "&=",
	asm.Xor: "^=", asm.LSh: "<<=", asm.RSh: ">>=", asm.ArSh: "s>>=", asm.Mov: "=",
}

var sizeNames = map[asm.Size]string{asm.Byte: "u8", asm.Half: "u16", asm.Word: "u32", asm.DWord: "u64"}

// Text writes an instruction as the kernel's verifier does.
func Text(ins asm.Instruction) string {
	class := ins.OpCode.Class()
	switch {
	case ins.IsBuiltinCall():
		return "call " + strings.TrimPrefix(asm.BuiltinFunc(ins.Constant).String(), "Fn")
	case ins.IsFunctionCall():
		return "call " + ins.Reference()
	case class.IsJump():
		return jumpText(&ins)
	case class.IsALU():
		return aluText(&ins)
	case ins.OpCode.IsDWordLoad():
		return fmt.Sprintf("%s = %#x ll", ins.Dst, ins.Constant)
	case class == asm.LdXClass && ins.OpCode.Mode() == asm.MemMode:
		return fmt.Sprintf("%s = *(%s *)(%s %+d)", ins.Dst, sizeNames[ins.OpCode.Size()], ins.Src, ins.Offset)
	case class == asm.StXClass && ins.OpCode.Mode() == asm.MemMode:
		return fmt.Sprintf("*(%s *)(%s %+d) = %s", sizeNames[ins.OpCode.Size()], ins.Dst, ins.Offset, ins.Src)
	case class == asm.StClass && ins.OpCode.Mode() == asm.MemMode:
		return fmt.Sprintf("*(%s *)(%s %+d) = %d", sizeNames[ins.OpCode.Size()], ins.Dst, ins.Offset, ins.Constant)
	}
	return strings.TrimSpace(fmt.Sprint(ins))
}

func jumpText(ins *asm.Instruction) string {
	switch op := ins.OpCode.JumpOp(); op {
	case asm.Ja:
		if ins.Offset == 0 {
			return "nothing"
		}
		return fmt.Sprintf("goto %+d", ins.Offset)
	case asm.Exit:
		return "exit"
	default:
		wide := "r"
		if ins.OpCode.Class() == asm.Jump32Class {
			wide = "w"
		}
		return fmt.Sprintf("if %s %s %s goto %+d", numbered(wide, ins.Dst), conditionSigns[op], operand(wide, ins), ins.Offset)
	}
}

func aluText(ins *asm.Instruction) string {
	wide := "r"
	if ins.OpCode.Class() == asm.ALUClass {
		wide = "w"
	}
	switch op := ins.OpCode.ALUOp(); op {
	case asm.Swap:
		if ins.OpCode.Class() == asm.ALU64Class {
			return fmt.Sprintf("%s = bswap%d %s", ins.Dst, ins.Constant, ins.Dst)
		}
		return fmt.Sprintf("%s = %s%d %s", ins.Dst, strings.ToLower(ins.OpCode.Endianness().String()), ins.Constant, ins.Dst)
	case asm.Neg:
		return fmt.Sprintf("%s = -%s", numbered(wide, ins.Dst), numbered(wide, ins.Dst))
	default:
		if sign, ok := aluSigns[op]; ok {
			return fmt.Sprintf("%s %s %s", numbered(wide, ins.Dst), sign, operand(wide, ins))
		}
	}
	return strings.TrimSpace(fmt.Sprint(*ins))
}

func operand(wide string, ins *asm.Instruction) string {
	if ins.OpCode.Source() == asm.RegSource {
		return numbered(wide, ins.Src)
	}
	return fmt.Sprint(ins.Constant)
}

// numbered is a register's name, whole (r) or its lower half (w).
func numbered(wide string, r asm.Register) string { return fmt.Sprintf("%s%d", wide, r) }
