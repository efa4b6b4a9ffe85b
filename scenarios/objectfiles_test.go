// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios/syntax"
)

func pingIn(t *testing.T, worlds, families string) *Scenario {
	s, err := Parse("test.txtar", []byte("# A test.\nworlds "+worlds+"\nfamilies "+families+"\ntopology two-pods\nping client -> web\n"))
	require.NoError(t, err)
	return s
}

func TestTheProgramsOfARunnerAreThoseOfItsFiles(t *testing.T) {
	requireRoot(t)
	s := pingIn(t, "prog netns", "ipv4")
	for _, counted := range []bool{false, true} {
		results, err := (&Runner{Files: ObjectFiles{Container: []byte("no object")}, Cover: counted}).Run(context.Background(), []*Scenario{s})
		require.NoError(t, err)
		require.NotEmpty(t, results)
		for _, r := range results {
			require.Equal(t, Broken, r.Outcome, "%s in %s", r.Scenario, r.World)
			require.Contains(t, r.Reason, datapath.ErrObject.Error())
		}
	}
	results, err := (&Runner{Files: ObjectFiles{Container: bpf.ContainerObject()}}).Run(context.Background(), []*Scenario{s})
	require.NoError(t, err)
	for _, r := range results {
		require.Equal(t, Pass, r.Outcome, r.Reason)
	}
}

func TestRunsComeInTheOrderThatIsAskedFor(t *testing.T) {
	requireRoot(t)
	s := pingIn(t, "prog", "ipv4 ipv6")
	backwards := func(a, b Result) int { return strings.Compare(string(b.Family), string(a.Family)) }
	for name, c := range map[string]struct {
		order func(a, b Result) int
		want  []syntax.Family
	}{
		"as they are": {nil, []syntax.Family{syntax.IPv4, syntax.IPv6}},
		"backwards":   {backwards, []syntax.Family{syntax.IPv6, syntax.IPv4}},
	} {
		results, err := (&Runner{Parallel: 1, Order: c.order}).Run(context.Background(), []*Scenario{s})
		require.NoError(t, err)
		var got []syntax.Family
		for _, r := range results {
			got = append(got, r.Family)
		}
		require.Equal(t, c.want, got, name)
	}
}

func TestWhatTheVerifierLeftIsToldUnlessItIsLeftOut(t *testing.T) {
	requireRoot(t)
	s := pingIn(t, "prog", "ipv4")
	for _, without := range []bool{false, true} {
		results, err := (&Runner{Cover: true, WithoutLives: without}).Run(context.Background(), []*Scenario{s})
		require.NoError(t, err)
		require.NotEmpty(t, results[0].Reach)
		tells := slices.ContainsFunc(results[0].Reach, func(r cover.Record) bool { return len(r.Live) > 0 })
		require.Equal(t, !without, tells)
	}
}
