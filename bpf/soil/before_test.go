// SPDX-License-Identifier: Apache-2.0

package soil

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
)

// reader is a program that gives a word of the stack that it has not written, of
// its own or of a function's.
func reader(t *testing.T, own bool, offset int16) *ebpf.Program {
	read := asm.Instructions{
		asm.Call.Label("read"), asm.Return(),
		asm.LoadMem(asm.R0, asm.RFP, -offset, asm.Word).WithSymbol("read"), asm.Return(),
	}
	if own {
		read = read[2:]
		read[0] = asm.LoadMem(asm.R0, asm.RFP, -offset, asm.Word)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: read, License: "Dual BSD/GPL"})
	if err != nil {
		t.Skipf("kernels before 6.3 let no program read what it has not written: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, prog.Close()) })
	return prog
}

func TestAProgramFindsTheSoilOnItsStack(t *testing.T) {
	before, err := NewBefore()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, before.Close()) })
	frame := make([]byte, 64)
	for name, prog := range map[string]*ebpf.Program{
		"first":      reader(t, true, 8),
		"last":       reader(t, true, stack-8),
		"a function": reader(t, false, 8),
		"deeper":     reader(t, false, 384),
	} {
		led, err := before.Lead(prog)
		require.NoError(t, err)
		returned, _, err := led.Test(frame)
		require.NoError(t, err)
		require.Equal(t, uint32(octet&0xffffffff), returned, name)
	}
}

func TestSoilThatLeadsNowhereGivesNoAction(t *testing.T) {
	before, err := NewBefore()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, before.Close()) })
	returned, _, err := before.prog.Test(make([]byte, 64))
	require.NoError(t, err)
	require.Equal(t, uint32(noAction), returned)
}
