// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
)

// lined is a program with the line information of an embedded one.
func lined(t *testing.T, insns ...asm.Instruction) *ebpf.CollectionSpec {
	t.Helper()
	real, err := bpf.LoadContainer()
	require.NoError(t, err)
	first := real.Programs[bpf.ContainerProgMarkExpired].Instructions[0]
	insns[0] = insns[0].WithSymbol("main").WithSource(first.Source())
	return &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"main": {Name: "main", Type: ebpf.SchedCLS, License: "GPL", Instructions: insns},
	}}
}

// by gives what a kind makes of the instruction at an index.
func by(t *testing.T, spec *ebpf.CollectionSpec, kind Kind, index int) []string {
	t.Helper()
	all, err := Enumerate(spec)
	require.NoError(t, err)
	var out []string
	for _, m := range all {
		if m.Kind == kind && m.Index == index {
			out = append(out, m.After)
		}
	}
	return out
}

func jump(op asm.JumpOp, imm int32) asm.Instruction {
	ins := op.Imm(asm.R2, imm, "")
	ins.Offset = 1
	return ins.WithReference("")
}

func TestEachKindChangesItsInstructions(t *testing.T) {
	for _, c := range []struct {
		name   string
		ins    asm.Instruction
		kind   Kind
		expect []string
	}{
		{"a condition is turned round", jump(asm.JGT, 5), Round, []string{"if r2 <= 5 goto +1"}},
		{"a condition is made always", jump(asm.JGT, 5), Always, []string{"if r2 == r2 goto +1"}},
		{"a condition is made never", jump(asm.JGT, 5), Never, []string{"if r2 != r2 goto +1"}},
		{"a bound is one off", jump(asm.JGT, 5), Bound, []string{"if r2 >= 5 goto +1"}},
		{"equality has no bound", jump(asm.JEq, 5), Bound, nil},
		{"a protocol number is compared", jump(asm.JEq, 6), Immediate, []string{"if r2 == 7 goto +1"}},
		{"a return code", asm.Mov.Imm(asm.R0, 3), Immediate, []string{"r0 = 4"}},
		{"a truth", asm.Mov.Imm(asm.R0, 1), Immediate, []string{"r0 = 0"}},
		{"a drop passes", asm.Mov.Imm(asm.R0, 2), Immediate, []string{"r0 = 3", "r0 = 0"}},
		{"a flag", asm.Or.Imm(asm.R2, 4), Immediate, []string{"r2 |= 8"}},
		{"a shift is the compiler's", asm.LSh.Imm(asm.R2, 4), Immediate, nil},
		{"a byte swap", asm.HostTo(asm.BE, asm.R2, asm.Half), Swap, []string{"r2 = le16 r2"}},
		{"a store", asm.StoreMem(asm.R1, 8, asm.R2, asm.Word), Store, []string{"nothing"}},
		{"a call of a helper", asm.FnKtimeGetNs.Call(), Call, []string{"r0 = 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := lined(t, asm.Mov.Imm(asm.R2, 0), c.ins, asm.Mov.Imm(asm.R0, 0), asm.Return())
			require.Equal(t, c.expect, by(t, spec, c.kind, 1))
		})
	}
}

func TestNeighbouringArgumentsAreSwapped(t *testing.T) {
	spec := lined(t,
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 7),
		asm.Mov.Imm32(asm.R3, 7),
		asm.FnSkbLoadBytes.Call(),
		asm.Return(),
	)
	require.Equal(t, []string{"r2 = r6; r1 = 7"}, by(t, spec, Arguments, 4), "r2 and r3 are the same, r4 is not made")
}

func TestSourceAndDestinationAreConfused(t *testing.T) {
	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	all, err := Enumerate(spec)
	require.NoError(t, err)
	texts := map[string]bool{}
	for _, m := range all {
		if m.Kind == Confused {
			texts[m.Text] = true
		}
	}
	require.Contains(t, texts, "ip->saddr = flow->src.w[3];")
	require.Contains(t, texts, "pkt->key.sport = udp->source;")
}

