// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who makes a path dearer says so: the budget is in the same commit.
func TestNoPathCostsMoreThanItsBudget(t *testing.T) {
	budget, err := ReadBudget(strings.NewReader(budgetText))
	require.NoError(t, err)
	counted, err := CountAll(t.Context())
	require.NoError(t, err)
	for _, c := range counted.Counts {
		require.Positive(t, c.Lookups, c.Path)
		require.Greater(t, c.Helpers, c.Lookups, c.Path)
		require.Greater(t, c.Instructions, c.Helpers, c.Path)
	}
	if len(counted.Verified) == 0 {
		t.Log("this kernel does not tell how much it has verified (before 5.16)")
	}
	for _, over := range counted.Over(budget) {
		t.Error(over)
	}
	if t.Failed() {
		t.Log("make it cheaper, or accept it on purpose: weir bench counts >lab/bench/budget.txt")
	}
}

func TestABudgetIsReadAsItWasWritten(t *testing.T) {
	b := Budget{
		Counts:   []Count{{"pod-to-pod", IPv4, 400, 6, 4}, {"refused", IPv6, 900, 23, 20}},
		Verified: []Verified{{"from-container", "6.18", 60_000}},
	}
	var out bytes.Buffer
	require.NoError(t, b.Write(&out))
	again, err := ReadBudget(&out)
	require.NoError(t, err)
	require.Equal(t, &b, again)
	_, err = ReadBudget(strings.NewReader("pod-to-pod ipv4 instructions=400 helpers=6 lookups=4\npod-to-pod\n"))
	require.ErrorContains(t, err, `read a budget: line 2 is neither of a path nor of a hook: "pod-to-pod"`)
}

func TestWhatCostsMoreIsToldWithItsPathAndByHowMuch(t *testing.T) {
	budget := &Budget{Counts: []Count{{"a", IPv4, 400, 6, 4}, {"b", IPv4, 400, 6, 4}}, Verified: []Verified{{"from-container", "6.18", 60_000}}}
	now := &Budget{
		Counts:   []Count{{"a", IPv4, 420, 7, 5}, {"c", IPv6, 1, 1, 1}},
		Verified: []Verified{{"from-container", "6.18", 66_000}, {"from-container", "6.1", 90_000}},
	}
	require.Equal(t, []string{
		"path a/ipv4 takes 420 instructions, 20 more than its budget of 400 (+5.0 %)",
		"path a/ipv4 takes 7 calls of helpers, 1 more than its budget of 6 (+16.7 %)",
		"path a/ipv4 takes 5 lookups, 1 more than its budget of 4 (+25.0 %)",
		"path b/ipv4 is in the budget, and is not there",
		"path c/ipv6 has no budget",
		"program from-container on 6.18 takes 66000 verified instructions, 6000 more than its budget of 60000 (+10.0 %)",
	}, now.Over(budget))
	budget.Counts = budget.Counts[:1]
	require.Empty(t, (&Budget{Counts: []Count{{"a", IPv4, 404, 6, 4}}}).Over(budget), "one hundredth")
}
