// SPDX-License-Identifier: Apache-2.0

package cover_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/bpf/cover"
)

// load loads an object with counters, and tables as small as they can be.
func load(t *testing.T, c *cover.Counters, read func() (*ebpf.CollectionSpec, error)) *ebpf.Collection {
	require.NoError(t, rlimit.RemoveMemlock(), "this test needs root")
	spec, err := read()
	require.NoError(t, err)
	for _, name := range []string{bpf.ContainerMapCtAnswered, bpf.ContainerMapCtUnanswered, bpf.ContainerMapPeers, bpf.ContainerMapMaglev} {
		if m := spec.Maps[name]; m != nil && m.Type != ebpf.Array {
			m.MaxEntries = 64
		}
	}
	require.NoError(t, c.Edit(spec))
	loaded, err := ebpf.NewCollection(spec)
	var refused *ebpf.VerifierError
	if err != nil {
		require.NotErrorAs(t, err, &refused, "%+v", err)
	}
	require.NoError(t, err)
	t.Cleanup(loaded.Close)
	return loaded
}

func newCounters(t *testing.T) *cover.Counters {
	c := cover.New()
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestEveryObjectLoadsWithCounters(t *testing.T) {
	for name, read := range map[string]func() (*ebpf.CollectionSpec, error){
		"container.bpf.c": bpf.LoadContainer, "host.bpf.c": bpf.LoadHost, "socket.bpf.c": bpf.LoadSocket,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCounters(t)
			load(t, c, read)
			counts := c.Snapshot()
			require.Len(t, counts, 1)
			require.Equal(t, name, counts[0].Name)
			require.Zero(t, entered(counts), "nothing has run")
		})
	}
}

func TestAFrameIsCountedAlongItsWay(t *testing.T) {
	c := newCounters(t)
	loaded := load(t, c, bpf.LoadContainer)
	frame := make([]byte, 64)
	frame[12], frame[13] = 0x88, 0xcc // LLDP: neither IP nor ARP
	for range 3 {
		_, err := loaded.Programs[bpf.ContainerProgFromContainer].Run(&ebpf.RunOptions{Data: frame})
		require.NoError(t, err)
	}
	for _, object := range c.Snapshot() {
		for _, p := range object.Programs {
			if p.Name != bpf.ContainerProgFromContainer {
				require.Zero(t, enteredOf(p), "%s has not run", p.Name)
				continue
			}
			requireFlow(t, p, 3)
			require.Contains(t, functions(p), "emit_event", "it was dropped, and that was told")
			require.NotContains(t, functions(p), "judge", "it was never judged")
		}
	}
	c.Reset()
	require.Zero(t, entered(c.Snapshot()))
}

// requireFlow checks that what enters the blocks of a program leaves them.
func requireFlow(t *testing.T, p cover.ProgramCounts, runs uint64) {
	in := make([]uint64, len(p.Blocks))
	in[0] = runs
	for n, b := range p.Blocks {
		count := p.Counts[n]
		switch {
		case b.Branches():
			require.Equal(t, count.Entered, count.Taken+count.Next, "block %d of %s leaves as often as it is entered", n, b.Function)
			in[b.Taken] += count.Taken
			in[b.Next] += count.Next
		case b.Next >= 0:
			in[b.Next] += count.Entered
		}
	}
	for n, b := range p.Blocks {
		if n == 0 || b.Function == p.Blocks[n-1].Function { // others are entered by calls
			require.Equal(t, in[n], p.Counts[n].Entered, "block %d of %s is entered as often as is led there", n, b.Function)
		}
	}
}

func functions(p cover.ProgramCounts) []string {
	var names []string
	for n, b := range p.Blocks {
		if p.Counts[n].Entered > 0 {
			names = append(names, b.Function)
		}
	}
	return names
}

func enteredOf(p cover.ProgramCounts) int {
	n := 0
	for _, count := range p.Counts {
		if count.Entered > 0 {
			n++
		}
	}
	return n
}

func entered(counts cover.Counts) int {
	n := 0
	for _, object := range counts {
		for _, p := range object.Programs {
			n += enteredOf(p)
		}
	}
	return n
}

func TestAnObjectWithoutLinesIsNamed(t *testing.T) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"plain": {Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}, License: "GPL"},
	}}
	err := newCounters(t).Edit(spec)
	require.ErrorIs(t, err, blocks.ErrNoLines)
	require.ErrorContains(t, err, "program plain")
}

func TestAnotherRevisionIsNotCountedWithTheFirst(t *testing.T) {
	c := newCounters(t)
	first, err := bpf.LoadContainer()
	require.NoError(t, err)
	require.NoError(t, c.Edit(first))
	again, err := bpf.LoadContainer()
	require.NoError(t, err)
	require.NoError(t, c.Edit(again), "the same may be loaded many times")
	other, err := bpf.LoadContainer()
	require.NoError(t, err)
	p := other.Programs[bpf.ContainerProgMarkExpired]
	for i, ins := range p.Instructions {
		if ins.OpCode.JumpOp() == asm.JEq || ins.OpCode.JumpOp() == asm.JNE {
			p.Instructions[i].OpCode, p.Instructions[i].Offset = asm.Ja.Label("").OpCode, 0
		}
	}
	require.ErrorIs(t, c.Edit(other), cover.ErrChanged)
}

func TestRecordsTellWhatWasCountedAndWhatIsLive(t *testing.T) {
	var lives cover.Lives
	c := lives.Counters()
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	loaded := load(t, c, bpf.LoadContainer)
	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	shape, err := cover.ShapeOf(spec)
	require.NoError(t, err)

	first := c.Take()
	require.Len(t, first, 1)
	require.Empty(t, first[0].Counts)
	counts, live := make([]uint64, shape.Counters), make([]uint64, shape.Counters)
	require.NoError(t, first[0].Read(shape, counts, live))
	dead := 0
	for _, p := range shape.Counts(live).Programs {
		require.Positive(t, p.Counts[0].Entered, "%s can be entered", p.Name)
		dead += len(p.Counts) - enteredOf(p)
	}
	require.Positive(t, dead, "constants are zero here: the code that they turn on is gone")

	_, err = loaded.Programs[bpf.ContainerProgFromContainer].Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	require.NoError(t, err)
	want := c.Snapshot()[0]
	second := c.Take()
	require.Len(t, second, 1)
	require.Empty(t, second[0].Live, "that was told")
	require.NoError(t, second[0].Read(shape, counts, live))
	require.Equal(t, want, shape.Counts(counts))
	require.Empty(t, c.Take(), "nothing has run since")

	for i, n := range counts {
		require.False(t, n > 0 && live[i] == 0, "counter %d has counted, and was called dead", i)
	}
	second[0].Counts = second[0].Counts[:len(second[0].Counts)-1]
	require.ErrorIs(t, second[0].Read(shape, counts, live), cover.ErrRecord)
	second[0].Object = "host.bpf.c"
	require.ErrorIs(t, second[0].Read(shape, counts, live), cover.ErrRecord)
}

func TestAProgramThatTheKernelRefusesIsNamed(t *testing.T) {
	require.NoError(t, rlimit.RemoveMemlock(), "this test needs root")
	var lives cover.Lives
	c := lives.Counters()
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	p := spec.Programs[bpf.ContainerProgMarkExpired]
	p.Instructions[0] = asm.Mov.Reg(asm.R6, asm.R9).WithMetadata(p.Instructions[0].Metadata) // nothing has written r9
	err = c.Edit(spec)
	var refused *ebpf.VerifierError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "load container.bpf.c with counters: program mark_expired:")
}