func TestAnObjectWithoutLinesIsRefused(t *testing.T) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"main": {Name: "main", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1).WithSymbol("main"), asm.Return()}},
	}}
	_, err := Enumerate(spec)
	require.ErrorIs(t, err, ErrNoLines)
}

func objects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	out := map[string]*ebpf.CollectionSpec{}
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"container": bpf.LoadContainer, "host": bpf.LoadHost, "socket": bpf.LoadSocket,
	} {
		spec, err := load()
		require.NoError(t, err)
		out[name] = spec
	}
	return out
}

func TestIDsAreNamesAndEveryMutantChangesItsPrograms(t *testing.T) {
	for name, spec := range objects(t) {
		t.Run(name, func(t *testing.T) {
			all, err := Enumerate(spec)
			require.NoError(t, err)
			seen := map[string]bool{}
			for i, m := range all {
				key := m.ID + m.Programs[0]
				require.False(t, seen[key], key)
				seen[key] = true
				require.NotEqual(t, m.Before, m.After, m.ID)
				if i%50 != 0 {
					continue
				}
				for _, p := range m.Programs {
					prog := spec.Programs[p].Copy()
					changed, err := Apply(prog, m)
					require.NoError(t, err)
					require.True(t, changed)
					require.NotEqual(t, spec.Programs[p].Instructions, prog.Instructions, m.ID)
				}
			}
		})
	}
}

func TestTwoErrorsOfOneInstructionExcludeEachOther(t *testing.T) {
	spec := lined(t, asm.Mov.Imm(asm.R2, 0), jump(asm.JGT, 5), asm.Mov.Imm(asm.R0, 0), asm.Return())
	all, err := Enumerate(spec)
	require.NoError(t, err)
	var round, always Mutant
	for _, m := range all {
		switch m.Kind {
		case Round:
			round = m
		case Always:
			always = m
		}
	}
	require.True(t, round.Overlap(always))
	_, err = Apply(spec.Programs["main"].Copy(), round, always)
	require.ErrorContains(t, err, "main+1/always: main+1/round has changed the instruction")
}

// A program of Switch gives, for each number, what the mutant alone gives.
func TestASwitchIsEachOfItsMutants(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it loads BPF programs")
	}
	require.NoError(t, rlimit.RemoveMemlock())
	selector, err := ebpf.NewMap(Selector())
	require.NoError(t, err)
	defer selector.Close()
	insns := []asm.Instruction{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // skb->len
		asm.Mov.Imm(asm.R7, 3),
		jump(asm.JGT, 64),
		asm.Mov.Imm(asm.R7, 10),
		asm.Mov.Reg(asm.R0, asm.R7),
		asm.Add.Imm(asm.R0, 100),
		asm.Return(),
	}
	spec := lined(t, insns...)
	all, err := Enumerate(spec)
	require.NoError(t, err)
	require.Greater(t, len(all), 5)

	run := func(prog *ebpf.ProgramSpec) uint32 {
		loaded, err := ebpf.NewProgram(prog)
		require.NoError(t, err)
		defer loaded.Close()
		got, _, err := loaded.Test(make([]byte, 64))
		require.NoError(t, err)
		return got
	}
	many := spec.Programs["main"].Copy()
	made, err := Switch(many, selector, all)
	require.NoError(t, err)
	require.NotContains(t, made.Has, false)
	loaded, err := ebpf.NewProgram(many)
	require.NoError(t, err)
	defer loaded.Close()
	for n := 0; n <= len(all); n++ {
		require.NoError(t, selector.Put(uint32(0), uint64(n)))
		got, _, err := loaded.Test(make([]byte, 64))
		require.NoError(t, err)
		alone := spec.Programs["main"].Copy()
		if n > 0 {
			_, err := Apply(alone, all[n-1])
			require.NoError(t, err)
		}
		require.Equal(t, run(alone), got, "mutant %d", n)
	}
}
