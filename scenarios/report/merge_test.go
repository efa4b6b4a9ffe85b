// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

// partOf is what shard I of 2 would leave.
func partOf(name, shardName string, results ...scenarios.Result) *Part {
	return &Part{
		Name: name, contents: contents{results: results}, stories: map[resultKey]string{},
		Run: &shard.Run{Shard: shardName, Kernels: []string{"5.10.1", "7.2.3"}, Results: len(results), Ended: true},
	}
}

func passed(scenario, kernel string) scenarios.Result {
	return scenarios.Result{Scenario: scenario, Family: syntax.IPv4, World: syntax.Prog, Kernel: kernel, Outcome: scenarios.Pass, Seconds: 0.25}
}

func TestAMergedReportHasTheResultsOfAllParts(t *testing.T) {
	m, err := Merge([]*Part{
		partOf("two", "2/2", passed("b/ipv4", "7.2.3"), passed("b/ipv4", "5.10.1")),
		partOf("one", "1/2", passed("a/ipv4", "5.10.1"), passed("a/ipv4", "7.2.3")),
	})
	require.NoError(t, err)
	require.False(t, m.Failed())
	require.Equal(t, 4, m.Run.Results)
	require.Equal(t, []scenarios.Result{
		passed("a/ipv4", "5.10.1"), passed("b/ipv4", "5.10.1"), passed("a/ipv4", "7.2.3"), passed("b/ipv4", "7.2.3"),
	}, m.Results)
}

func TestAResultIsOfOnePart(t *testing.T) {
	_, err := Merge([]*Part{partOf("one", "1/2", passed("a/ipv4", "7.2.3")), partOf("two", "2/2", passed("a/ipv4", "7.2.3"))})
	require.ErrorIs(t, err, shard.ErrMismatch)
	require.ErrorContains(t, err, "a/ipv4 in world prog on 7.2.3 is there twice: in one and two")
	_, err = Merge([]*Part{partOf("one", "1/2", passed("a/ipv4", "6.1.0")), partOf("two", "2/2")})
	require.ErrorIs(t, err, shard.ErrMismatch)
	require.ErrorContains(t, err, "a result of kernel 6.1.0")
}

func TestAPartWithoutAllResultsFailsTheWhole(t *testing.T) {
	short := partOf("one", "1/2", passed("a/ipv4", "7.2.3"))
	short.Run.Results = 2
	m, err := Merge([]*Part{short, partOf("two", "2/2", passed("b/ipv4", "7.2.3"))})
	require.NoError(t, err)
	require.True(t, m.Failed())
	require.Equal(t, []string{"one (shard 1/2): it has 1 of 2 results"}, m.Run.Problems)
}

func TestWhatAPartPrintedIsReadBack(t *testing.T) {
	failed := passed("b/ipv6", "7.2.3")
	failed.Family, failed.Outcome, failed.Reason = syntax.IPv6, scenarios.Broken, "panic: <no>"
	failed.Cause = "panic: <no>"
	results := []scenarios.Result{passed("a/ipv4", "5.10.1"), failed}
	run := &shard.Run{Shard: "1/2", Kernels: []string{"5.10.1", "7.2.3"}, Scenarios: "s", Plan: "p", Results: 2, Ended: true, Problems: []string{`it said "no"`}}

	var lines, doc bytes.Buffer
	for _, r := range results {
		require.NoError(t, JSON(&lines, r))
	}
	require.NoError(t, JSONRun(&lines, run))
	require.NoError(t, writeJUnit(&doc, results, run, func(r scenarios.Result) string { return "the story of " + r.Scenario }))
	dir := t.TempDir()
	for name, text := range map[string][]byte{"1.json": lines.Bytes(), "1.xml": doc.Bytes()} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		parts, err := ReadParts(path)
		require.NoError(t, err, name)
		require.Equal(t, run, parts[0].Run, name)
		require.Equal(t, results, parts[0].results, name)
		if name == "1.xml" {
			require.Equal(t, map[resultKey]string{keyOf(failed): "the story of b/ipv6"}, parts[0].stories)
		}
	}
}

func TestFailuresOfAllPartsAreToldByCause(t *testing.T) {
	failure := func(scenario, kernel string) scenarios.Result {
		r := passed(scenario, kernel)
		r.Outcome, r.Reason, r.Cause = scenarios.Fail, scenario+": no", "from-container at bpf/lib/nat.h:36, forward: source"
		return r
	}
	one := partOf("one", "1/2", failure("a/ipv4", "5.10.1"), failure("a/ipv4", "7.2.3"))
	two := partOf("two", "2/2", failure("b/ipv4", "7.2.3"), passed("b/ipv4", "5.10.1"))
	one.stories[keyOf(one.results[0])] = "a longer story"
	two.stories[keyOf(two.results[0])] = "the story"
	m, err := Merge([]*Part{one, two})
	require.NoError(t, err)
	var out bytes.Buffer
	(&Text{Out: &out}).Merged(m, nil)
	require.Contains(t, out.String(), `
What failed, 3 by one cause:
1. 3 × from-container at bpf/lib/nat.h:36, forward: source
    prog on 5.10, 7.2; a/ipv4, b/ipv4
    the story
`)
	require.NotContains(t, out.String(), "longer")
}
