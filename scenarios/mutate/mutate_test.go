// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/scenarios"
)

func mutantAt(text string, kind mutant.Kind, before, after string) *mutant.Mutant {
	return &mutant.Mutant{File: "lib/packet.h", Text: text, Kind: kind, Before: before, After: after}
}

func TestEquivalentsAreFoundByTheirLine(t *testing.T) {
	list, err := ReadExcuses("list", strings.NewReader(`
# Nobody reads it
# ever again.
lib/packet.h: a = b | c; | store left out
lib/packet.h: if (len < ihl) | condition * | if w2 > * goto * => *

# Another line.
lib/packet.h: gone(); | call left out
lib/conntrack.h: of_no_mutant(); | call left out

# One hook never meets it.
lib/packet.h in to_pod, to_node: if (odd) | condition made never
lib/packet.h in to_node/parse: if (even) | condition made never
`))
	require.NoError(t, err)
	found := list.Find(mutantAt("a = b | c;", mutant.Store, "x", "nothing"))
	require.NotNil(t, found)
	require.Equal(t, "Nobody reads it ever again.", found.Reason)
	require.NotNil(t, list.Find(mutantAt("if (len < ihl)", mutant.Never, "if w2 > 4 goto +3", "if r2 != r2 goto +3")))
	for name, m := range map[string]*mutant.Mutant{
		"another kind":        mutantAt("a = b | c;", mutant.Immediate, "", ""),
		"another instruction": mutantAt("if (len < ihl)", mutant.Never, "if w3 > 4 goto +3", ""),
		"a line that changed": mutantAt("if (len <= ihl)", mutant.Never, "if w2 > 4 goto +3", ""),
	} {
		require.Nil(t, list.Find(m), name)
	}
	for function, listed := range map[string]bool{"to_pod": true, "to_node": true, "from_pod": false} {
		m := mutantAt("if (odd)", mutant.Never, "", "")
		m.Function = function
		require.Equal(t, listed, list.Find(m) != nil, function)
	}
	for program, listed := range map[string]bool{"to_node": true, "to_pod": false} {
		m := mutantAt("if (even)", mutant.Never, "", "")
		m.Function, m.Programs = "parse", []string{program}
		require.Equal(t, listed, list.Find(m) != nil, program)
	}
	stale := list.Unused()
	require.Len(t, stale, 1)
	require.Equal(t, "list:8", stale[0].Place)
}

