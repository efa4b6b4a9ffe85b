// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Touched is what a change of the programs touches.
type Touched struct {
	Edits    []edit
	Programs []string // that are not what they were
	// Reaching are the runs that reach lines of the edits. Where nothing is known to,
	// or an edit is beyond what lines tell, all that ran one of the programs are
	// touched: Loading.
	Reaching, Loading int
	Beyond            []edit
	// Failed are those that had failed and come first, whatever they reach.
	Failed int
}

// Touch makes those runs due that the change from one build to another touches, and
// numbers the lines of all as those of the new one.
func (m *Memory) Touch(before, now *Build) *Touched {
	edits := editsOf(before.Source, now.Source)
	t := &Touched{Edits: only(edits, edit.hasCode), Programs: now.Changed(before)}
	if len(t.Programs) > 0 {
		m.find(t, before.Map.HasCode)
	}
	m.move(edits)
	return t
}

func (m *Memory) find(t *Touched, hasCode func(file string, line int) bool) {
	lines := map[string]map[int]bool{}
	for _, e := range t.Edits {
		of, beyond := e.lines(hasCode)
		lines[e.file] = of
		if beyond {
			t.Beyond = append(t.Beyond, e)
		}
	}
	t.Failed = m.touch(func(_ Run, k *known) bool { return k.failed })
	t.Reaching = m.touch(func(_ Run, k *known) bool { return k.reaches(lines) })
	if len(t.Beyond) > 0 || t.Reaching == 0 {
		t.Loading = m.touch(func(_ Run, k *known) bool { return k.ran(t.Programs) })
	}
}

func (k *known) reaches(lines map[string]map[int]bool) bool {
	if k.reach == nil {
		return false
	}
	for file, of := range lines {
		if slices.ContainsFunc(k.reach.Lines[file], func(l int) bool { return of[l] }) {
			return true
		}
	}
	return false
}

func (k *known) ran(programs []string) bool {
	return k.reach != nil && slices.ContainsFunc(k.reach.Programs, func(p string) bool { return slices.Contains(programs, p) })
}

func only(edits []edit, fits func(edit) bool) (out []edit) {
	for _, e := range edits {
		if fits(e) {
			out = append(out, e)
		}
	}
	return out
}

// tell says it in lines. Shown is what bpf/ is called.
func (t *Touched) tell(shown string) []string {
	said := []string{"changed: " + joined(t.Edits, shown)}
	programs := strings.Join(t.Programs, ", ")
	switch {
	case len(t.Programs) == 0:
		return append(said, "the programs are the same: nothing to run")
	case len(t.Beyond) == 0 && t.Reaching > 0:
		said = append(said, fmt.Sprintf("%s what changed", runs(t.Reaching, "reaches", "reach")))
	case t.Loading == 0:
		said = append(said, fmt.Sprintf("no run here is of a program that changed: %s", programs))
	case len(t.Beyond) == 0:
		said = append(said, fmt.Sprintf("no run reaches what changed: %s of the programs that changed (%s)", runs(t.Loading, "", ""), programs))
	default:
		said = append(said, fmt.Sprintf("%s is in no function with instructions: %s of the programs that changed (%s)", joined(t.Beyond, shown), runs(t.Loading, "", ""), programs))
	}
	if t.Failed > 0 {
		said = append(said, fmt.Sprintf("what failed comes first: %s", runs(t.Failed, "", "")))
	}
	return said
}

func joined(edits []edit, shown string) string {
	var names []string
	for _, e := range edits {
		names = append(names, path.Join(shown, e.String()))
	}
	return strings.Join(names, ", ")
}

// runs counts runs, with a verb for one and for several.
func runs(n int, one, several string) string {
	if n == 1 {
		return strings.TrimSpace("1 run " + one)
	}
	return strings.TrimSpace(fmt.Sprintf("%d runs %s", n, several))
}
