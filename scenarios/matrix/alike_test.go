// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// alikeRun is a run of world prog that reached so many of the counters of the host's
// object, or one of world netns.
func alikeRun(name string, world syntax.World, counters ...byte) scenarios.Result {
	r := scenarios.Result{Scenario: name, Family: syntax.IPv4, World: world, Outcome: scenarios.Pass}
	if len(counters) > 0 {
		r.Outputs = []scenarios.Output{{Hook: model.FromContainer, Action: model.Forward, Frame: []byte{1}}}
		r.Reach = []cover.Record{{Object: "host.bpf.c", Counts: counters}}
	}
	return r
}

// alikeDriver is a run on three kernels of two scenarios in both worlds, and of one
// in world netns alone.
func alikeDriver(t *testing.T) (d *driver, kernels []*vmtest.Kernel) {
	t.Helper()
	for _, id := range []string{"5.10", "6.1", "7.2"} {
		kernels = append(kernels, &vmtest.Kernel{ID: id, Release: id})
	}
	m := &Matrix{Kernels: kernels, Runner: &scenarios.Runner{}, Program: "weir"}
	d, err := m.newDriver(nil, []scenarios.Result{
		alikeRun("a/ipv4", syntax.Prog), alikeRun("b/ipv4", syntax.Prog),
		alikeRun("a/ipv4", syntax.Netns), alikeRun("b/ipv4", syntax.Netns), alikeRun("real/ipv4", syntax.Netns),
	})
	require.NoError(t, err)
	return d, kernels
}

func inUnits(units []unit) (all []string) {
	for _, u := range units {
		all = append(all, fmt.Sprint(u.kernel.ID, " ", u.world, " ", strings.Join(u.names, ","), " ", u.cover))
	}
	return all
}

// chosen is which of so many kernels that do the same runs a scenario.
func chosen(name string, of int) int { return int(crc32.ChecksumIEEE([]byte(name)) % uint32(of)) }

func TestWhatDoesTheSameIsRunOnOneOfTheKernels(t *testing.T) {
	d, kernels := alikeDriver(t)
	require.Equal(t, []string{
		"5.10 prog a/ipv4,b/ipv4 true", "6.1 prog a/ipv4,b/ipv4 true", "7.2 prog a/ipv4,b/ipv4 true",
		"5.10 netns real/ipv4 false", "6.1 netns real/ipv4 false", "7.2 netns real/ipv4 false",
	}, inUnits(d.waiting))
	d.waiting = nil
	for i, k := range kernels {
		d.deliver(k, alikeRun("a/ipv4", syntax.Prog, 0, 1, 2, 1))
		// b reaches another counter on the oldest.
		d.deliver(k, alikeRun("b/ipv4", syntax.Prog, byte(min(i, 1)), 1))
	}
	want := map[*vmtest.Kernel][]string{}
	a, b := kernels[chosen("a/ipv4", 3)], kernels[1+chosen("b/ipv4", 2)]
	want[a] = append(want[a], "a/ipv4")
	want[b] = append(want[b], "b/ipv4")
	want[kernels[0]] = append(want[kernels[0]], "b/ipv4")
	var units []string
	for _, k := range kernels {
		if len(want[k]) > 0 {
			units = append(units, fmt.Sprint(k.ID, " netns ", strings.Join(want[k], ","), " false"))
		}
	}
	require.Equal(t, units, inUnits(d.waiting))

	before := len(d.report.Results)
	d.deliver(a, alikeRun("a/ipv4", syntax.Netns))
	results := d.report.Results[before:]
	require.Len(t, results, 3)
	for _, r := range results[1:] {
		require.Equal(t, scenarios.Same, r.Outcome)
		require.Equal(t, syntax.Netns, r.World)
		require.NotEqual(t, a.Release, r.Kernel)
		require.Equal(t, "as on "+a.Release+", by what it did in world prog", r.Reason)
	}
	require.Empty(t, d.again)
}

