// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

// ended makes a result of world prog whose only frame is its last word.
func ended(scenario, kernel string, outcome scenarios.Outcome, frame string) scenarios.Result {
	r := scenarios.Result{Scenario: scenario, Family: syntax.IPv4, World: syntax.Prog, Kernel: kernel, Outcome: outcome}
	if frame != "" {
		r.Outputs = []scenarios.Output{{Hook: "from-container", Endpoint: "default/client", Action: "forward", Frame: []byte(frame)}}
	}
	return r
}

const (
	old   = "5.10.0-46-cloud-amd64"
	young = "7.2.13+deb14-cloud-amd64"
)

func TestKernelNamesAreShortAndDistinct(t *testing.T) {
	require.Equal(t, map[string]string{old: "5.10", young: "7.2"}, KernelNames(old, young))
	require.Equal(t, map[string]string{"6.1.1": "6.1.1", "6.1.2": "6.1.2", "odd": "odd"}, KernelNames("6.1.1", "6.1.2", "odd"))
	require.Equal(t, []string{"5.10.0", "6.1.0", "6.12.1"}, releases([]scenarios.Result{{Kernel: "6.12.1"}, {Kernel: "5.10.0"}, {Kernel: "6.1.0"}}))
}

func TestWhatDiffersBetweenKernelsComesFirst(t *testing.T) {
	var out bytes.Buffer
	(&Text{Out: &out}).Kernels([]scenarios.Result{
		ended("same/ipv4", young, scenarios.Pass, "x"), ended("same/ipv4", old, scenarios.Pass, "x"),
		ended("worse/ipv4", young, scenarios.Pass, ""), ended("worse/ipv4", old, scenarios.Fail, ""),
		ended("never/ipv4", young, scenarios.Broken, ""), ended("never/ipv4", old, scenarios.Broken, ""),
		ended("frames/ipv4", young, scenarios.Pass, "x"), ended("frames/ipv4", old, scenarios.Pass, "y"),
		ended("worse/ipv6", young, scenarios.Pass, "x"), ended("worse/ipv6", old, scenarios.Fail, "y"),
		ended("alone/ipv4", young, scenarios.Pass, ""),
	}, true)
	want := []string{
		"What differs between kernels:", "SCENARIO WORLD 5.10 7.2", "alone/ipv4 prog - pass", "worse/ipv4 prog FAIL pass", "worse/ipv6 prog FAIL pass",
		"What leaves other frames than on 7.2:", "frames/ipv4 prog on 5.10",
		"What passes on no kernel:", "SCENARIO WORLD 5.10 7.2", "never/ipv4 prog BROKEN BROKEN",
		"What passes on every kernel:", "SCENARIO WORLD 5.10 7.2", "frames/ipv4 prog pass pass", "same/ipv4 prog pass pass",
	}
	require.Equal(t, want, words(out.String()))
}

// words gives the lines that are not empty, with single blanks.
func words(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 {
			out = append(out, strings.Join(f, " "))
		}
	}
	return out
}

func TestKernelsThatAgreeAreTold(t *testing.T) {
	var out bytes.Buffer
	(&Text{Out: &out}).Kernels([]scenarios.Result{ended("a/ipv4", old, scenarios.Pass, ""), ended("a/ipv4", young, scenarios.Pass, "")}, false)
	require.Equal(t, []string{"No scenario ends differently on kernels 5.10, 7.2.", "1 scenarios pass on every kernel."}, words(out.String()))
	out.Reset()
	(&Text{Out: &out}).Kernels(nil, true)
	require.Empty(t, out.String())
}

// A run that was left out passes where its like did.
func TestWhatIsTheSameAsOnAnotherKernelDiffersFromNothing(t *testing.T) {
	results := []scenarios.Result{
		ended("a/ipv4", young, scenarios.Same, ""), ended("a/ipv4", old, scenarios.Pass, ""),
		ended("b/ipv4", young, scenarios.Pass, ""), ended("b/ipv4", old, scenarios.Same, ""),
	}
	var out bytes.Buffer
	(&Text{Out: &out}).Kernels(results, true)
	require.Equal(t, []string{
		"No scenario ends differently on kernels 5.10, 7.2.",
		"What passes on every kernel:", "SCENARIO WORLD 5.10 7.2", "a/ipv4 prog pass same", "b/ipv4 prog same pass",
	}, words(out.String()))
	require.Equal(t, Tally{Passed: 2, Same: 2}, Count(results))
	require.Equal(t, "2 passed, 2 the same as on another kernel, 0 failed, 0 skipped", Count(results).String())
}

