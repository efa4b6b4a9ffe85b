// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

func readPage(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	return string(text)
}

func TestAFailureHasAPageWithItsNetworkAndTheWayThroughHooks(t *testing.T) {
	results := run(t, strings.Replace(failing, "families ipv4\n", "", 1))
	require.Len(t, results, 2)
	f, err := NewFolder(t.TempDir())
	require.NoError(t, err)
	for _, r := range results {
		require.NoError(t, f.Add(r))
	}
	require.NoError(t, f.Close(results, &shard.Run{Ended: true, Results: 2, Kernels: []string{"6.18.1"}, Build: "weir v1", Seed: "7"}))

	kernel := version(scenarios.Kernel())
	for family, addresses := range map[string][]string{"ipv4": {"10.0.0.10", "198.18.0.2"}, "ipv6": {"fd10:a:0:b:0:c:0:20", "fd00:198:18::7:0:2"}} {
		text := readPage(t, f.Path(), "a-"+family+"-prog-"+kernel+".html")
		for _, part := range append(addresses,
			`<h1>a/`+family+`</h1>`,
			`<td>tcp.dport</td><td>8081</td><td class="got">8080</td>`,
			`<title>1. from-container of default/client: forward</title>`,
			`<b>from-container</b> of default/client: <span class="verdict forward">forward</span>, out local`,
			`services hit`, `dport=80→8080`, `<b>web</b> got it`,
			`The odd one out is <b>the scenario`,
			`href="./a-`+family+`-prog-`+kernel+`.pcapng" download`,
			`weir scenario run --world prog --run &#39;^a/`+family+`$&#39; a.txtar`,
		) {
			require.True(t, strings.Contains(text, part), part)
		}
	}
	text := readPage(t, f.Path(), "index.html")
	for _, part := range []string{
		"<h1>A run that failed</h1>", "<b>2</b> failed", "weir v1", "that of --shuffle 7", "6.18.1",
		"<b>2 ×</b> from-container at bpf/lib/", "The shortest of them: a/ipv4 in world prog", "<svg",
		`<tr><td>a/ipv6<td class="fail"><a href="./a-ipv6-prog-` + kernel + `.html">FAIL</a>`, "The slowest 2",
	} {
		require.True(t, strings.Contains(text, part), part)
	}
}

func TestThePageShowsKernelsAndWorldsSideBySide(t *testing.T) {
	in := func(r scenarios.Result, world syntax.World) scenarios.Result { r.World = world; return r }
	skipped := ended("b/ipv4", old, scenarios.Skipped, "")
	skipped.Reason = "needs kernel 6.6"
	same := in(ended("c/ipv4", young, scenarios.Same, ""), syntax.Netns)
	same.Reason = "as on 5.10"
	dir := reportIn(keep(t, []scenarios.Result{
		ended("a/ipv4", old, scenarios.Pass, ""), ended("a/ipv4", young, scenarios.Pass, ""),
		skipped, ended("b/ipv4", young, scenarios.Pass, ""),
		in(ended("c/ipv4", old, scenarios.Pass, ""), syntax.Netns), same,
		in(ended("d/ipv4", young, scenarios.Fail, ""), syntax.Netns),
	}, nil))
	text := readPage(t, dir, "index.html")
	require.Contains(t, text, `<th scope="colgroup" class="world" colspan="2">prog</th><th scope="colgroup" class="world" colspan="2">netns</th>`)
	require.Contains(t, text, `<th scope="col">5.10</th><th scope="col">7.2</th><th scope="col">5.10</th><th scope="col">7.2</th>`)
	note := func(n int) string { return fmt.Sprintf(`<sup><a href="#n%d">%d</a></sup>`, n, n) }
	require.Contains(t, text, strings.Join([]string{
		`<tr><td>d/ipv4<td>–<td>–<td>–<td class="fail">FAIL`,
		`<tr><td>b/ipv4<td class="skipped">skipped` + note(1) + `<td class="pass">pass<td>–<td>–`,
		`<tr><td>a/ipv4<td class="pass">pass<td class="pass">pass<td>–<td>–`,
		`<tr><td>c/ipv4<td>–<td>–<td class="pass">pass<td class="same">same` + note(2),
	}, "\n"), "what failed is first, then what differs")
	require.Contains(t, text, `<li id="n1">needs kernel 6.6</li>`)
	require.Contains(t, text, `<li id="n2">as on 5.10</li>`)
	require.Contains(t, text, `href="./kernels.txt"`)
}

func TestThePageSaysThatARunHasNotEnded(t *testing.T) {
	f, err := NewFolder(t.TempDir())
	require.NoError(t, err)
	of := &shard.Run{Results: 2}
	require.NoError(t, f.Describe(of))
	require.Contains(t, readPage(t, f.Path(), "index.html"), "It has not ended: 2 runs go on, or were killed.")

	one := passed("a/ipv4", "6.1.0")
	require.NoError(t, f.Add(one))
	of.Problems = []string{"interrupted"}
	require.NoError(t, f.Close([]scenarios.Result{one}, of))
	text := readPage(t, f.Path(), "index.html")
	require.Contains(t, text, "<h1>A run that did not end</h1>")
	require.Regexp(t, `Interrupted at .*: 1 of 2 runs were done\.`, text)
}

