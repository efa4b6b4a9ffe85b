// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"os"
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
			warm, err := NewWarm(t.Context(), world)
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
