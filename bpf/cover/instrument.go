// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/weirnet/weir/bpf/blocks"
)

var (
	errFar   = errors.New("a jump is too far for its 16 bits with counters between")
	errStack = errors.New("no room on the stack to set registers aside")
)

// rewriter makes the instructions of a program anew, with counters.
type rewriter struct {
	p      *blocks.Program
	layout layout
	to     *ebpf.Map
	uses   []blocks.Use
	depth  int16 // of the stack of the function
	out    asm.Instructions
	detour []detour // of the function, to be placed after it
}

// detour is what a jump leads over where the edge has a counter: the goal's
// start is entered by others too.
type detour struct{ from, goal int }

// instrument gives the instructions of a program with counters. Jumps lead to
// symbols from then on, since all distances change.
func instrument(p *blocks.Program, l layout, to *ebpf.Map) (asm.Instructions, error) {
	r := &rewriter{p: p, layout: l, to: to, uses: p.Uses()}
	for n := range p.Blocks {
		first := n == 0 || p.Blocks[n].Function != p.Blocks[n-1].Function
		if first {
			if err := r.detours(); err != nil {
				return nil, err
			}
			r.depth = stackDepth(p, n)
		}
		if err := r.block(n); err != nil {
			return nil, err
		}
	}
	if err := r.detours(); err != nil {
		return nil, err
	}
	return r.out, checkDistances(r.out)
}

// block puts a block after those that are there, its counter before it, and
// that of the edge to the next behind it.
func (r *rewriter) block(n int) error {
	b := r.p.Blocks[n]
	count, err := r.count(n, r.layout[n].entered)
	if err != nil {
		return err
	}
	insns := append(asm.Instructions{}, r.p.Instructions[b.First:b.End]...)
	// The kernel wants a function and its first line at its first instruction.
	count[0] = count[0].WithSymbol(r.symbol(n)).WithSource(insns[0].Source())
	if fn := btf.FuncMetadata(&insns[0]); fn != nil {
		count[0] = btf.WithFuncMetadata(count[0], fn)
		insns[0] = btf.WithFuncMetadata(insns[0], nil)
	}
	insns[0] = insns[0].WithSymbol("")
	last := &insns[len(insns)-1]
	switch {
	case b.Branches():
		goal := r.symbol(b.Taken)
		if r.p.Blocks[b.Taken].From > 1 {
			r.detour = append(r.detour, detour{n, b.Taken})
			goal = edgeSymbol(n)
		}
		*last = jumpTo(*last, goal)
	case last.OpCode.JumpOp() == asm.Ja:
		*last = jumpTo(*last, r.symbol(b.Next))
	}
	r.out = append(append(r.out, count...), insns...)
	if b.Branches() && r.p.Blocks[b.Next].From > 1 {
		count, err := r.count(b.Next, r.layout[n].next)
		if err != nil {
			return err
		}
		// It goes on by a jump that goes nowhere, and that the kernel takes out
		// again: before 6.3 only jumps may lead back into a loop (check_cfg).
		r.out = append(append(r.out, count...), asm.Ja.Label(r.symbol(b.Next)))
	}
	return nil
}

// detours ends a function by the counters of the edges of its jumps.
func (r *rewriter) detours() error {
	for _, d := range r.detour {
		count, err := r.count(d.goal, r.layout[d.from].taken)
		if err != nil {
			return err
		}
		jump := r.p.Instructions[r.p.Blocks[d.from].End-1]
		count[0] = count[0].WithSymbol(edgeSymbol(d.from)).WithSource(jump.Source())
		r.out = append(append(r.out, count...), asm.Ja.Label(r.symbol(d.goal)))
	}
	r.detour = nil
	return nil
}

// symbol names the start of a block; a blank is in no name of C.
func (r *rewriter) symbol(n int) string {
	if symbol := r.p.Instructions[r.p.Blocks[n].First].Symbol(); symbol != "" {
		return symbol
	}
	return fmt.Sprintf("block %d", n)
}

