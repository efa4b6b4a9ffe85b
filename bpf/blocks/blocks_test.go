// SPDX-License-Identifier: Apache-2.0

package blocks_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/blocks"
)

// lined gives each instruction a line, without which it is not read.
func lined(insns asm.Instructions) asm.Instructions {
	spec, err := bpf.LoadContainer()
	if err != nil {
		panic(err)
	}
	insns[0] = insns[0].WithSource(spec.Programs[bpf.ContainerProgMarkExpired].Instructions[0].Source())
	return insns
}

func TestAProgramIsSplitWhereItJumps(t *testing.T) {
	insns := lined(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word).WithSymbol("main"),
		asm.LoadImm(asm.R3, 1<<40, asm.DWord), // two wide
		{OpCode: asm.JEq.Imm(asm.R2, 0, "").OpCode, Dst: asm.R2, Offset: 3},
		asm.LoadImm(asm.R4, 1<<40, asm.DWord),
		asm.Mov.Reg(asm.R0, asm.R4),
		asm.Mov.Imm(asm.R0, 1),
		asm.Return(),
	})
	p, err := blocks.Read("main", insns)
	require.NoError(t, err)
	require.Equal(t, []blocks.Block{
		{First: 0, End: 3, Function: "main", Next: 1, Taken: 2},
		{First: 3, End: 5, Function: "main", Next: 2, Taken: -1, From: 1},
		{First: 5, End: 7, Function: "main", Next: -1, Taken: -1, From: 2},
	}, p.Blocks)
	uses := p.Uses()
	require.False(t, uses[0].Free.Has(asm.R1), "the context is read")
	require.True(t, uses[0].Free.Has(asm.R2), "it is written before it is read")
	require.True(t, uses[1].Held.Has(asm.R3))
	require.False(t, uses[1].Held.Has(asm.R4))
	require.True(t, uses[2].Free.Has(asm.R4), "nobody reads it any more")
	require.False(t, uses[2].Held.Has(asm.R4), "only one way there writes it")
}

func TestWhatACallMayReadIsNotFree(t *testing.T) {
	insns := lined(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1).WithSymbol("main"),
		asm.Mov.Imm(asm.R2, 7),
		{OpCode: asm.JEq.Imm(asm.R6, 0, "").OpCode, Dst: asm.R6, Offset: 1},
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	})
	p, err := blocks.Read("main", insns)
	require.NoError(t, err)
	use := p.Uses()[1]
	require.False(t, use.Free.Has(asm.R2))
	require.True(t, use.Free.Has(asm.R3), "nobody has written it")
	require.True(t, use.Free.Has(asm.R0), "the call writes it")
	require.True(t, use.Free.Has(asm.R6), "nobody reads it any more")
}

func TestAJumpIntoAnInstructionIsRefused(t *testing.T) {
	_, err := blocks.Read("main", lined(asm.Instructions{
		{OpCode: asm.Ja.Label("").OpCode, Offset: 1},
		asm.LoadImm(asm.R0, 1<<40, asm.DWord),
		asm.Return(),
	}))
	require.ErrorContains(t, err, "instruction 0: it jumps to where no instruction begins")
}

func TestObjectsAreNamedByTheirSource(t *testing.T) {
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"container.bpf.c": bpf.LoadContainer, "host.bpf.c": bpf.LoadHost, "socket.bpf.c": bpf.LoadSocket,
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := load()
			require.NoError(t, err)
			o, err := blocks.Of(spec)
			require.NoError(t, err)
			require.Equal(t, name, o.Name)
			for _, p := range o.Programs {
				requireWhole(t, p)
			}
		})
	}
}

// requireWhole checks that blocks cover a program, that functions do not jump
// into each other, and that no block is without a way there.
func requireWhole(t *testing.T, p *blocks.Program) {
	at := 0
	for n, b := range p.Blocks {
		require.Equal(t, at, b.First)
		require.Greater(t, b.End, b.First)
		at = b.End
		for _, to := range []int{b.Next, b.Taken} {
			if to >= 0 {
				require.Equal(t, b.Function, p.Blocks[to].Function)
			}
		}
		if n > 0 && b.Function == p.Blocks[n-1].Function {
			require.Positive(t, b.From, "block %d of %s", n, b.Function)
		}
	}
	require.Len(t, p.Instructions, at)
	require.Len(t, p.Places, at)
}
