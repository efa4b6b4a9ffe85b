// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/scenarios/syntax"
)

func TestARunKnowsWhatItsTimeWentInto(t *testing.T) {
	s, err := Parse("x.txtar", []byte("# A test.\nworlds prog netns\nfamilies ipv4\ntopology two-pods\n"+
		"listen web tcp/80\nconnect client -> tcp/web:80\nsend client ip(dst=web) udp(dport=53)\nexpect internet nothing\n"))
	require.NoError(t, err)
	results, err := (&Runner{Parallel: 1}).Run(context.Background(), []*Scenario{s})
	require.NoError(t, err)
	spent := map[syntax.World]map[phase.Phase]float64{}
	for _, r := range results {
		require.Equal(t, Pass, r.Outcome, r.Reason)
		spent[r.World] = r.Phases
		sum := 0.0
		for _, seconds := range r.Phases {
			sum += seconds
		}
		require.InDelta(t, r.Seconds, sum, r.Seconds/2, "%s: phases add up to the time", r.World)
	}
	for _, p := range []phase.Phase{phase.Tables, phase.Steps} {
		require.Positive(t, spent[syntax.Prog][p], p)
	}
	for _, p := range []phase.Phase{phase.Namespaces, phase.Devices, phase.Addresses, phase.Captures, phase.Load, phase.Tables, phase.Attach, phase.Steps, phase.Teardown} {
		require.Positive(t, spent[syntax.Netns][p], p)
	}
	require.GreaterOrEqual(t, spent[syntax.Netns][phase.Waits], quiet.Seconds(), "nothing came, and was waited for")
}
