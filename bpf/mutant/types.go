// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// pointer is what a register is known to point at: an octet of a struct, or of
// the stack.
type pointer struct {
	in    *btf.Struct
	at    int
	stack bool
}

// address says that it is a pointer at all.
func (p pointer) address() bool { return p.in != nil || p.stack }

// registers are what is known before an instruction.
type registers [asm.R10 + 1]pointer

// types guesses what registers point at, before each instruction. It reads a
// function from its first to its last instruction and heeds no jump: compilers
// mostly leave a pointer where it is, and a wrong guess makes an error of another
// field, no less an error.
func (f *function) types() []registers {
	out := make([]registers, len(f.ins))
	var now registers
	now[asm.R10] = pointer{stack: true}
	if f.proto != nil {
		for n, param := range f.proto.Params {
			if n < 5 {
				now[asm.R1+asm.Register(n)] = pointer{in: structAt(param.Type)}
			}
		}
	}
	spilled := map[int16]pointer{}
	for i := range f.ins {
		out[i] = now
		f.follow(&now, spilled, i)
	}
	return out
}

func (f *function) follow(now *registers, spilled map[int16]pointer, i int) {
	ins := &f.ins[i]
	class, op := ins.OpCode.Class(), ins.OpCode.ALUOp()
	switch {
	case class == asm.ALU64Class && op == asm.Mov && ins.OpCode.Source() == asm.RegSource:
		now[ins.Dst] = now[ins.Src]
	case class == asm.ALU64Class && op == asm.Add && ins.OpCode.Source() == asm.ImmSource:
		now[ins.Dst].at += int(ins.Constant)
	case class.IsALU(), class == asm.LdClass:
		now[ins.Dst] = pointer{}
	case class == asm.LdXClass:
		now[ins.Dst] = pointer{}
		if ins.Src == asm.R10 {
			now[ins.Dst] = spilled[ins.Offset]
		}
	case class == asm.StXClass && ins.Dst == asm.R10:
		spilled[ins.Offset] = now[ins.Src]
	case ins.IsBuiltinCall():
		found := pointer{}
		if asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem {
			found.in = f.valueOf(i)
		}
		f.called(now, found)
	case ins.IsFunctionCall():
		f.called(now, pointer{})
	}
}

// called forgets what a call does not keep.
func (f *function) called(now *registers, result pointer) {
	now[asm.R0] = result
	for r := asm.R1; r <= asm.R5; r++ {
		now[r] = pointer{}
	}
}

// valueOf is the type of the values of the map that the call at i looks into.
func (f *function) valueOf(i int) *btf.Struct {
	for j := i - 1; j >= 0 && j > i-8; j-- {
		ins := &f.ins[j]
		if !ins.IsLoadFromMap() || ins.Dst != asm.R1 {
			continue
		}
		if m := f.globals[ins.Reference()]; m != nil && m.Value != nil {
			s, _ := btf.UnderlyingType(m.Value).(*btf.Struct)
			return s
		}
		return nil
	}
	return nil
}

// structAt is the struct that a pointer of C points at; nil for all else.
func structAt(t btf.Type) *btf.Struct {
	p, ok := btf.UnderlyingType(t).(*btf.Pointer)
	if !ok {
		return nil
	}
	s, _ := btf.UnderlyingType(p.Target).(*btf.Struct)
	return s
}
