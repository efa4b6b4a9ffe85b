// SPDX-License-Identifier: Apache-2.0

package mutant

import "github.com/cilium/ebpf/asm"

// Doubtful says that the verifier is likely to refuse the mutant: what becomes of
// a pointer is what it looks at. It is a guess, for those who plan.
func (m *Mutant) Doubtful() bool {
	if m.Kind == Arguments {
		return true
	}
	for _, e := range m.edits {
		old := e.old
		class := old.OpCode.Class()
		switch {
		case class == asm.JumpClass && conditional(&old):
			// A null check, or a packet's bounds: numbers are mostly compared by
			// their lower halves.
			if old.OpCode.Source() == asm.RegSource {
				return true
			}
			if old.Constant == 0 && m.Kind != Always {
				return true
			}
		case class == asm.StXClass && old.Dst == asm.R10 && old.OpCode.Size() == asm.DWord:
			return true
		case old.IsFunctionCall():
			return true
		}
	}
	return false
}