func TestCostsStandSideBySide(t *testing.T) {
	var out bytes.Buffer
	(&Text{Out: &out}).Costs([]matrix.Cost{
		{Kernel: young, ProgramCost: datapath.ProgramCost{Program: "to_container", Verified: 20, Seconds: 0.25}},
		{Kernel: old, ProgramCost: datapath.ProgramCost{Program: "from_container", Verified: 10, Seconds: 0.5}},
		{Kernel: old, ProgramCost: datapath.ProgramCost{Program: "to_container", Verified: 30, Seconds: 1}},
	})
	lines := words(out.String())
	require.Equal(t, []string{"PROGRAM 5.10 7.2", "from_container 10 in 500 ms -", "to_container 30 in 1000 ms 20 in 250 ms"}, lines[1:])
}

func TestAnnotate(t *testing.T) {
	failed := ended("a/ipv4", old, scenarios.Fail, "")
	failed.Failure = &scenarios.Failure{Pos: syntax.Pos{File: "library/a.txtar", Line: 7}, Step: "ping client -> web", Problem: "100% lost"}
	own := failed
	own.Failure = &scenarios.Failure{Pos: syntax.Pos{File: "dir,x/a.txtar", Line: 1}, Step: "s", Problem: "p"}
	for name, tt := range map[string]struct {
		result scenarios.Result
		want   string
	}{
		"a failure of the library": {failed, "::error file=scenarios/library/a.txtar,line=7,title=fail%3A a/ipv4 in world prog on kernel 5.10::library/a.txtar:7: ping client -> web%0A100%25 lost\n"},
		"a failure of a file":      {own, "::error file=dir%2Cx/a.txtar,line=1,title=fail%3A a/ipv4 in world prog on kernel 5.10::dir,x/a.txtar:1: s%0Ap\n"},
		"a failure without story":  {scenarios.Result{Scenario: "b/ipv6", World: "netns", Kernel: young, Outcome: scenarios.Broken, Reason: "why"}, "::error title=broken%3A b/ipv6 in world netns on kernel 7.2::why\n"},
		"what passes":              {ended("c/ipv4", old, scenarios.Pass, ""), ""},
		"what is skipped":          {ended("c/ipv4", old, scenarios.Skipped, ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, Annotate(&out, tt.result))
			require.Equal(t, tt.want, out.String())
		})
	}
}

// keep writes a report and reads it back.
func keep(t *testing.T, results []scenarios.Result, costs []matrix.Cost) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "report")
	f, err := NewFolder(dir)
	require.NoError(t, err)
	for _, r := range results {
		require.NoError(t, f.Add(r))
	}
	_, err = f.Kernels(results, costs)
	require.NoError(t, err)
	require.NoError(t, f.Close(results, &shard.Run{Ended: true, Results: len(results)}))
	return dir
}

func TestCompareReports(t *testing.T) {
	cost := func(kernel string, verified int) matrix.Cost {
		return matrix.Cost{Kernel: kernel, ProgramCost: datapath.ProgramCost{Program: "to_container", Verified: verified, Seconds: 1}}
	}
	before := keep(t, []scenarios.Result{
		ended("a/ipv4", old, scenarios.Pass, "x"), ended("a/ipv4", young, scenarios.Pass, "x"),
		ended("b/ipv4", old, scenarios.Fail, ""), ended("c/ipv4", old, scenarios.Pass, ""),
	}, []matrix.Cost{cost(old, 100), cost(young, 90)})
	after := keep(t, []scenarios.Result{
		ended("a/ipv4", old, scenarios.Pass, "y"), ended("a/ipv4", young, scenarios.Fail, "x"),
		ended("b/ipv4", old, scenarios.Pass, ""),
	}, []matrix.Cost{cost(old, 110), cost(young, 90)})
	a, err := Read(before)
	require.NoError(t, err)
	b, err := Read(after)
	require.NoError(t, err)

	c := Compare(a, b)
	require.True(t, c.Worse())
	require.Equal(t, []VerdictChange{
		{What: "verdict", Scenario: "a/ipv4", World: syntax.Prog, Kernel: "7.2", A: scenarios.Pass, B: scenarios.Fail},
		{What: "verdict", Scenario: "b/ipv4", World: syntax.Prog, Kernel: "5.10", A: scenarios.Fail, B: scenarios.Pass},
	}, c.Verdicts, "what is worse comes first")
	require.Equal(t, []VerdictChange{{What: "only", Scenario: "c/ipv4", World: syntax.Prog, Kernel: "5.10", A: scenarios.Pass}}, c.Only)
	require.Len(t, c.Frames, 1)
	require.Equal(t, []byte("y"), c.Frames[0].B.Frame)
	require.Equal(t, 1, c.Frames[0].Step)
	require.Equal(t, CostChange{"cost", "to_container", "5.10", 100, 110, 1, 1}, c.Costs[0])

	var out bytes.Buffer
	(&Text{Out: &out}).Changes(c, "A", "B")
	require.Contains(t, out.String(), "+10.0%")
	require.True(t, strings.HasSuffix(out.String(), "1 runs are only in A.\n2 verdicts changed, 1 runs leave other frames, 1 programs cost the verifier more or less\n"))
	out.Reset()
	require.NoError(t, c.JSON(&out))
	d := json.NewDecoder(&out)
	var kinds []string
	for d.More() {
		var line struct{ What string }
		require.NoError(t, d.Decode(&line))
		kinds = append(kinds, line.What)
	}
	require.Equal(t, []string{"verdict", "verdict", "frame", "cost", "cost", "only"}, kinds)
}

