// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/scenarios/syntax"
)

// TestWhoIsInWorldClusterAndWhyOthersAreNot keeps the library honest: a scenario that
// could be in a live cluster is, or says why it does not hold there.
func TestWhoIsInWorldClusterAndWhyOthersAreNot(t *testing.T) {
	all, err := Library()
	require.NoError(t, err)
	for _, s := range all {
		why := s.WhyNot()
		if slices.Contains(s.Worlds, syntax.Cluster) {
			require.Empty(t, why, "%s declares world cluster", s.Path)
			continue
		}
		require.NotEmpty(t, why, "%s could run in a live cluster: declare 'worlds ... cluster', or say 'except cluster \"WHY\"'", s.Path)
	}
}

// whole reads a scenario with its headers.
func whole(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse("test.txtar", []byte(text))
	require.NoError(t, err)
	return s
}

func TestWhyNotNamesWhatNoLiveClusterHas(t *testing.T) {
	for text, why := range map[string]string{
		"worlds prog\ntopology two-pods\nsend client ip(dst=web) udp(dport=53)\nexpect web udp(dport=53)":                "send: a live cluster has no wires",
		"worlds prog netns\ntopology two-pods\noutside other\nlisten web tcp/80\nconnect client -> tcp/web:80":           "outside: one host alone",
		"worlds prog netns\ntopology two-pods\nmaglev\nlisten web tcp/80\nconnect client -> tcp/web:80":                  "maglev: how backends are chosen",
		"worlds prog\ntopology two-pods\nping client -> gateway":                                                         "ping gateway: a live cluster has no wires",
		"worlds prog\ntopology two-pods\nexcept cluster \"it is slow\"\nlisten web tcp/80\nconnect client -> tcp/web:80": "it is slow",
		"worlds prog netns\ntopology two-pods\nnode node zone=a\nlisten web tcp/80\nconnect client -> tcp/web:80":        "node node has a label zone",
		"worlds prog\ntopology two-pods\nlisten web tcp/80\nconnect client -> tcp/web:80":                                "",
		"worlds prog cluster\ntopology two-pods\nlisten web tcp/80\nconnect client -> tcp/web:80":                        "",
	} {
		got := whole(t, text).WhyNot()
		if why == "" {
			require.Empty(t, got, text)
			continue
		}
		require.Contains(t, got, why, text)
	}
}

func TestAScenarioOfALiveClusterNamesNothingElse(t *testing.T) {
	_, err := Parse("test.txtar", []byte("worlds prog cluster\ntopology two-pods\nadvance 1s\nlisten web tcp/80\nconnect client -> tcp/web:80"))
	require.ErrorContains(t, err, "test.txtar:3: advance: a live cluster has no wires, clocks and tables that a scenario reaches")
	_, err = Parse("test.txtar", []byte("worlds prog cluster\nexcept cluster \"no\"\ntopology two-pods\nlisten web tcp/80\nconnect client -> tcp/web:80"))
	require.ErrorContains(t, err, "world cluster is declared and excepted: leave out one of them")
}

func TestWhatAScenarioUsesOfACluster(t *testing.T) {
	s := whole(t, "worlds prog netns cluster\ntopology two-nodes\nlisten node tcp/80\nconnect node-2 -> tcp/node:80\nconnect internet -> tcp/client:80 fails refused")
	require.Equal(t, kube.Uses{Nodes: []string{"node", "node-2"}, Ports: true}, s.uses())
	require.True(t, s.asksOutside())
	require.True(t, s.dialsPodsFromOutside())
	require.False(t, s.meetsOutside())
	require.False(t, s.seesMasquerade())
	s = whole(t, "worlds prog netns cluster\ntopology two-pods\nlisten web tcp/80\nconnect client -> tcp/web:80\nlisten internet tcp/80\nconnect web -> tcp/internet:80 seen-from web")
	require.Equal(t, kube.Uses{Ports: true}, s.uses())
	require.False(t, s.dialsPodsFromOutside())
	require.True(t, s.meetsOutside())
	require.True(t, s.seesMasquerade())
}

// TestDifferencesAreSettled holds the list beside the document, and both beside the
// library.
func TestDifferencesAreSettled(t *testing.T) {
	document, err := os.ReadFile("../docs/reference.md")
	require.NoError(t, err)
	settled := map[string]bool{}
	for line := range strings.Lines(string(document)) {
		cells := strings.Split(line, " | ")
		if len(cells) != 4 || cells[0] == "| scenario" {
			continue
		}
		for name := range strings.SplitSeq(strings.TrimPrefix(cells[0], "| "), ", ") {
			settled[name] = true
		}
	}
	all, err := Library()
	require.NoError(t, err)
	require.NotEmpty(t, differences())
	for name := range differences() {
		require.True(t, settled[name], "docs/reference.md says nothing of %s", name)
		require.True(t, slices.ContainsFunc(all, func(s *Scenario) bool { return s.Name == name && slices.Contains(s.Worlds, syntax.Cluster) }),
			"no scenario %s is in world cluster", name)
		delete(settled, name)
	}
	require.Empty(t, settled, "docs/reference.md settles what scenarios/differences does not have")
}

func TestRunsOfOneWorldAreTogether(t *testing.T) {
	one := whole(t, "worlds prog cluster\ntopology two-pods\nlisten web tcp/80\nconnect client -> tcp/web:80")
	r := &Runner{Worlds: []syntax.World{syntax.Prog, syntax.Cluster}}
	var sizes []int
	for _, group := range together(r.runs([]*Scenario{one, one})) {
		sizes = append(sizes, len(group))
	}
	require.Equal(t, []int{1, 1, 1, 1, 4}, sizes)
}

func TestAScenarioIsWhereItsWorldIs(t *testing.T) {
	s := whole(t, "worlds prog cluster\ntopology two-pods\nlisten web tcp/80\nconnect client -> tcp/web:80")
	topology := s.topology
	topology.Pods = []lab.Host{{Name: "default/web", Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.9")}}}
	there := s.at(topology)
	a, err := there.address("web", syntax.IPv4)
	require.NoError(t, err)
	require.Equal(t, "10.244.0.9", a.String())
	a, err = s.address("web", syntax.IPv4)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.11", a.String(), "the file's own stays what it is")
}