func edgeSymbol(from int) string { return fmt.Sprintf("edge %d", from) }

func jumpTo(ins asm.Instruction, symbol string) asm.Instruction {
	if ins.OpCode.Class() == asm.Jump32Class && ins.OpCode.JumpOp() == asm.Ja {
		ins.Constant = -1
	} else {
		ins.Offset = -1
	}
	return ins.WithReference(symbol)
}

// count raises a counter where a block is about to begin, in registers that
// hold nothing then; where there are too few, some are set aside on the stack.
func (r *rewriter) count(block, counter int) (asm.Instructions, error) {
	use := r.uses[block]
	var regs, aside []asm.Register
	for reg := asm.R0; reg <= asm.R9 && len(regs) < 2; reg++ {
		if use.Free.Has(reg) {
			regs = append(regs, reg)
		}
	}
	for reg := asm.R9; len(regs) < 2; reg-- {
		if use.Held.Has(reg) && !use.Free.Has(reg) {
			regs, aside = append(regs, reg), append(aside, reg)
		}
		if reg == asm.R0 {
			break
		}
	}
	depth := r.depth - 8*int16(len(aside))
	if len(regs) < 2 || depth < -maxStack {
		return nil, errStack
	}
	at, value := regs[0], regs[1]
	var insns asm.Instructions
	for i, reg := range aside {
		insns = append(insns, asm.StoreMem(asm.RFP, depth+8*int16(i), reg, asm.DWord))
	}
	load := asm.LoadMapValue(at, 0, uint32(counter*8))
	if err := load.AssociateMap(r.to); err != nil {
		return nil, err
	}
	insns = append(insns, load,
		asm.LoadMem(value, at, 0, asm.DWord),
		asm.Add.Imm(value, 1),
		asm.StoreMem(at, 0, value, asm.DWord))
	for i, reg := range aside {
		insns = append(insns, asm.LoadMem(reg, asm.RFP, depth+8*int16(i), asm.DWord))
	}
	return insns, nil
}

// maxStack is what a program and all that it calls have together (MAX_BPF_STACK
// of linux/filter.h); the verifier adds up, this looks at one function alone.
const maxStack = 512

// stackDepth is the lowest offset from the frame pointer that a function can
// mean, as a multiple of 8 below zero. Every negative number that is added to
// anything counts: it may be to a copy of the pointer.
func stackDepth(p *blocks.Program, block int) int16 {
	lowest := int64(0)
	for n := block; n < len(p.Blocks) && p.Blocks[n].Function == p.Blocks[block].Function; n++ {
		for _, ins := range p.Instructions[p.Blocks[n].First:p.Blocks[n].End] {
			offset := int64(0)
			switch ins.OpCode.Class() {
			case asm.LdXClass, asm.StClass, asm.StXClass:
				if ins.Dst == asm.RFP || ins.Src == asm.RFP {
					offset = int64(ins.Offset)
				}
			case asm.ALU64Class:
				if ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource && ins.Constant >= -maxStack {
					offset = ins.Constant
				}
			}
			lowest = min(lowest, offset)
		}
	}
	return int16(lowest) &^ 7
}

// checkDistances refuses jumps that the library would cut to 16 bits.
func checkDistances(insns asm.Instructions) error {
	symbols := map[string]int64{}
	iter := insns.Iterate()
	for iter.Next() {
		if s := iter.Ins.Symbol(); s != "" {
			symbols[s] = int64(iter.Offset)
		}
	}
	iter = insns.Iterate()
	for iter.Next() {
		if !iter.Ins.OpCode.Class().IsJump() || iter.Ins.Offset != -1 || iter.Ins.Reference() == "" {
			continue
		}
		far := symbols[iter.Ins.Reference()] - int64(iter.Offset) - 1
		if far > math.MaxInt16 || far < math.MinInt16 {
			return fmt.Errorf("%w: %d instructions", errFar, far)
		}
	}
	return nil
}
