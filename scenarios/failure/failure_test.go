// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/syntax"
)

// kept are reports of a cluster of two nodes, dual-stack, each with one action. The
// programs of the cluster had one error each, which the file is named by.
func kept(t testing.TB) map[string]*connectivity.Report {
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	all := map[string]*connectivity.Report{}
	for _, path := range files {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		report, err := connectivity.ReadReport(bytes.NewReader(data))
		require.NoError(t, err)
		require.Len(t, Failed(report), 1)
		all[strings.TrimSuffix(filepath.Base(path), ".json")] = report
	}
	require.Len(t, all, 5)
	return all
}

func made(t testing.TB, report *connectivity.Report) (string, *scenarios.Scenario) {
	text, err := Scenario(report, Failed(report)[0])
	require.NoError(t, err)
	s, err := scenarios.Parse("made.txtar", text)
	require.NoError(t, err)
	return string(text), s
}

func TestAScenarioHasTheActionAndWhatIsAroundIt(t *testing.T) {
	for fault, parts := range map[string][]string{
		"reverse-nat": {
			"# cluster-ip/node-1-udp/ipv4 of 'weir connectivity test' failed.\n", "It said: receive answer: timed out",
			"worlds prog\nfamilies ipv4\nnode node-2\n", "/client-1 name=client-1 role=client\n", "/server-2 name=server-2 role=server on node-2\n",
			"/server-2 udp/8080\n", " -> udp/web.weir-16ebed-test:80 from 40007 seen-from weir-16ebed-test/client-1\n", "targetPort: 8080",
		},
		"dnat":      {"families ipv6\n", " -> tcp/web.weir-"},
		"policy":    {"fails timeout\n", "kind: NetworkPolicy", "role: friend"},
		"mtu":       {"payload(size=1472)\nexpect ", "/client-1 ip(src=weir-"},
		"node-port": {"outside outside\nuplink\nmasquerade\n", "connect outside -> udp/node:"},
	} {
		text, s := made(t, kept(t)[fault])
		for _, part := range parts {
			require.Contains(t, text, part, fault)
		}
		for line := range strings.Lines(text) {
			require.False(t, strings.Contains(line, "10.244.") && line[0] != '#', "%s: an address of the cluster's: %s", fault, line)
		}
		require.Equal(t, []syntax.World{syntax.Prog}, s.Worlds)
	}
}

func TestTheNetworkOfOthersIsTriedInRealStacks(t *testing.T) {
	for fault, report := range kept(t) {
		report.Features.Weir = false
		text, s := made(t, report)
		require.Equal(t, []syntax.World{syntax.Netns}, s.Worlds, fault)
		require.NotContains(t, text, "masquerade", "what others do is not known")
	}
}

// planted are errors that clusters' programs had, as mutants are: each is looked for by
// its own scenario alone. What no line of the programs does is no mutant.
var planted = map[string]func(*mutant.Mutant) bool{
	"reverse-nat": func(m *mutant.Mutant) bool { return strings.HasPrefix(m.Text, "reply->src = pkt->key.dst") },
	"policy":      func(m *mutant.Mutant) bool { return m.File == "lib/policy.h" && m.Text == "if (!rule) {" },
}

func TestSoundProgramsPassAndThoseWithTheErrorFail(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and loads BPF programs")
	}
	all := map[string]*scenarios.Scenario{}
	for fault, report := range kept(t) {
		_, all[fault] = made(t, report)
	}
	results, err := (&scenarios.Runner{Parallel: 1}).Run(t.Context(), slices.Collect(maps.Values(all)))
	require.NoError(t, err)
	require.Len(t, results, len(all))
	for _, r := range results {
		require.False(t, r.Failed(), "%s: %s", r.Scenario, r.Reason)
	}
	objects, err := mutate.Embedded()
	require.NoError(t, err)
	for fault, only := range planted {
		r, err := mutate.Run(t.Context(), mutate.Options{
			Objects: objects, Scenarios: []*scenarios.Scenario{all[fault]}, Only: only, Parallel: 1,
			Without: []string{mutate.ByFuzz, mutate.ByNetns, mutate.BySocket},
		})
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(r.Results, func(one mutate.Result) bool { return one.Outcome == mutate.Killed }), "%s: %v", fault, r.Results)
	}
}

func TestWhatCannotBeAScenarioIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*connectivity.Result)
		is     error
		says   string
	}{
		"no evidence":      {func(r *connectivity.Result) { r.Evidence = nil }, ErrNoEvidence, ""},
		"nobody to answer": {func(r *connectivity.Result) { r.Evidence.Ends = r.Evidence.Ends[:1] }, ErrScenario, "nobody who might have answered"},
		"a strange end":    {func(r *connectivity.Result) { r.Evidence.Ends[1].Kind = "vm" }, ErrScenario, `calls "server-1" a "vm"`},
		"no objects":       {func(r *connectivity.Result) { r.Evidence.Objects = nil }, ErrScenario, "no node"},
		"a strange target": {func(r *connectivity.Result) { r.Evidence.Action.To.Kind = "vip" }, ErrScenario, `a "vip"`},
		"no service":       {func(r *connectivity.Result) { r.Evidence.Service = "a/b" }, ErrScenario, `no service "a/b"`},
		"a block of some pods": {func(r *connectivity.Result) {
			r.Evidence.Objects = append(r.Evidence.Objects, json.RawMessage(`{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
				"metadata": {"name": "some", "namespace": "weir-16ebed-test"},
				"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.244.0.0/16"}}]}]}}`))
		}, ErrScenario, "the block 10.244.0.0/16 holds"},
	} {
		t.Run(name, func(t *testing.T) {
			report := kept(t)["reverse-nat"]
			c.change(&report.Results[0])
			_, err := Scenario(report, report.Results[0].Name)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := Scenario(kept(t)["dnat"], "dns/other/ipv4")
	require.ErrorIs(t, err, ErrNoEvidence)
}

// What a report's text is, it adds no step.
func TestATextOfSeveralLinesIsAComment(t *testing.T) {
	report := kept(t)["reverse-nat"]
	report.Results[0].Errors = []string{"timed out\nadvance 1h\r\n-- objects.yaml --"}
	before, _ := made(t, kept(t)["reverse-nat"])
	text, s := made(t, report)
	require.Contains(t, text, "# It said: timed out advance 1h  -- objects.yaml --\n")
	require.Equal(t, strings.Count(before, "\n"), strings.Count(text, "\n"))
	require.Len(t, s.Files, 1)
}

func FuzzScenario(f *testing.F) {
	for _, report := range kept(f) {
		e := report.Results[0].Evidence
		e.Captures, e.Agents, e.Events = nil, nil, e.Events[:1] // small ones are changed more quickly
		text, err := json.Marshal(report)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{"features":{},"results":[{"name":"a","evidence":{"ends":[{},{}]}}]}`))
	f.Add([]byte(`{"features":{"weir":true},"results":[{"evidence":{"action":{"to":{"kind":"name"},"by":[""]},"objects":[null,{"kind":"Node","apiVersion":"v1","metadata":{"name":"n"}}],"ends":[{"node":"n","kind":"node"},{"kind":"outside","listens":["tcp","/","udp/0"]}]}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := connectivity.ReadReport(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, name := range Failed(report) {
			made, err := Scenario(report, name)
			if err != nil {
				require.Nil(t, made)
				continue
			}
			_, err = scenarios.Parse("made.txtar", made)
			require.NoError(t, err, "what is made is a scenario")
		}
		for i := range report.Results {
			report.Results[i].Story() // whatever the evidence is
		}
	})
}
