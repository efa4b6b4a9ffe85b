// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios/syntax"
)

func requireRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Fatal("worlds need root: run the test as root, or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF")
	}
}

func TestTheLibraryHoldsInWorldProg(t *testing.T) {
	requireRoot(t)
	all, err := Library()
	require.NoError(t, err)
	r := Runner{Worlds: []syntax.World{syntax.Prog}}
	results, err := r.Run(context.Background(), all)
	require.NoError(t, err)
	require.Len(t, results, r.Count(all))
	for _, res := range results {
		require.NotContains(t, []Outcome{Fail, Broken}, res.Outcome, "%s: %s", res.Scenario, res.Reason)
	}
}

// BenchmarkScenariosProg runs the library in world prog on one worker a core,
// and prints how many scenarios (each in one family) that is a second.
func BenchmarkScenariosProg(b *testing.B) {
	requireRoot(b)
	all, err := Library()
	require.NoError(b, err)
	r := Runner{Worlds: []syntax.World{syntax.Prog}}
	runs := r.runs(all)
	m := &machine{Runner: &r, kernel: Kernel(), parallel: runtime.GOMAXPROCS(0)}
	m.prog = newProgPool(m.parallel, datapath.Options{})
	_, err = m.prog.get()
	require.NoError(b, err)
	defer m.prog.close()
	play := func() {
		m.results = nil
		jobs := make(chan run)
		var workers sync.WaitGroup
		for range m.parallel {
			workers.Go(func() {
				w := m.newWorker()
				for one := range jobs {
					m.add(w.one(context.Background(), one))
				}
			})
		}
		for _, one := range runs {
			jobs <- one
		}
		close(jobs)
		workers.Wait()
	}
	play() // loads the programs of uplinks, and whatever else waits for the first who needs it
	b.ResetTimer()
	n := 0
	for b.Loop() {
		play()
		n += len(runs)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "scenarios/s")
}

// A part of all runs attaches as a cluster does, among them those that look at it.
func TestAPartOfTheRunsAttachesByTCX(t *testing.T) {
	all, err := Library()
	require.NoError(t, err)
	runs := (&Runner{Worlds: []syntax.World{syntax.Netns}}).runs(all)
	tcx := map[string]bool{}
	for _, r := range runs {
		if r.byTCX() {
			tcx[r.name()] = true
		}
	}
	require.True(t, tcx["kernel-attachment/ipv4"])
	require.Greater(t, len(tcx), len(runs)/16)
	require.Less(t, len(tcx), len(runs)/4)
}
