// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// failed is a failure that says why, in a story without frames.
func failed(name, step, problem string, details ...scenarios.Detail) scenarios.Result {
	return scenarios.Result{
		Scenario: name, World: syntax.Prog, Kernel: "6.1.0", Outcome: scenarios.Fail, Reason: name + ":1: " + problem,
		Failure: &scenarios.Failure{
			Pos: syntax.Pos{File: name, Line: 1}, Step: step, Problem: problem, Details: details, Repeat: "weir scenario run --run " + name,
		},
	}
}

// decided adds a hook's decision to the story of a failure.
func decided(r scenarios.Result, hook model.Hook, line int) scenarios.Result {
	s := lab.Step{Hook: hook, Endpoint: "default/web", Decision: datapath.Decision{Action: model.Forward, File: "bpf/lib/nat.h", Line: line}}
	r.Failure.Walks = append(r.Failure.Walks, lab.Walk{From: "client", Steps: []lab.Step{s}})
	return r
}

func disagreed(want, got string) scenarios.Detail {
	return scenarios.Detail{Field: "from-container of default/web", Want: "the model: " + want, Got: "the datapath: " + got}
}

func TestFailuresAtOnePlaceHaveOneCause(t *testing.T) {
	source := func(address string) scenarios.Detail {
		return disagreed("forward tcp "+address+" -> 10.0.0.1:9 out local", "forward tcp 10.0.0.2:80 -> 10.0.0.1:9 out local")
	}
	one := decided(failed("a/ipv4", "connect client -> web", "it failed", source("10.96.0.1:80")), model.FromContainer, 36)
	like := decided(failed("b/ipv6", "say c", "no answer", source("[fd00::1]:80")), model.FromContainer, 36)
	require.Equal(t, "from-container at bpf/lib/nat.h:36, forward: source", causeOf(one).String())
	require.Equal(t, causeOf(one), causeOf(like))

	elsewhere := decided(failed("a/ipv4", "connect client -> web", "it failed", source("10.96.0.1:80")), model.FromContainer, 37)
	require.NotEqual(t, causeOf(one), causeOf(elsewhere))
	out := decided(failed("c/ipv4", "say c", "no answer",
		disagreed("forward tcp 10.0.0.2:80 -> 10.0.0.1:9 out local", "forward tcp 10.0.0.2:80 -> 10.0.0.1:9 out device")), model.FromContainer, 36)
	require.Equal(t, "way out", causeOf(out).what)
	dropped := decided(failed("d/ipv4", "say c", "no answer", disagreed("drop policy", "forward tcp 10.0.0.2:80 -> 10.0.0.1:9 out device")), model.FromContainer, 36)
	require.Equal(t, "action", causeOf(dropped).what)

	faulty := decided(failed("e/ipv4", "send a", "a frame was harmed"), model.FromDevice, 4)
	faulty.Failure.Walks[0].Faults = []string{"the way back is {Src:1}, and has to be {Src:2}"}
	require.Equal(t, "from-device at bpf/lib/nat.h:4, forward: the way back is …", causeOf(faulty).String())
}

func TestFailuresWithoutFramesGoByStepAndProblem(t *testing.T) {
	a := causeOf(failed("a/ipv4", "ping client -> web", "ping client -> web failed after 3 tries"))
	b := causeOf(failed("b/ipv6", "ping other -> db", "ping other -> db failed after 4 tries"))
	require.Equal(t, a, b)
	require.Equal(t, "ping: … failed after … tries", a.String())
	require.NotEqual(t, a, causeOf(failed("c/ipv4", "connect other -> db", "ping other -> db failed after 4 tries")))
	require.Equal(t, cause{what: "skipped (needs kernel … which … does not declare"},
		causeOf(scenarios.Result{Outcome: scenarios.Fail, Reason: "skipped (needs kernel 6.6), which scenarios/skips does not declare"}))
}

func TestManyFailuresFitOnAScreen(t *testing.T) {
	var results []scenarios.Result
	add := func(count, line int) {
		for i := range count {
			r := decided(failed(fmt.Sprintf("s%d-%d/ipv4", line, i), "ping client -> web", strings.Repeat("it failed\n", 30)), model.FromContainer, line)
			results = append(results, r)
		}
	}
	add(300, 1)
	for line := range 20 {
		add(3, line+2)
	}
	results = append(results, scenarios.Result{Scenario: "good/ipv4", Outcome: scenarios.Pass})
	short := decided(failed("short/ipv4", "ping client -> web", "it failed"), model.FromContainer, 1)
	results = append(results, short)

	var out bytes.Buffer
	text := &Text{Out: &out}
	text.Failures(results, func(r scenarios.Result) string { return r.Scenario + ".pcapng" })
	text.Summary(results)
	shown := out.String()
	require.LessOrEqual(t, strings.Count(shown, "\n"), 60, shown)
	require.Contains(t, shown, "What failed, 361 by 21 causes:\n1. 301 × from-container at bpf/lib/nat.h:1, forward: it failed\n"+
		"    prog on 6.1; s1-0/ipv4, s1-1/ipv4, s1-2/ipv4 and 298 more\n")
	require.Contains(t, shown, "    short/ipv4:1: ping client -> web\n    it failed\n")
	require.Contains(t, shown, "    repeat: weir scenario run --run short/ipv4\n    capture: short/ipv4.pcapng\n2. 3 × ")
	require.Contains(t, shown, "and 33 failures of other causes (11)\n")
	require.NotContains(t, shown, "good/ipv4")

	// One alone is told as a whole.
	out.Reset()
	text.Failures(results[:1], nil)
	require.Contains(t, out.String(), "What failed, 1 by one cause:\n")
	require.Contains(t, out.String(), text.indented(results[0]))
	require.NotContains(t, out.String(), "more lines")

	out.Reset()
	text.Failures([]scenarios.Result{{Outcome: scenarios.Pass}}, nil)
	require.Empty(t, out.String())
}

// indented is a story as a terminal shows it.
func (t *Text) indented(r scenarios.Result) string { return indent(t.Story(r), "    ") }