func TestAMergedReportDrawsTheFailuresOfItsParts(t *testing.T) {
	results := run(t, failing)
	dir := t.TempDir()
	for i, of := range [][]scenarios.Result{results, nil} {
		f, err := NewFolder(filepath.Join(dir, fmt.Sprint(i)))
		require.NoError(t, err)
		for _, r := range of {
			require.NoError(t, f.Add(r))
		}
		require.NoError(t, f.Close(of, &shard.Run{Shard: fmt.Sprintf("%d/2", i+1), Kernels: []string{scenarios.Kernel()}, Results: len(of), Ended: true, Build: fmt.Sprintf("weir v%d", i+1)}))
	}
	parts, err := ReadParts(filepath.Join(dir, "0"), filepath.Join(dir, "1"))
	require.NoError(t, err)
	m, err := Merge(parts)
	require.NoError(t, err)
	whole, err := m.Keep(filepath.Join(dir, "whole"))
	require.NoError(t, err)

	name := filepath.Base(strings.TrimSuffix(whole.Capture(results[0]), ".pcapng")) + ".html"
	require.Equal(t, readPage(t, filepath.Join(dir, "0", latest), name), readPage(t, whole.Path(), name))
	text := readPage(t, whole.Path(), "index.html")
	for _, part := range []string{"of 2 reports", "weir v1; weir v2", "<svg", `<a href="./` + name + `">FAIL</a>`} {
		require.True(t, strings.Contains(text, part), part)
	}
	again, err := ReadParts(whole.Path())
	require.NoError(t, err)
	require.Len(t, again[0].tales, 1)
}

// bigFailure has more of everything than a page shows.
func bigFailure(n int) *scenarios.Failure {
	f := &scenarios.Failure{Step: "send", Problem: strings.Repeat("much went wrong\n", 1000), Topology: lab.Topology{Nodes: []lab.Host{{Name: "node"}}}}
	long := strings.Repeat("word ", 200)
	for i := range 200 {
		f.Details = append(f.Details, scenarios.Detail{Field: "field", Want: long, Got: long})
		f.Model = append(f.Model, long)
		w := lab.Walk{From: "client", Nobody: long, Faults: []string{long}}
		for range 30 {
			d := datapath.Decision{Action: model.Drop, File: fmt.Sprintf("bpf/%d.h", n), Line: i}
			w.Steps = append(w.Steps, lab.Step{Hook: model.FromContainer, Endpoint: "default/client", Decision: d})
		}
		f.Walks = append(f.Walks, w)
		f.Topology.Pods = append(f.Topology.Pods, lab.Host{Name: fmt.Sprintf("default/pod-%d", i), Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	}
	return f
}

// The page of 9,000 results, of which all passed, all failed alike, or each failed
// for a cause of its own.
func TestThePageOfManyResultsIsSmall(t *testing.T) {
	const scenarioCount, kernelCount = 1800, 5
	for name, tt := range map[string]struct {
		outcome scenarios.Outcome
		causes  int
		most    int // bytes
	}{
		"all passed":     {scenarios.Pass, 0, 500 << 10},
		"one cause":      {scenarios.Fail, 1, 2 << 20},
		"all causes own": {scenarios.Fail, 9000, 4 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewFolder(t.TempDir())
			require.NoError(t, err)
			var results []scenarios.Result
			var big []*scenarios.Failure
			for i := range min(tt.causes, 20) { // of which the biggest are among those that are shown
				big = append(big, bigFailure(i))
			}
			for i := range scenarioCount {
				for k := range kernelCount {
					r := ended(fmt.Sprintf("a-scenario-with-a-name-of-usual-length-%d/ipv4", i), fmt.Sprintf("6.%d.0", k), tt.outcome, "")
					n := i*kernelCount + k
					switch {
					case n < len(big):
						r.Failure = big[n]
					case tt.causes > 1:
						r.Failure = &scenarios.Failure{Step: "send", Problem: strings.Repeat("x", n%7+1) + strings.Repeat("y", n/7+1)}
					case tt.causes == 1:
						r.Failure = &scenarios.Failure{Walks: big[0].Walks[:1], Details: big[0].Details[:1]}
					}
					if r.Failure != nil { // as Add would, which needs longer
						require.NoError(t, os.WriteFile(f.name(r)+".html", nil, 0o644))
					}
					results = append(results, r)
				}
			}
			require.NoError(t, f.index(results, &shard.Run{Ended: true, Results: len(results)}, f.ofResults()))
			info, err := os.Stat(filepath.Join(f.Path(), "index.html"))
			require.NoError(t, err)
			t.Logf("%s: %d KB", name, info.Size()>>10)
			require.LessOrEqual(t, info.Size(), int64(tt.most))
		})
	}
}