func TestCompareKernelsOfOneReport(t *testing.T) {
	dir := keep(t, []scenarios.Result{ended("a/ipv4", old, scenarios.Pass, "x"), ended("a/ipv4", young, scenarios.Pass, "y")}, nil)
	a, err := Read(dir + "@5.10")
	require.NoError(t, err)
	b, err := Read(dir + "@" + young)
	require.NoError(t, err)
	c := Compare(a, b)
	require.Empty(t, c.Verdicts)
	require.False(t, c.Worse())
	require.Len(t, c.Frames, 1)
	require.Empty(t, c.Frames[0].Kernel)

	_, err = Read(dir + "@4.19")
	require.ErrorIs(t, err, ErrNoKernel)
	_, err = Read(t.TempDir())
	require.ErrorIs(t, err, ErrNoReport)
	require.NoError(t, os.WriteFile(filepath.Join(dir, latest, resultsFile), []byte("}"), 0o644))
	_, err = Read(dir)
	require.ErrorContains(t, err, resultsFile)
}

func TestEachRunHasAFolderOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	failed := ended("a/ipv4", old, scenarios.Fail, "")
	failed.Failure = &scenarios.Failure{Step: "s", Problem: "p"}
	first, err := NewFolder(dir)
	require.NoError(t, err)
	require.NoError(t, first.Describe(&shard.Run{Results: 2, Kernels: []string{old}}))
	require.Equal(t, first.Path(), reportIn(dir))
	summary := func(f *Folder) string {
		text, err := os.ReadFile(filepath.Join(f.Path(), summaryFile))
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, summary(first), "It has NOT ended: 2 runs go on, or were killed.")
	require.NoError(t, first.Add(failed))
	require.FileExists(t, first.Capture(failed))
	stopped := &shard.Run{Results: 2, Kernels: []string{old}, Problems: []string{"stopped by a signal (interrupt)"}}
	require.NoError(t, first.Close([]scenarios.Result{failed}, stopped))
	require.Regexp(t, `(?m)^INTERRUPTED at .*: 1 of 2 runs were done\n.*\nproblem  stopped by a signal \(interrupt\)\n0 passed, 1 failed, 0 skipped$`, summary(first))
	junit, err := os.ReadFile(filepath.Join(first.Path(), "junit.xml"))
	require.NoError(t, err)
	require.Contains(t, string(junit), `message="stopped by a signal (interrupt)"`)
	kept, err := Read(dir)
	require.NoError(t, err)
	require.Equal(t, "it was cut short, with 1 of 2 results", kept.Short)

	// The next one leaves that as it is, and is the latest.
	second, err := NewFolder(dir)
	require.NoError(t, err)
	require.NotEqual(t, first.Path(), second.Path())
	require.Equal(t, second.Path(), reportIn(dir))
	require.NoError(t, second.Add(ended("a/ipv4", old, scenarios.Pass, "")))
	require.NoError(t, second.Close(nil, &shard.Run{Ended: true, Results: 1}))
	require.FileExists(t, first.Capture(failed))
	require.Regexp(t, `(?m)^ended    .* UTC\n1 passed, 0 failed, 0 skipped$`, summary(second))
	kept, err = Read(dir)
	require.NoError(t, err)
	require.Empty(t, kept.Short)
	kept, err = Read(first.Path())
	require.NoError(t, err)
	_, n := kept.Failed()
	require.Equal(t, 1, n)
}

func TestAStoryIsFoundInWhatAFolderKeeps(t *testing.T) {
	r := ended("a/ipv4", old, scenarios.Fail, "")
	r.Failure = &scenarios.Failure{Step: "s", Problem: "p", Before: []lab.Walk{{From: "client", Sent: []byte{1}}},
		Tables: []datapath.Table{{Name: "services"}}, Flows: []datapath.Flow{{}}}
	require.Equal(t, strings.TrimRight((&Text{}).Story(r), "\n"), briefOf((&Folder{}).whole(r)))
	require.Equal(t, "told alone", briefOf("told alone"))
}
