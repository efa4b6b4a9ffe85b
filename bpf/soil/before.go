// SPDX-License-Identifier: Apache-2.0

package soil

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Before is a tc program that soils the stack, and goes on as another program.
//
// It calls that one's tail: what is called like this takes the stack of who called,
// from the same place on, where a run of its own would find what the kernel's way to
// it has left, which is mostly zeros. Who runs it says by the second word of skb->cb
// how the dirt differs.
type Before struct {
	prog *ebpf.Program
	next *ebpf.Map // with one element: the other program
	led  *ebpf.Program
}

// octet is what a Before fills the stack with. It differs from what Go soils with.
const octet = 0x5b5b5b5b5b5b5b5b

// noAction is what it gives where it does not come to the other program: nothing
// that a tc program may give.
const noAction = 0x5b

// NewBefore loads one that leads nowhere yet. The caller closes it.
func NewBefore() (*Before, error) {
	next, err := ebpf.NewMap(&ebpf.MapSpec{Name: Name, Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make table of the program behind the soil: %w", err)
	}
	const secondWord = 52 // of cb in struct __sk_buff
	out := append(asm.Instructions{
		asm.LoadMem(asm.R0, asm.R1, secondWord, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R0), asm.LSh.Imm(asm.R2, 32), asm.Or.Reg(asm.R0, asm.R2),
		asm.LoadImm(asm.R2, octet, asm.DWord), asm.Xor.Reg(asm.R0, asm.R2),
	}, filled()...)
	out = append(out,
		asm.LoadMapPtr(asm.R2, next.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, noAction), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: Name, Type: ebpf.SchedCLS, Instructions: out, License: "Dual BSD/GPL"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the soil before a program: %w", err), next.Close())
	}
	return &Before{prog: prog, next: next}, nil
}

// Lead makes it go on as prog from now on, and gives the program to run in its
// place. It costs nothing where it leads there already.
func (b *Before) Lead(prog *ebpf.Program) (*ebpf.Program, error) {
	if b.led != prog {
		if err := b.next.Put(uint32(0), prog); err != nil {
			return nil, fmt.Errorf("lead the soil to %s: %w", prog, err)
		}
		b.led = prog
	}
	return b.prog, nil
}

// Close frees it, and lets go of the program that it leads to.
func (b *Before) Close() error { return errors.Join(b.prog.Close(), b.next.Close()) }
