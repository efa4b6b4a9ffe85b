// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
)

func part(name, shard string, change func(*Run)) Part {
	r := &Run{Shard: shard, Kernels: []string{"5.10.1", "7.2.3"}, Scenarios: "s", Plan: "p", Results: 4, Ended: true}
	if change != nil {
		change(r)
	}
	return Part{name, r}
}

func TestPartsAreThoseOfOneWhole(t *testing.T) {
	require.NoError(t, Match([]Part{part("a", "1/1", nil)}))
	require.NoError(t, Match([]Part{part("a", "2/2", nil), part("b", "1/2", nil)}))
	tests := map[string]struct {
		parts []Part
		want  string
	}{
		"none":                   {nil, "there are none"},
		"what is no shard":       {[]Part{part("a", "2", nil)}, `a says that it is shard "2"`},
		"another n":              {[]Part{part("a", "1/2", nil), part("b", "2/3", nil)}, "a is shard 1/2 and b is shard 2/3"},
		"one that is missing":    {[]Part{part("a", "1/3", nil), part("b", "3/3", nil)}, "shard 2/3 is missing"},
		"two that are missing":   {[]Part{part("a", "1/3", nil)}, "shards 2/3, 3/3 are missing"},
		"one twice":              {[]Part{part("a", "1/2", nil), part("b", "1/2", nil)}, "shard 1/2 is there twice: a and b"},
		"other kernels":          {[]Part{part("a", "1/2", nil), part("b", "2/2", func(r *Run) { r.Kernels = []string{"6.1"} })}, "a ran on 5.10.1, 7.2.3 and b on 6.1"},
		"other scenarios":        {[]Part{part("a", "1/2", nil), part("b", "2/2", func(r *Run) { r.Scenarios = "o" })}, "other sets of scenarios"},
		"what is parted by else": {[]Part{part("a", "1/2", nil), part("b", "2/2", func(r *Run) { r.Plan = "o" })}, "parted by other costs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := Match(test.parts)
			require.ErrorIs(t, err, ErrMismatch)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestAPartTellsWhatItLacks(t *testing.T) {
	require.Empty(t, part("a", "1/1", nil).Run.Short(4))
	require.Equal(t, "it has 3 of 4 results", part("a", "1/1", nil).Run.Short(3))
	require.Equal(t, "it was cut short, with 3 of 4 results", part("a", "1/1", func(r *Run) { r.Ended = false }).Run.Short(3))
}

func TestARunIsOfWhatItsFilesSay(t *testing.T) {
	source := "# A test.\nworlds prog\ntopology two-pods\nping client -> web\n"
	describe := func(source string, s Shard) *Run {
		var all []*scenarios.Scenario
		for _, name := range []string{"a.txtar", "b.txtar", "c.txtar"} {
			one, err := scenarios.Parse(name, []byte(source))
			require.NoError(t, err)
			all = append(all, one)
		}
		runs := (&scenarios.Runner{}).Planned(all)
		plan, err := NewPlan(s.Of, runs, nil)
		require.NoError(t, err)
		require.Len(t, plan.Take(1, all), 2)
		return NewRun(s, plan, all, runs, []string{"5.10", "7.2"})
	}
	first, second := describe(source, Shard{1, 2}), describe(source, Shard{2, 2})
	require.Equal(t, 8, first.Results, "two scenarios, two families, two kernels")
	require.Equal(t, 4, second.Results)
	first.Ended, second.Ended = true, true
	require.NoError(t, Match([]Part{{"a", first}, {"b", second}}))
	other := describe(source+"ping web -> client\n", Shard{2, 2})
	require.ErrorIs(t, Match([]Part{{"a", first}, {"b", other}}), ErrMismatch)
}
