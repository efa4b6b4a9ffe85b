// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// made is a report of one path whose rounds are so many times BASE, and differ by a
// share at most, as chance has it.
func made(r *rand.Rand, times, apart float64) *Report {
	one := Result{Path: "pod-to-service", Flows: 1}
	for range 31 {
		base := 50 * (1 + apart*(2*r.Float64()-1))
		one.Base, one.Lookup = append(one.Base, base), append(one.Lookup, base)
		one.Full = append(one.Full, 50*times*(1+apart*(2*r.Float64()-1)))
	}
	return &Report{Version: version, Kernel: "6.1", Results: []Result{one}}
}

func TestASlowdownIsToldFromNoise(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		old := made(r, 2, 0.03)
		slower := Compare(old, made(r, 2*1.05, 0.03))
		require.True(t, slower[0].Slower(), "%+v", slower)
		faster := Compare(old, made(r, 2*0.95, 0.03))
		require.True(t, faster[0].Real && !faster[0].Slower(), "%+v", faster)
		same := Compare(old, made(r, 2, 0.03))
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
	require.Regexp(t, `^pod-to-service with 1 flows \(\d\d %\)$`, noise[0])
}

func TestReportsAreReadAsTheyWereWritten(t *testing.T) {
	report := made(rand.New(rand.NewPCG(1, 2)), 2, 0.02)
	text, err := json.Marshal(report)
	require.NoError(t, err)
	again, err := Read(bytes.NewReader(text))
	require.NoError(t, err)
	require.Equal(t, report, again)

	for text, want := range map[string]string{
		`{"version": 7}`: "it is of another version, 7, and this one is 1",
		`{"version": 1, "results": [{"path": "x", "pathNs": [1], "baseNs": []}]}`: "path x has 1 rounds and 0 of BASE",
		`no JSON`: "read a report: invalid character",
	} {
		_, err := Read(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
}

// Each path is opened, answered and repeated; Run fails where the frames of rounds
// are not those of a single run.
func TestEveryPathIsMeasured(t *testing.T) {
	report, err := Run(t.Context(), Options{Flows: []int{1, 300}, Rounds: 2})
	require.NoError(t, err)
	require.Len(t, report.Results, 2*len(paths()))
	for _, r := range report.Results {
		require.Len(t, r.Full, 2, r.Path)
		require.Len(t, r.Base, 2, r.Path)
		require.Len(t, r.Lookup, 2, r.Path)
	}
	var out bytes.Buffer
	require.NoError(t, report.Write(&out))
	for _, p := range Paths() {
		require.Contains(t, out.String(), p.Name)
	}
}

func TestAPathThatIsNotThereIsNotMeasured(t *testing.T) {
	_, err := Run(t.Context(), Options{Paths: []string{"nowhere"}, Flows: []int{1}, Rounds: 2})
	require.ErrorIs(t, err, ErrNoPath)
}
