// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/shard"
)

// names are the results of a report, one a line without what differs between runs.
func names(t *testing.T, report string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(report, "latest", "results.json"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, `,"seconds"`)
		out = append(out, name)
	}
	return out
}

func TestTheShardsOfARunAreTheRun(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	run := []string{"run", "--world", "prog", "--run", "^gateway", "--report"}
	_, stderr, code := weirScenario(append(run, filepath.Join(dir, "last"))...)
	require.Equal(t, exitOK, code, stderr)
	for _, s := range []string{"1/3", "2/3", "3/3"} {
		out, stderr, code := weirScenario(append(run, filepath.Join(dir, "shards", s[:1]), "--shard", s, "--costs", filepath.Join(dir, "last"))...)
		require.Equal(t, exitOK, code, stderr)
		require.Contains(t, out, " passed, 0 failed, 0 skipped")
	}
	out, stderr, code := weirScenario("merge", "--report", filepath.Join(dir, "whole"), filepath.Join(dir, "shards"))
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, " passed, 0 failed, 0 skipped")
	require.ElementsMatch(t, names(t, filepath.Join(dir, "last")), names(t, filepath.Join(dir, "whole")))

	// One of another number is no part of the whole.
	_, _, code = weirScenario(append(run, filepath.Join(dir, "shards", "2"), "--shard", "2/4")...)
	require.Equal(t, exitOK, code)
	_, stderr, code = weirScenario("merge", filepath.Join(dir, "shards"))
	require.Equal(t, exitUsage, code, stderr)
}

func TestEveryScenarioOfTheLibraryIsInOneShard(t *testing.T) {
	all, err := scenarios.Library()
	require.NoError(t, err)
	runs := (&scenarios.Runner{}).Planned(all)
	total := 0
	for i := 1; i <= 5; i++ {
		p := partFlags{shard: shard.Shard{Part: i, Of: 5}}
		mine, err := p.take(all, runs)
		require.NoError(t, err)
		total += len(mine.scenarios)
	}
	require.Equal(t, len(all), total)
}
