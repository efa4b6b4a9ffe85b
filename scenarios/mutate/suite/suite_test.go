// SPDX-License-Identifier: Apache-2.0

package suite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/mutate/source"
	"github.com/weirnet/weir/scenarios/mutate/suite"
)

const code = `package m

func Larger(a, b int) int {
	if a > b {
		return a
	}
	return b
}

func Unasked(a int) bool { return a == 1 }

func First(all []int) int { return all[0] }

func Dropped(a int) int { return a * 0 }
`

const tests = `package m

import "testing"

func TestLarger(t *testing.T) {
	if Larger(2, 1) != 2 || Larger(1, 2) != 2 {
		t.Fatal("not the larger")
	}
}

func TestFirst(t *testing.T) {
	if First([]int{7}) != 7 || Dropped(1) != 0 {
		t.Fatal("not the first")
	}
}
`

// module is one whose code is judged by its tests alone.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	switched, err := os.ReadFile(filepath.Join("..", "planted", "planted.go"))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"go.mod": "module example.test/m\n\ngo 1.26\n", "m.go": code, "m_test.go": tests, "scenarios/mutate/planted/planted.go": string(switched),
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

func options(dir string) suite.Options {
	return suite.Options{Dir: dir, Patterns: []string{"."}, Without: []string{mutate.ByProg, mutate.ByFuzz}}
}

func results(r *mutate.Report) map[string]mutate.Result {
	out := map[string]mutate.Result{}
	for _, one := range r.Results {
		out[one.ID] = one
	}
	return out
}

func TestErrorsAreJudgedByTests(t *testing.T) {
	o := options(module(t))
	list, err := mutate.ReadExcuses("list", strings.NewReader(strings.Join([]string{
		"# Of two that are equal either is the larger.",
		"m.go: if a > b { | bound off by one",
		"",
		"# Not so: it is noticed.",
		"m.go: if a > b { | condition made never",
		"",
		"# The line is not there any more.",
		"m.go: if a > c { | condition made never",
	}, "\n")), "condition made never")
	require.NoError(t, err)
	o.Equivalents = list
	report, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	by := results(report)

	never := by["m.Larger+1:never"]
	require.Equal(t, mutate.Killed, never.Outcome)
	require.Equal(t, mutate.ByTest, never.By)
	require.Equal(t, "TestLarger", never.Killer)
	require.Equal(t, 1, never.Reached[mutate.ByTest])
	require.Equal(t, "example.test/m", never.Object)

	panics := by["m.First+1:constant"]
	require.Equal(t, mutate.Killed, panics.Outcome)
	require.Equal(t, "TestFirst", panics.Killer)
	require.Contains(t, panics.Why, "index out of range")

	require.Equal(t, mutate.Equivalent, by["m.Larger+1:bound"].Outcome)
	require.Equal(t, "Of two that are equal either is the larger.", by["m.Larger+1:bound"].Why)
	require.Equal(t, mutate.NotExecuted, by["m.Unasked+1:round"].Outcome)
	require.Equal(t, mutate.Refused, by["m.Dropped+1:operator"].Outcome)

	require.Len(t, report.Wrong, 1)
	require.Equal(t, never.ID, report.Wrong[0].ID)
	require.Len(t, report.Stale, 1)
	require.Equal(t, "list:8", report.Stale[0].Place)

	var table bytes.Buffer
	require.NoError(t, report.Text(&table))
	require.Contains(t, table.String(), "FILE  MUTANTS  REFUSED  NOT EXECUTED  EQUIVALENT  TEST  SURVIVED")
}

func TestErrorsThatAreKnownToSurvive(t *testing.T) {
	o := options(module(t))
	list, err := mutate.ReadExcuses("list", strings.NewReader(strings.Join([]string{
		"# Of two that are equal either is the larger.",
		"m.go: if a > b { | bound off by one",
		"",
		"# Not so any more: it is noticed.",
		"m.go: if a > b { | condition made never",
	}, "\n")))
	require.NoError(t, err)
	o.Survivors = list
	report, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	bound := results(report)["m.Larger+1:bound"]
	require.Equal(t, mutate.Known, bound.Outcome)
	require.Equal(t, "Of two that are equal either is the larger.", bound.Why)
	require.Empty(t, report.Wrong)
	require.Len(t, report.Closed, 1)
	require.Equal(t, "list:5", report.Closed[0].Place)
}

func TestASampleIsTheSameForASeed(t *testing.T) {
	o := options(module(t))
	o.Sample, o.Seed = 3, 7
	o.Changed = func(file string, line int) bool { return file == "m.go" && line == 12 }
	first, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	second, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, first, second)
	changed := 0
	for _, r := range first.Results {
		if r.Line == 12 {
			require.True(t, r.Changed)
			changed++
		}
	}
	require.Equal(t, 2, changed, "all of the changed line are taken")
	require.Len(t, first.Results, 3+changed)
	require.Greater(t, first.Available, len(first.Results))
}

func TestWhatWasFoundIsNotAskedAgainUntilTheCodeChanges(t *testing.T) {
	dir := module(t)
	o := options(dir)
	o.State = filepath.Join(t.TempDir(), "state")
	o.Only = func(m *source.Mutant) bool { return m.ID == "m.Larger+1:never" }
	first, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, mutate.Killed, first.Results[0].Outcome)

	known, err := os.ReadFile(o.State)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(o.State, bytes.ReplaceAll(known, []byte("TestLarger"), []byte("as before")), 0o644))
	second, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, "as before", second.Results[0].Killer)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "m_test.go"), []byte(tests+"\n// changed\n"), 0o644))
	third, err := suite.Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, "TestLarger", third.Results[0].Killer)
}

func TestTestsThatFailByThemselvesTellNothing(t *testing.T) {
	dir := module(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "m_test.go"), []byte(strings.ReplaceAll(tests, "!= 7", "== 7")), 0o644))
	_, err := suite.Run(t.Context(), options(dir))
	require.ErrorIs(t, err, suite.ErrUnsound)
	require.ErrorContains(t, err, "TestFirst")
}

func TestWithoutGo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := suite.Run(t.Context(), options(t.TempDir()))
	require.ErrorIs(t, err, suite.ErrNoGo)
}

func TestCodeWithNothingInIt(t *testing.T) {
	dir := module(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "m.go"), []byte("package m\n"), 0o644))
	_, err := suite.Run(t.Context(), options(dir))
	require.ErrorIs(t, err, source.ErrNothing)
}

// A compiler that takes no NetworkPolicy makes the model and the programs
// disagree.
func TestErrorsInTheModelAreJudgedByScenariosAndByTheFuzzer(t *testing.T) {
	for by, without := range map[string][]string{
		mutate.ByProg: {mutate.ByTest, mutate.ByFuzz},
		mutate.ByFuzz: {mutate.ByTest, mutate.ByProg},
	} {
		t.Run(by, func(t *testing.T) {
			report, err := suite.Run(t.Context(), suite.Options{
				Dir: filepath.Join("..", "..", ".."), Patterns: []string{"./model/compile"}, Without: without, Fuzz: time.Second,
				Only: func(m *source.Mutant) bool {
					return m.Kind == source.Statement && m.Before == "policies = append(policies, c.networkPolicy(object))"
				},
			})
			require.NoError(t, err)
			require.Len(t, report.Results, 1)
			r := report.Results[0]
			require.Equal(t, mutate.Killed, r.Outcome)
			require.Equal(t, by, r.By)
			require.NotEmpty(t, r.Killer)
			require.NotEmpty(t, r.Why)
			require.Positive(t, r.Reached[by])
		})
	}
}
