// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"math"
	"os"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios/syntax"
)

// TestWhatIsLoadedBeforeServesTheFirstWorlds has worlds of both kinds of datapaths, of one
// node and of two.
func TestWhatIsLoadedBeforeServesTheFirstWorlds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it loads BPF programs")
	}
	for world, names := range map[syntax.World][]string{
		syntax.Netns: {"socket-nodeport/ipv4", "pod-to-pod/ipv4", "dsr-inside/ipv6"},
		syntax.Prog:  {"pod-to-pod/ipv4", "dsr-inside/ipv6"},
	} {
		t.Run(string(world), func(t *testing.T) {
			all, err := LibraryNamed(names)
			require.NoError(t, err)
			require.Len(t, all, len(names))
			warm, err := NewWarm(t.Context(), world, false)
			require.NoError(t, err)
			results, err := (&Runner{Worlds: []syntax.World{world}, Parallel: 1, Warm: warm}).Run(t.Context(), all)
			require.NoError(t, err)
			require.NotEmpty(t, results)
			for _, r := range results {
				require.Equalf(t, Pass, r.Outcome, "%s: %s", r.Scenario, r.Reason)
			}
		})
	}
}

// Programs that were loaded with counters, and serve one run after the other, tell of
// each what programs do that are loaded for it alone.
func TestWhatIsLoadedBeforeCountsForEachRunAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it loads BPF programs")
	}
	// A route is asked for again after a second, which a busy machine can take between two
	// packets: dsr-idle lets hours go by, and so reaches that always.
	all, err := LibraryNamed([]string{"pod-to-pod/ipv4", "dsr-idle/ipv6"})
	require.NoError(t, err)
	reached := func(warm *Warm) map[string]map[string]map[int]bool {
		found := map[string]map[string]map[int]bool{}
		results, err := (&Runner{Worlds: []syntax.World{syntax.Prog}, Parallel: 1, Cover: true, Warm: warm}).Run(t.Context(), all)
		require.NoError(t, err)
		for _, r := range results {
			require.Equalf(t, Pass, r.Outcome, "%s: %s", r.Scenario, r.Reason)
			found[r.Scenario] = map[string]map[int]bool{}
			for _, record := range r.Reach {
				of := map[int]bool{}
				require.NoError(t, record.Counts.Each(math.MaxInt, func(counter int, _ uint64) { of[counter] = true }))
				if len(of) > 0 {
					found[r.Scenario][record.Object] = of
				}
			}
		}
		return found
	}
	warm, err := NewWarm(t.Context(), syntax.Prog, true)
	require.NoError(t, err)
	together := reached(warm)
	alone := reached(nil)
	require.Len(t, together, len(all)*2, "both families")
	for name, objects := range together {
		require.NotEmpty(t, objects, name)
		require.True(t, reflect.DeepEqual(alone[name], objects), "%s reached other blocks", name)
	}
}
