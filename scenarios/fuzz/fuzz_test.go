// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

func requireRoot(t testing.TB) {
	if os.Getuid() != 0 {
		t.Fatal("loading programs needs root")
	}
}

func TestProgramAndModelAgreeOnAFewSequences(t *testing.T) {
	requireRoot(t)
	tally, disagreements, err := Run(t.Context(), Options{Seed: 1, Sequences: 30, Found: func(r Report) {
		text, err := r.Scenario()
		require.NoError(t, err)
		t.Logf("disagreement:\n%s", text)
	}})
	require.NoError(t, err)
	require.Zero(t, disagreements)
	require.Equal(t, uint64(30), tally.Sequences)
	require.Greater(t, tally.Frames, uint64(20*length))
	for _, reason := range []model.Reason{model.ReasonNone, model.ReasonPolicyIngress, model.ReasonPolicyEgress, model.ReasonNoBackend,
		model.ReasonFragment, model.ReasonSpoofedSource, model.ReasonBadIPLength, model.ReasonARPAnswered, model.ReasonNDPAnswered} {
		require.NotZero(t, tally.met[Outcome{Hook: model.FromContainer, Reason: reason}], "no frame met %q", reason)
	}
}

func TestProgramAndModelAgreeOnAFewSequencesAtUplinks(t *testing.T) {
	requireRoot(t)
	var mu sync.Mutex
	met := map[string]int{}
	watch := func(data []byte, e oracle.Expectation) oracle.Expectation {
		mu.Lock()
		defer mu.Unlock()
		countWays(met, data, e)
		return e
	}
	tally, disagreements, err := Run(t.Context(), Options{Seed: 1, Sequences: 200, Uplinks: true, Doubt: watch, Found: func(r Report) {
		text, err := r.Scenario()
		require.NoError(t, err)
		t.Logf("disagreement:\n%s", text)
	}})
	require.NoError(t, err)
	require.Zero(t, disagreements)
	for hook, reasons := range map[model.Hook][]model.Reason{
		model.FromDevice: {model.ReasonNone, model.ReasonPolicyIngress, model.ReasonNoBackend, model.ReasonNoLocalBackend, model.ReasonSourceRange,
			model.ReasonMartianSource, model.ReasonSpoofedSource, model.ReasonNoSourcePort, model.ReasonTTLExceeded},
		model.ToDevice:      {model.ReasonNone, model.ReasonNoBackend, model.ReasonNoRoute},
		model.FromContainer: {model.ReasonNoSourcePort, model.ReasonNoLocalBackend},
	} {
		for _, reason := range reasons {
			require.NotZero(t, tally.met[Outcome{Hook: hook, Reason: reason}], "no frame met %q at %s", reason, hook)
		}
	}
	for _, way := range []string{"answer to a pod", "error to a pod", "lent to a pod", "lent to an outsider"} {
		require.NotZero(t, met[way], "%s: %v", way, met)
	}
}

// countWays counts what becomes of frames where the node lends its address:
// frames of pods and outsiders that leave with it, and what answers these.
func countWays(met map[string]int, data []byte, e oracle.Expectation) {
	p := frame.Decode(data)
	if e.Action != model.Forward || p.Version == 0 || len(e.Translations) != 1 {
		return
	}
	t := e.Translations[0]
	lent := t.Out == model.OutDevice && (t.Tuple.Src == node4 || t.Tuple.Src == node6) && t.Tuple.Src != p.Src
	back := t.Out == model.OutLocal && (p.Dst == node4 || p.Dst == node6) && t.Tuple.Src == p.Src
	_, quotes := p.Quoted()
	switch {
	case lent && podBlock4.Contains(p.Src) || lent && podBlock6.Contains(p.Src):
		met["lent to a pod"]++
	case lent:
		met["lent to an outsider"]++
	case back && quotes:
		met["error to a pod"]++
	case back && e.Tuple.Dport >= lentFirst:
		met["answer to a pod"]++
	}
}

var (
	podBlock4 = netip.MustParsePrefix(podBlocks(0)[0])
	podBlock6 = netip.MustParsePrefix(podBlocks(0)[1])
)

