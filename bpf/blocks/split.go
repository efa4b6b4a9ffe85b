// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Block is a run of instructions that is entered at its first alone and left
// after its last alone.
type Block struct {
	// First is the index of its first instruction, End of the one after its
	// last.
	First, End int
	// Function has the block.
	Function string
	// Next is the block that follows: after a jump that is not taken, an
	// unconditional one, or none. Taken is the one that a conditional jump leads
	// to. -1: none.
	Next, Taken int
	// From is how many edges lead here.
	From int
}

// Branches says whether the block ends in a conditional jump.
func (b *Block) Branches() bool { return b.Taken >= 0 }

// split finds the blocks of the functions of a program.
func split(insns asm.Instructions) ([]Block, error) {
	targets, err := jumps(insns)
	if err != nil {
		return nil, err
	}
	calls := map[string]bool{}
	for i := range insns {
		if insns[i].IsFunctionReference() {
			calls[insns[i].Reference()] = true
		}
	}
	starts := make([]bool, len(insns)+1)
	entry := make([]string, len(insns))
	for i := range insns {
		if symbol := insns[i].Symbol(); i == 0 || calls[symbol] || btf.FuncMetadata(&insns[i]) != nil {
			starts[i], entry[i] = true, symbol
		}
		if to, ok := targets[i]; ok {
			starts[to] = true
		}
		if ends(insns[i]) {
			starts[i+1] = true
		}
	}
	number := make([]int, len(insns))
	var blocks []Block
	function := ""
	for i := range insns {
		if starts[i] {
			if entry[i] != "" {
				function = entry[i]
			}
			blocks = append(blocks, Block{First: i, Function: function, Next: -1, Taken: -1})
		}
		number[i] = len(blocks) - 1
	}
	for n := range blocks {
		b := &blocks[n]
		b.End = len(insns)
		if n+1 < len(blocks) {
			b.End = blocks[n+1].First
		}
		if err := lead(b, insns, targets, number); err != nil {
			return nil, err
		}
	}
	for n := range blocks {
		for _, to := range []int{blocks[n].Next, blocks[n].Taken} {
			if to >= 0 {
				blocks[to].From++
			}
		}
	}
	return blocks, nil
}

// lead sets where a block leads to.
func lead(b *Block, insns asm.Instructions, targets map[int]int, number []int) error {
	last := insns[b.End-1]
	to, jumps := targets[b.End-1]
	op := last.OpCode.JumpOp()
	switch {
	case op == asm.Exit:
		return nil
	case jumps && op == asm.Ja:
		b.Next = number[to]
		return nil
	case b.End == len(insns):
		return fmt.Errorf("instruction %d: the program ends without an exit", b.End-1)
	case jumps:
		b.Taken = number[to]
	}
	b.Next = number[b.End]
	return nil
}

// ends says whether an instruction ends a block.
func ends(ins asm.Instruction) bool {
	op := ins.OpCode.JumpOp()
	return op != asm.InvalidJumpOp && op != asm.Call
}

// jumps tells where each jump leads, by index.
func jumps(insns asm.Instructions) (map[int]int, error) {
	indexes := make(map[asm.RawInstructionOffset]int, len(insns))
	symbols := map[string]int{}
	iter := insns.Iterate()
	for iter.Next() {
		indexes[iter.Offset] = iter.Index
		if symbol := iter.Ins.Symbol(); symbol != "" {
			symbols[symbol] = iter.Index
		}
	}
	targets := map[int]int{}
	iter = insns.Iterate()
	for iter.Next() {
		if op := iter.Ins.OpCode.JumpOp(); !ends(*iter.Ins) || op == asm.Exit {
			continue
		}
		to, ok := symbols[iter.Ins.Reference()]
		if iter.Ins.Reference() == "" {
			to, ok = indexes[iter.Offset+1+distance(*iter.Ins)]
		}
		if !ok {
			return nil, fmt.Errorf("instruction %d: it jumps to where no instruction begins", iter.Index)
		}
		targets[iter.Index] = to
	}
	return targets, nil
}

// distance is how far a jump leads, in raw instructions. It wraps around below
// zero, as the offset that it is added to does.
func distance(ins asm.Instruction) asm.RawInstructionOffset {
	if ins.OpCode.Class() == asm.Jump32Class && ins.OpCode.JumpOp() == asm.Ja {
		return asm.RawInstructionOffset(ins.Constant) // gotol
	}
	return asm.RawInstructionOffset(int64(ins.Offset))
}
