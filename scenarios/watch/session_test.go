// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

const good = "# One that holds.\nworlds prog\nfamilies ipv4\ntopology two-pods\nping client -> web\n"

// tried is a session without a source tree.
type tried struct {
	*testing.T
	*Session
}

func newTried(t *testing.T) *tried {
	runner := &scenarios.Runner{Worlds: []syntax.World{syntax.Prog}}
	return &tried{t, NewSession(nil, runner.Planned)}
}

// take takes in texts, and gives the names of the runs that are due. They pass then.
func (s *tried) take(texts map[string]string) (news *News, due []string) {
	news, err := s.Session.Take(s.Context(), &Snapshot{Scenarios: texts})
	require.NoError(s, err)
	for _, r := range s.planned(s.Scenarios()) {
		if s.Due(r) {
			due = append(due, r.Scenario)
			r.Outcome = scenarios.Pass
			require.NoError(s, s.Note(r))
		}
	}
	slices.Sort(due)
	return news, due
}

func TestAChangedFileMakesItsScenarioDue(t *testing.T) {
	s := newTried(t)
	news, due := s.take(map[string]string{"a/one.txtar": good, "a/two.txtar": good})
	require.Equal(t, &News{}, news, "what is there at first is no news")
	require.Equal(t, []string{"one/ipv4", "two/ipv4"}, due)
	require.False(t, s.Rebuilt())

	news, due = s.take(map[string]string{"a/one.txtar": good, "a/two.txtar": good + "# more\n"})
	require.Equal(t, []string{"changed: a/two.txtar"}, news.Changed)
	require.Equal(t, []string{"two/ipv4"}, due)

	news, due = s.take(map[string]string{"a/one.txtar": good, "a/two.txtar": good, "b/three.txtar": good})
	require.Equal(t, []string{"changed: a/two.txtar, b/three.txtar"}, news.Changed)
	require.Equal(t, []string{"three/ipv4", "two/ipv4"}, due)

	news, due = s.take(map[string]string{"a/one.txtar": good})
	require.Equal(t, []string{"gone: a/two.txtar, b/three.txtar"}, news.Changed)
	require.Empty(t, due)
	all, _, _ := s.Count()
	require.Equal(t, 1, all)
}

func TestAFileThatDoesNotParseIsNewsUntilItDoes(t *testing.T) {
	s := newTried(t)
	news, due := s.take(map[string]string{"one.txtar": good, "two.txtar": "worlds moon\n"})
	require.Len(t, news.Problems, 1)
	require.ErrorContains(t, news.Problems[0], "two.txtar:1: ")
	require.Equal(t, []string{"one/ipv4"}, due)
	require.True(t, s.Broken())

	news, due = s.take(map[string]string{"one.txtar": good + "\n", "two.txtar": "worlds moon\n"})
	require.Empty(t, news.Problems, "it was told")
	require.Equal(t, []string{"one/ipv4"}, due)
	require.True(t, s.Broken())

	news, due = s.take(map[string]string{"one.txtar": good + "\n", "two.txtar": good})
	require.Equal(t, &News{Changed: []string{"changed: two.txtar"}}, news)
	require.Equal(t, []string{"two/ipv4"}, due)
	require.False(t, s.Broken())
}

func TestOfTwoScenariosOfOneNameOneRuns(t *testing.T) {
	s := newTried(t)
	news, due := s.take(map[string]string{"a/one.txtar": good, "b/one.txtar": good})
	require.Len(t, news.Problems, 1)
	require.EqualError(t, news.Problems[0], "b/one.txtar:1: a/one.txtar has that name too: one of them is not run")
	require.Equal(t, []string{"one/ipv4"}, due)
}

func TestManyFilesAreCounted(t *testing.T) {
	s := newTried(t)
	s.take(map[string]string{})
	news, _ := s.take(map[string]string{"1.txtar": good, "2.txtar": good, "3.txtar": good, "4.txtar": good, "5.txtar": good})
	require.Equal(t, []string{"changed: 1.txtar, 2.txtar, 3.txtar and 2 more"}, news.Changed)
}

func TestASnapshotDiffersByWhatItSays(t *testing.T) {
	s := newTried(t)
	s.take(map[string]string{"one.txtar": good})
	require.False(t, s.Differs(&Snapshot{Scenarios: map[string]string{"one.txtar": good}}))
	require.True(t, s.Differs(&Snapshot{Scenarios: map[string]string{"one.txtar": good, "two.txtar": good}}))
	require.True(t, s.Differs(&Snapshot{Scenarios: map[string]string{"one.txtar": good}, Source: Source{"lib/a.h": ""}}))
}

func TestSourceIsBuiltWhereItsCodeDiffers(t *testing.T) {
	c := compiler(t)
	_, source := embedded(t)
	s := newTried(t)
	s.compiler = c
	take := func() *News {
		texts := Source{}
		for name, text := range source {
			texts[name] = text
		}
		news, err := s.Take(t.Context(), &Snapshot{map[string]string{"one.txtar": good}, texts})
		require.NoError(t, err)
		return news
	}
	require.Equal(t, &News{}, take())
	require.False(t, s.Rebuilt(), "this binary has what is built from it")

	source["lib/nat.h"] = "// more\n" + source["lib/nat.h"]
	require.Equal(t, []string{"changed: bpf/lib/nat.h", "no code differs from what was built last: nothing to run"}, take().Changed)

	source["lib/nat.h"] = "int broken(\n" + source["lib/nat.h"]
	news := take()
	require.Equal(t, []string{"changed: bpf/lib/nat.h"}, news.Changed)
	require.Len(t, news.Problems, 1)
	require.ErrorIs(t, news.Problems[0], ErrCompile)
	require.True(t, s.Broken())

	source["lib/nat.h"] = "static __always_inline int unused(void)\n{\n\treturn 1;\n}\n" + s.build.Source["lib/nat.h"]
	news = take()
	require.Equal(t, "changed: bpf/lib/nat.h:1-4", news.Changed[0])
	require.Empty(t, news.Problems)
	require.False(t, s.Broken())
	require.True(t, s.Rebuilt())
}