func TestASeedGivesTheSameFramesAgain(t *testing.T) {
	requireRoot(t)
	play := func(parallel int, uplinks bool) map[uint64]uint64 {
		var mu sync.Mutex
		sums := map[uint64]uint64{}
		_, _, err := Run(t.Context(), Options{Seed: 11, Sequences: 8, Parallel: parallel, Uplinks: uplinks, digest: func(n, sum uint64) {
			mu.Lock()
			defer mu.Unlock()
			sums[n] = sum
		}})
		require.NoError(t, err)
		return sums
	}
	for _, uplinks := range []bool{false, true} {
		first := play(1, uplinks)
		require.Len(t, first, 8)
		require.Equal(t, first, play(2, uplinks), "whoever plays them")
	}
}

// open is a model that believes that one reason stops nobody.
func open(closed model.Reason, out model.Out) Doubt {
	return func(_ []byte, e oracle.Expectation) oracle.Expectation {
		if e.Action == model.Drop && len(e.Reasons) == 1 && e.Reasons[0] == closed {
			e.Action, e.Reasons = model.Forward, nil
			e.Translations = []oracle.Translation{{Out: out}}
		}
		return e
	}
}

func TestAnErrorOfTheModelIsFoundAndShrunkToAScenarioThatFails(t *testing.T) {
	requireRoot(t)
	for name, test := range map[string]struct {
		doubt   Doubt
		uplinks bool
	}{
		"policies at pods":          {open(model.ReasonPolicyIngress, model.OutLocal), false},
		"source ranges at uplinks":  {open(model.ReasonSourceRange, model.OutHost), true},
		"the node's own at uplinks": {open(model.ReasonNoRoute, model.OutDevice), true},
	} {
		t.Run(name, func(t *testing.T) {
			var found []Report
			_, disagreements, err := Run(t.Context(), Options{Seed: 5, Sequences: 300, Parallel: 1, Doubt: test.doubt, Uplinks: test.uplinks,
				MaxKinds: 1, patience: time.Hour, Found: func(r Report) { found = append(found, r) }})
			require.NoError(t, err)
			require.NotZero(t, disagreements)
			require.NotEmpty(t, found)
			text, err := found[0].Scenario()
			require.NoError(t, err)
			require.LessOrEqual(t, len(found[0].Case.Steps), 4, "some objects and a frame are enough:\n%s", text)
			requireFails(t, text)
		})
	}
}

// requireFails runs a scenario, in which the programs do not do what a model
// with an error wanted.
func requireFails(t *testing.T, text []byte) { requireFailsAs(t, text, model.Forward) }

// requireFailsAs is requireFails for a model that wanted something else.
func requireFailsAs(t *testing.T, text []byte, wanted model.Action) {
	path := filepath.Join(t.TempDir(), "found.txtar")
	_, err := syntax.Parse(path, text)
	require.NoError(t, err, "%s", text)
	s, err := scenarios.Parse(path, text)
	require.NoError(t, err)
	results, err := (&scenarios.Runner{Worlds: []syntax.World{syntax.Prog}}).Run(t.Context(), []*scenarios.Scenario{s})
	require.NoError(t, err)
	require.Len(t, results, 1)
	require.Equal(t, scenarios.Fail, results[0].Outcome, "%s\n%s", results[0].Reason, text)
	require.Contains(t, results[0].Reason, "verdict "+string(wanted))
}