// A run that does not pass stands for nobody: it is asked of each kernel.
func TestWhatFailsIsRunOnTheOtherKernelsToo(t *testing.T) {
	d, kernels := alikeDriver(t)
	d.waiting = nil
	for _, k := range kernels {
		d.deliver(k, alikeRun("a/ipv4", syntax.Prog, 0, 1))
		d.deliver(k, alikeRun("b/ipv4", syntax.Prog, 0, 1))
	}
	d.waiting = nil
	at := chosen("a/ipv4", 3)
	failed := alikeRun("a/ipv4", syntax.Netns)
	failed.Outcome = scenarios.Fail
	d.deliver(kernels[at], failed)
	var asked []string
	for range 2 {
		u, ok := d.take(t.Context())
		require.True(t, ok)
		require.Equal(t, []string{"a/ipv4"}, u.names)
		asked = append(asked, u.kernel.ID)
		d.deliver(u.kernel, alikeRun("a/ipv4", syntax.Netns))
	}
	var others []string
	for i, k := range kernels {
		if i != at {
			others = append(others, k.ID)
		}
	}
	require.Equal(t, others, asked)
	require.Empty(t, d.waiting)
	require.Empty(t, d.again)
}

func TestWhatTellsNothingIsRunOnAllKernels(t *testing.T) {
	failed := alikeRun("a/ipv4", syntax.Prog, 0, 1)
	failed.Outcome = scenarios.Fail
	otherFrame := alikeRun("a/ipv4", syntax.Prog, 0, 1)
	otherFrame.Outputs[0].Frame = []byte{2}
	for name, runs := range map[string][3]scenarios.Result{
		"a failure":    {failed, failed, failed},
		"no program":   {alikeRun("a/ipv4", syntax.Prog), alikeRun("a/ipv4", syntax.Prog), alikeRun("a/ipv4", syntax.Prog)},
		"other frames": {otherFrame, alikeRun("a/ipv4", syntax.Prog, 0, 1), alikeRun("a/ipv4", syntax.Prog, 1, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			d, kernels := alikeDriver(t)
			for i, k := range kernels {
				d.alike.tell(k, &runs[i])
			}
			require.Len(t, d.alike.classes("a/ipv4"), 3)
		})
	}
}

func TestThoroughRunsAllOnAllKernels(t *testing.T) {
	_, kernels := alikeDriver(t)
	m := &Matrix{Kernels: kernels, Runner: &scenarios.Runner{}, Program: "weir", Thorough: true}
	d, err := m.newDriver(nil, []scenarios.Result{alikeRun("a/ipv4", syntax.Prog), alikeRun("a/ipv4", syntax.Netns)})
	require.NoError(t, err)
	require.Equal(t, []string{
		"5.10 prog a/ipv4 false", "6.1 prog a/ipv4 false", "7.2 prog a/ipv4 false",
		"5.10 netns a/ipv4 false", "6.1 netns a/ipv4 false", "7.2 netns a/ipv4 false",
	}, inUnits(d.waiting))
}

// A line that is excused and is no more in the programs excuses nothing.
func TestEveryExcusedLineIsInTheProgramsAndHasAReason(t *testing.T) {
	lines := map[string]bool{}
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadContainer, bpf.LoadHost} {
		spec, err := load()
		require.NoError(t, err)
		shape, err := cover.ShapeOf(spec)
		require.NoError(t, err)
		for _, p := range shape.Programs {
			for _, at := range p.Places {
				lines[at.File+": "+strings.TrimSpace(at.Text)] = true
			}
		}
	}
	for _, line := range excused {
		require.True(t, lines[line.file+": "+line.text], "no line of %s is %q", line.file, line.text)
		require.NotEmpty(t, line.reason)
	}
}

func TestExcusedLinesTellNoKernelsApart(t *testing.T) {
	e, err := newExcuses()
	require.NoError(t, err)
	for _, object := range []string{"container.bpf.c", "host.bpf.c"} { // as records call them
		require.NotEmpty(t, e[object])
	}
	a := &alike{excuses: excuses{"host.bpf.c": {3: true}}}
	with, without := alikeRun("a/ipv4", syntax.Prog, 0, 1, 2, 1), alikeRun("a/ipv4", syntax.Prog, 0, 1)
	x, ok := a.sumOf(&with)
	require.True(t, ok)
	y, ok := a.sumOf(&without)
	require.True(t, ok)
	require.Equal(t, y, x)
	a.excuses = nil
	x, _ = a.sumOf(&with)
	require.NotEqual(t, y, x)
}
