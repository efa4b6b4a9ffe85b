// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

// made is a report of one path whose rounds are so many times BASE over BASE, and
// differ by a share at most, as chance has it.
func made(r *rand.Rand, times, apart float64) *Report {
	one := Result{Path: "pod-to-service", Family: IPv4, Flows: 1}
	for range 31 {
		base := 50 * (1 + apart*(2*r.Float64()-1))
		one.Base, one.Lookup = append(one.Base, base), append(one.Lookup, base)
		one.Full = append(one.Full, 50*(1+times*(1+apart*(2*r.Float64()-1))))
	}
	return &Report{Version: version, Kernel: "6.1", Results: []Result{one}}
}

func TestASlowdownIsToldFromNoise(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		old := made(r, 2, 0.02)
		slower := Compare(old, made(r, 2*1.05, 0.02))
		require.True(t, slower[0].Slower(), "%+v", slower)
		faster := Compare(old, made(r, 2*0.95, 0.02))
		require.True(t, faster[0].Real && !faster[0].Slower(), "%+v", faster)
		same := Compare(old, made(r, 2, 0.02))
		require.False(t, same[0].Real, "%+v", same)
		// What is small is none, however surely it is there.
		small := Compare(made(r, 2, 0.0001), made(r, 2.02, 0.0001))
		require.Less(t, small[0].P, alpha)
		require.False(t, small[0].Real)
	}
}

func TestOnlyWhatBothReportsHaveIsCompared(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	other := made(r, 2, 0.01)
	other.Results[0].Flows = 256
	require.Empty(t, Compare(other, made(r, 2, 0.01)))
}

func TestANoisyMachineIsTold(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	require.Empty(t, made(r, 2, 0.02).Noise())
	noise := made(r, 2, 0.5).Noise()
	require.Len(t, noise, 1)
	require.Regexp(t, `^pod-to-service/ipv4 with 1 flows \(\d of 31 rounds are quiet\)$`, noise[0])
	apart := made(r, 2, 0.015)
	for i := range apart.Results[0].Full {
		apart.Results[0].Full[i] *= 1 + float64(i%2)/4
	}
	require.Regexp(t, `^pod-to-service/ipv4 with 1 flows \(\d\d %\)$`, apart.Noise()[0])
	c := Compare(apart, made(r, 4, 0.015))[0]
	require.True(t, c.Noisy && !c.Real, "%+v", c)
}

// A round in which a neighbour has had a part of the CPU does not count: all is slower
// then, but not by the same.
func TestRoundsThatAreNotQuietDoNotCount(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	old, now := made(r, 2, 0.01), made(r, 2, 0.01)
	one := &now.Results[0]
	for i := range one.Base {
		if i > 7 {
			one.Base[i], one.Full[i] = one.Base[i]*1.2, one.Full[i]*1.4
		}
	}
	require.False(t, Compare(old, now)[0].Real)
	require.Len(t, one.Over(), 8)

	// Of one machine the faster BASE of the two reports counts.
	for i := range one.Base {
		one.Base[i], one.Full[i] = one.Base[i]*1.2, one.Full[i]*1.4
	}
	require.False(t, Compare(old, now)[0].Noisy && Compare(old, now)[0].Real)
	now.Machine = "another"
	require.True(t, Compare(old, now)[0].Real)
}

func TestReportsAreReadAsTheyWereWritten(t *testing.T) {
	report := made(rand.New(rand.NewPCG(1, 2)), 2, 0.02)
	text, err := json.Marshal(report)
	require.NoError(t, err)
	again, err := Read(bytes.NewReader(text))
	require.NoError(t, err)
	require.Equal(t, report, again)

	for text, want := range map[string]string{
		`{"version": 7}`: "no report that can be read: of another version, 7, and this one is 2",
		`{"version": 2, "results": [{"path": "x", "pathNs": [1], "baseNs": []}]}`: "path x has 1 rounds and 0 of BASE",
		`no JSON`: "no report that can be read: invalid character",
	} {
		_, err := Read(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
}

// Each path is opened, answered and repeated in both families; Run fails where frames
// of rounds are not those of a single run, or no flow is known.
func TestEveryPathIsMeasured(t *testing.T) {
	report, err := Run(t.Context(), Options{Flows: []int{1, 300}, Rounds: 1})
	require.NoError(t, err)
	opening := 0
	for i := range paths() {
		if paths()[i].opens {
			opening++
		}
	}
	require.Len(t, report.Results, 2*(2*len(paths())-opening))
	for _, r := range report.Results {
		require.NotEmpty(t, r.Full, r.Path)
		require.Len(t, r.Base, len(r.Full), r.Path)
		if strings.HasPrefix(r.Path, "new-flow") || r.Path == "refused" {
			require.Empty(t, r.Lookup, r.Path)
		} else {
			require.Len(t, r.Lookup, len(r.Full), r.Path)
		}
	}
	var out bytes.Buffer
	require.NoError(t, report.Write(&out))
	for _, p := range Paths() {
		require.Contains(t, out.String(), p.Name)
	}
}

// What the bench said of a pod's flows to another pod was of translated ones once: the
// pod had the same flows to a service before.
func TestAPathWhosePacketsBecomeOthersIsRefused(t *testing.T) {
	pool, err := prog.NewPool(1, roomFor(nil))
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Use(t.Context(), topology(), func(w *prog.World) {
		st, err := state(w, topology())
		require.NoError(t, err)
		require.NoError(t, apply(t.Context(), w, st))
		s := &site{w: w, d: w.Datapath("")}
		p := paths()[0]
		_, err = s.open(&p, IPv4, 1)
		require.NoError(t, err)
		same := paths()[2]
		same.port = firstTargetPort
		_, err = s.open(&same, IPv4, 1)
		require.ErrorContains(t, err, "path pod-to-pod: its packets are to be translated: false, and this is not so")
		same.out = model.OutDevice
		_, err = s.open(&same, IPv4, 1)
		require.ErrorContains(t, err, "its packets are to leave by 'device'")
	}))
}

func TestAGoalOfManyFlowsIsOfOneAndABareLookup(t *testing.T) {
	result := func(flows int, full, lookup float64) Result {
		return Result{Path: "pod-to-pod", Family: IPv6, Flows: flows, Base: []float64{50}, Full: []float64{full}, Lookup: []float64{lookup}}
	}
	r := Report{Results: []Result{result(1, 150, 80), result(256, 160, 80), result(1<<16, 500, 300)}}
	require.InDelta(t, 1.2, r.goal(0), 1e-9)
	require.Zero(t, r.goal(1))
	require.InDelta(t, 1.1*(2+5), r.goal(2), 1e-9)
	r.Results = r.Results[2:]
	require.Zero(t, r.goal(0), "nobody has measured one flow")
}

func TestAPathThatIsNotThereIsNotMeasured(t *testing.T) {
	_, err := Run(t.Context(), Options{Paths: []string{"nowhere"}, Flows: []int{1}, Rounds: 2})
	require.ErrorIs(t, err, ErrNoPath)
}