func TestAFrameIsDescribedByLayersThatBuildIt(t *testing.T) {
	addr := func(s string) frame.Value { return frame.Addr(netip.MustParseAddr(s)) }
	mac := frame.MAC([]byte{2, 0, 0, 0, 0, 1})
	eth := layer("eth", "src", mac, "dst", mac)
	for name, layers := range map[string][]frame.Layer{
		"tcp":      {eth, layer("ipv4", "src", addr("10.0.0.1"), "dst", addr("10.0.0.2")), layer("tcp", "sport", frame.Num(1), "dport", frame.Num(2))},
		"udp":      {eth, layer("ipv6", "src", addr("fd00::1"), "dst", addr("fd00::2")), layer("udp", "sport", frame.Num(1), "dport", frame.Num(2)), layer("payload", "size", frame.Num(9))},
		"padding":  {eth, layer("ipv4", "src", addr("10.0.0.1"), "dst", addr("10.0.0.2")), layer("udp"), layer("pad", "size", frame.Num(3))},
		"checksum": {eth, layer("ipv4", "src", addr("10.0.0.1"), "dst", addr("10.0.0.2"), "checksum", frame.Num(7)), layer("udp")},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := frame.Build(layers...)
			require.NoError(t, err)
			described, ok := describe(data)
			require.True(t, ok)
			require.Len(t, described, len(layers))
			again, err := frame.Build(described...)
			require.NoError(t, err)
			require.Equal(t, data, again)
		})
	}
}

func TestCapturesAreReadAndFilesThatAreNoneLeftOut(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadCaptures(dir)
	require.ErrorIs(t, err, ErrNoCapture)

	var file bytes.Buffer
	w, err := pcap.NewWriter(&file)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	data := bytes.Repeat([]byte{7}, 60)
	require.NoError(t, w.Write(pcap.Packet{Interface: n, Data: data}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "one.pcapng"), file.Bytes(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "none.pcap"), []byte("not a capture"), 0o600))
	frames, err := ReadCaptures(dir)
	require.NoError(t, err)
	require.Equal(t, [][]byte{data}, frames)
}

// FuzzMutate: no frame makes the mutations, the shrinking or the descriptions
// panic.
func FuzzMutate(f *testing.F) {
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), bytes.Repeat([]byte{0x45}, 80))
	f.Add(uint64(3), append(bytes.Repeat([]byte{2}, 12), append([]byte{0x86, 0xdd, 0x60}, bytes.Repeat([]byte{0}, 60)...)...))
	f.Add(uint64(4), append(bytes.Repeat([]byte{2}, 12), append([]byte{0x08, 0, 0x45, 0, 0, 40}, bytes.Repeat([]byte{1}, 60)...)...))
	around := append(append([]netip.Addr{}, outsiders...), gateways...)
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		m := mutator{rng: rand.New(rand.NewPCG(seed, 0)), captured: [][]byte{bytes.Repeat([]byte{9}, 50)}}
		before := bytes.Clone(data)
		for range 20 {
			out := m.mutate(data, around)
			require.Equal(t, before, data, "the frame that is changed stays")
			describe(out)
			for _, simpler := range []func([]byte) [][]byte{payloadless, plainer, shorter} {
				for _, one := range simpler(out) {
					require.LessOrEqual(t, len(one), len(out))
				}
			}
			if len(out) > 0 && len(out) < 2000 {
				data, before = out, bytes.Clone(out)
			}
		}
	})
}

// BenchmarkFrames measures frames a second on one worker.
func BenchmarkFrames(b *testing.B) {
	requireRoot(b)
	var frames uint64
	for b.Loop() {
		tally, _, err := Run(b.Context(), Options{Seed: 1, Parallel: 1, Sequences: 60})
		require.NoError(b, err)
		frames += tally.Frames
	}
	b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
}

func TestAGuidedSeedGivesTheSameFramesAgain(t *testing.T) {
	requireRoot(t)
	play := func(parallel int) (map[uint64]uint64, Tally) {
		var mu sync.Mutex
		sums := map[uint64]uint64{}
		tally, disagreements, err := Run(t.Context(), Options{Seed: 11, Sequences: 2*generation + 8, Parallel: parallel, Guided: true, Uplinks: true,
			digest: func(n, sum uint64) {
				mu.Lock()
				defer mu.Unlock()
				sums[n] = sum
			}})
		require.NoError(t, err)
		require.Zero(t, disagreements)
		return sums, tally
	}
	first, tally := play(1)
	require.Len(t, first, 2*generation+8)
	require.Positive(t, tally.Kept)
	require.Positive(t, tally.Reached)
	second, again := play(2)
	require.Equal(t, first, second, "whoever plays them")
	require.Equal(t, tally.Kept, again.Kept)
}