func TestABadListSaysWhere(t *testing.T) {
	for name, c := range map[string]struct{ list, says string }{
		"without a reason": {"lib/a.h: a(); | call left out", "list:1: no reason stands above it"},
		"of no kind":       {"# Why.\nlib/a.h: a(); | all wrong", `list:2: "all wrong" is no kind`},
		"without a kind":   {"# Why.\nlib/a.h: a();", "list:2: expected a kind behind the text of the line"},
		"without a file":   {"# Why.\na();", "list:2: expected FILE [in FUNCTION, FUNCTION]: TEXT OF THE LINE | KIND"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadExcuses("list", strings.NewReader(c.list))
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestTheEmbeddedListFitsTheObjects(t *testing.T) {
	equivalents, err := ReadExcuses("bpf/equivalents", strings.NewReader(bpf.Equivalents))
	require.NoError(t, err)
	survivors, err := ReadExcuses("bpf/survivors", strings.NewReader(bpf.Survivors))
	require.NoError(t, err)
	objects, err := Embedded()
	require.NoError(t, err)
	for _, o := range objects {
		all, err := mutant.Enumerate(o.spec)
		require.NoError(t, err)
		for i := range all {
			equal, known := equivalents.Find(&all[i]), survivors.Find(&all[i])
			if equal != nil && known != nil {
				t.Errorf("%s: it is no error by %s, and one by %s", all[i].ID, equal.Place, known.Place)
			}
		}
	}
	for _, e := range append(equivalents.Unused(), survivors.Unused()...) {
		t.Errorf("%s: no mutant fits any more", e.Place)
	}
}

func TestAnEntryIsClosedByTheEndOfAllItsMutants(t *testing.T) {
	list, err := ReadExcuses("list", strings.NewReader("# Why.\nlib/packet.h: if (odd) | condition *\nlib/packet.h: if (even) | condition *"))
	require.NoError(t, err)
	require.Empty(t, list.Closed(), "nothing fits it yet")
	one := list.Find(mutantAt("if (odd)", mutant.Never, "", ""))
	require.Same(t, one, list.Find(mutantAt("if (odd)", mutant.Always, "", "")))
	one.Close()
	require.Empty(t, list.Closed(), "the other one may survive")
	one.Close()
	require.Equal(t, []*Excuse{one}, list.Closed())
}

func TestKnownSurvivorsCountAndAreShownApart(t *testing.T) {
	line := mutant.Mutant{ID: "f+1/never", File: "lib/a.h", Line: 3, Text: "if (odd)", Kind: mutant.Never, Before: "before", After: "after"}
	r := &Report{Results: []Result{
		{Mutant: line, Outcome: Known, Why: "Nobody is odd.", Reached: map[string]int{ByProg: 1}, Example: map[string]string{ByProg: "a/ipv4"}},
		{Mutant: line, Outcome: Survived},
		{Mutant: line, Outcome: Killed, By: ByProg},
		{Mutant: line, Outcome: Killed, By: ByFuzz},
	}}
	_, all := r.Scores()
	require.Equal(t, 2, all.Survived)
	require.Equal(t, 1, all.Known)
	require.InDelta(t, 50, all.Percent(), 0.01)
	var out strings.Builder
	require.NoError(t, r.Text(&out))
	require.Regexp(t, `(?s)^lib/a.h:3: if .odd.\n.*reached by \nsurvived, known: Nobody is odd.\nlib/a.h:3: if .odd.\n.*reached by 1 of prog`, out.String())
	out.Reset()
	require.NoError(t, r.JSON(&out))
	require.Contains(t, out.String(), `"outcome":"survived, known","why":"Nobody is odd."`)
	out.Reset()
	require.NoError(t, r.HTML(&out))
	require.Contains(t, out.String(), "survived, known: Nobody is odd.")
}

func TestAStateIsReadUpToItsLastWholeLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s, err := openState(path)
	require.NoError(t, err)
	one := entry{Object: "o", ID: "f+1/round", Stage: ByProg, Outcome: Killed, Killer: "a/ipv4", Lab: "d"}
	require.NoError(t, s.put(one))
	require.NoError(t, s.close())
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteString(`{"object":"o","id":"f+2/ro`)
	require.NoError(t, err)
	require.NoError(t, file.Close())

	s, err = openState(path)
	require.NoError(t, err)
	got, ok := s.get("o", "f+1/round", ByProg)
	require.True(t, ok)
	require.Equal(t, one, got)
	require.NoError(t, s.put(entry{Object: "o", ID: "f+3/round", Stage: ByProg, Outcome: Survived, Lab: "d"}))
	require.NoError(t, s.close())
	s, err = openState(path)
	require.NoError(t, err)
	require.Len(t, s.know, 2)
	require.NoError(t, s.close())
}

func TestAnObjectWithoutLinesIsRefused(t *testing.T) {
	_, err := NewObject([]byte("no ELF"))
	require.ErrorContains(t, err, "read object file")
}

// An interrupted run gives what it has, and the next one does not ask again.
func TestAnInterruptedRunGoesOn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and loads BPF programs")
	}
	objects, err := Embedded()
	require.NoError(t, err)
	all, err := scenarios.Library()
	require.NoError(t, err)
	all = all[:20]
	path := filepath.Join(t.TempDir(), "state")
	options := Options{
		Objects: objects, Scenarios: all, Parallel: 1, State: path, Without: []string{ByFuzz, ByNetns, BySocket},
		Only: func(m *mutant.Mutant) bool { return m.File == "container.bpf.c" && m.Kind == mutant.Always },
	}
	ctx, stop := context.WithCancel(t.Context())
	options.Progress = func(stage string, done, _ int) {
		if stage == "scenarios in prog" && done > 0 {
			stop()
		}
	}
	first, err := Run(ctx, options)
	require.ErrorIs(t, err, context.Canceled)
	_, sum := first.Scores()
	require.Positive(t, sum.Undone)
	require.Less(t, sum.Undone, sum.Mutants)

	asked := 0
	options.Progress = func(stage string, done, total int) {
		if stage == "scenarios in prog" {
			asked = total
		}
	}
	second, err := Run(t.Context(), options)
	require.NoError(t, err)
	_, sum = second.Scores()
	require.Zero(t, sum.Undone)
	require.Less(t, asked, len(second.Results))
	var text strings.Builder
	require.NoError(t, second.Text(&text))
	require.Contains(t, text.String(), "container.bpf.c")
	require.NoError(t, second.HTML(&text))
	require.Contains(t, text.String(), `<h2 id="container.bpf.c">`)
}
