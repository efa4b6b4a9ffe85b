// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	source "github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/model/oracle"
	"github.com/weirnet/weir/scenarios/reach"
)

func TestACaseThatIsKeptHasItsLastFramesAndAllElse(t *testing.T) {
	c := &Case{Pods: []string{"default/p0"}}
	for i := range 3 * recall {
		if i%10 == 0 {
			c.Steps = append(c.Steps, Step{Advance: time.Duration(i + 1)})
		}
		c.Steps = append(c.Steps, Step{Frame: &Frame{Data: []byte{byte(i)}}})
	}
	short := c.shortened()
	require.Equal(t, c.Pods, short.Pods)
	var frames, others int
	for _, s := range short.Steps {
		if s.Frame != nil {
			frames++
		} else {
			others++
		}
	}
	require.Equal(t, recall, frames)
	require.Equal(t, 20, others)
	require.Equal(t, c.Steps[len(c.Steps)-1], short.Steps[len(short.Steps)-1])
	require.Equal(t, c.Steps[0], short.Steps[0])
	require.Len(t, c.Steps, 3*recall+20, "the case itself stays")
}

// seldom are lines that a frame in twenty thousand or fewer reaches, as weir fuzz
// --uplinks --cover counts them: refusals. The errors that are
// planted leave out what leads there. Each is the line before, and the line.
var seldom = []reach.Excuse{
	{File: "lib/packet.h", Before: "if (pkt->key.family == FAMILY_IPV6 && !udp->check)", Text: "return REFUSE(pkt, REASON_BAD_UDP_CHECKSUM);"},
	{File: "lib/packet.h", Before: "if (pkt->fragment)", Text: "return REFUSE(pkt, REASON_FRAGMENT);"},
	{File: "lib/icmp_error.h", Before: "if (pkt->fragment)", Text: "return REFUSE(pkt, REASON_FRAGMENT);"},
	{File: "lib/pod.h", Before: "if (at(pkt, HOOK_TO_CONTAINER) && !addr_equal(own, &flow->dst))", Text: "return REFUSE(pkt, REASON_NOT_FOR_ENDPOINT);"},
	{File: "lib/uplink.h", Before: "if (ttl_exceeded(pkt, &s->open))", Text: "return REFUSE(pkt, REASON_TTL_EXCEEDED);"},
	{File: "lib/uplink.h", Before: "if (service && tunnel_forged_by_client(pkt, &s->open))", Text: "return REFUSE(pkt, REASON_BAD_TUNNEL);"},
	{File: "host.bpf.c", Before: "if (pkt->stray)", Text: "return drop(ctx, pkt, pkt->stray);"},
}

// leaveOut takes out the check that leads to a line: it is never reached. What
// is left asks whether there is a stack, since the kernel takes no program with
// instructions that nothing leads to.
func leaveOut(at reach.Excuse, changed *int) func(*ebpf.CollectionSpec) error {
	lines := at.Lines()
	return func(spec *ebpf.CollectionSpec) error {
		if len(lines) != 1 {
			return fmt.Errorf("plant an error at %s: it is %d lines", at, len(lines))
		}
		object, err := source.Of(spec)
		if err != nil {
			return err
		}
		for _, p := range object.Programs {
			of := func(n int) bool {
				b := p.Blocks[n]
				for i := b.First; i < b.End; i++ {
					if p.Places[i].File == at.File && p.Places[i].Line == lines[0] && p.Instructions[i].Source() != nil {
						return true
					}
				}
				return false
			}
			for n, b := range p.Blocks {
				jump := &p.Instructions[b.End-1]
				switch {
				case !b.Branches() || of(n):
				case of(b.Taken) && !of(b.Next): // goes on
					jump.OpCode, jump.Dst, jump.Src, jump.Constant = asm.JEq.Imm(asm.RFP, 0, "").OpCode, asm.RFP, 0, 0
					*changed++
				case of(b.Next) && !of(b.Taken): // always jumps
					jump.OpCode, jump.Dst, jump.Src, jump.Constant = asm.JNE.Imm(asm.RFP, 0, "").OpCode, asm.RFP, 0, 0
					*changed++
				}
			}
		}
		return nil
	}
}

func TestLinesThatErrorsArePlantedInAreThere(t *testing.T) {
	for _, at := range seldom {
		require.Len(t, at.Lines(), 1, "%s", at)
		changed := 0
		for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadContainer, bpf.LoadHost} {
			spec, err := load()
			require.NoError(t, err)
			require.NoError(t, leaveOut(at, &changed)(spec))
		}
		assert.Positive(t, changed, "%s has no check to leave out", at)
	}
}

// BenchmarkPlantedErrors measures how many of the errors that are planted where
// few frames come are found in a minute of a CPU, with a guide and without one,
// in turn, with a seed each time: -benchtime 2x and more is for a decision. What it
// takes to load the programs does not count.
func BenchmarkPlantedErrors(b *testing.B) {
	requireRoot(b)
	names := map[bool]string{true: "guided", false: "blind"}
	sums := map[bool]*hunt{true: {}, false: {}}
	for seed := uint64(1); b.Loop(); seed++ {
		known := unplanted(b, seed, false)
		maps.Copy(known, unplanted(b, seed, true))
		b.Logf("seed %d: without an error: %v", seed, slices.Collect(maps.Keys(known)))
		for _, at := range seldom {
			for guided, name := range names {
				one := search1(b, at, seed, guided, known)
				b.Logf("%s, seed %d, %s: found %d in %d frames, %s", at, seed, name, one.found, one.frames, one.took.Round(time.Millisecond))
				sums[guided].found += one.found
				sums[guided].frames += one.frames
				sums[guided].took += one.took
			}
		}
	}
	for guided, name := range names {
		sum := sums[guided]
		b.ReportMetric(float64(sum.found), name+"-found")
		b.ReportMetric(float64(sum.found)/sum.took.Minutes(), name+"-found/min")
		b.ReportMetric(float64(sum.frames)/sum.took.Seconds(), name+"-frames/s")
	}
}

// BenchmarkReached measures how many blocks and branches so many frames reach, with a
// guide, and where each sequence is made anew, with a seed each time: -benchtime 3x is for
// a decision. What depends on how fast the machine is
// counts as reached in both.
func BenchmarkReached(b *testing.B) {
	requireRoot(b)
	for name, anew := range map[string]bool{"guided": false, "blind": true} {
		b.Run(name, func(b *testing.B) {
			var reached, frames int
			var took time.Duration
			for seed := uint64(1); b.Loop(); seed++ {
				one := hunted(b, Options{Seed: seed, Guided: true, anew: anew}, func(*Finding) bool { return false })
				b.Logf("seed %d: %d reached in %d frames, %s", seed, one.reached, one.frames, one.took.Round(time.Millisecond))
				reached, frames, took = reached+one.reached, frames+one.frames, took+one.took
			}
			b.ReportMetric(float64(reached)/float64(b.N), "reached")
			b.ReportMetric(float64(frames)/took.Seconds(), "frames/s")
		})
	}
}

// hunt is a search for one error, or many of them.
type hunt struct {
	found, frames int
	reached       int           // blocks and branches, where they are counted
	took          time.Duration // of a CPU
}

// Frames that a search has before its time counts, when all programs are loaded,
// and after which it is given up.
const (
	warm    = 3000
	longest = 120_000
)

// unplanted gives the kinds of what is found without an error.
func unplanted(b *testing.B, seed uint64, guided bool) map[string]bool {
	kinds := map[string]bool{}
	hunted(b, Options{Seed: seed, Guided: guided}, func(f *Finding) bool { kinds[f.Kind] = true; return false })
	return kinds
}

// search1 looks for one error. What is found without it as well does not count.
func search1(b *testing.B, at reach.Excuse, seed uint64, guided bool, known map[string]bool) hunt {
	changed := 0
	h := hunted(b, Options{Seed: seed, Guided: guided, Edit: leaveOut(at, &changed)}, func(f *Finding) bool { return !known[f.Kind] })
	require.Positive(b, changed, "%s has no check to leave out", at)
	return h
}

// hunted searches until something is found that counts.
func hunted(b *testing.B, o Options, counts func(*Finding) bool) hunt {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var h hunt
	var begin time.Duration
	o.Parallel, o.Uplinks, o.MaxKinds = 1, true, 100
	o.Doubt = func(_ []byte, e oracle.Expectation) oracle.Expectation {
		switch h.frames++; h.frames {
		case warm:
			begin = usedCPU()
		case longest:
			cancel()
		}
		return e
	}
	o.seen = func(f *Finding) {
		if counts(f) {
			h.found++
			cancel()
		}
	}
	tally, _, err := Run(ctx, o)
	h.reached = tally.Reached
	if ctx.Err() == nil {
		require.NoError(b, err)
	}
	if h.frames >= warm {
		h.took = usedCPU() - begin
	}
	return h
}

// usedCPU is what this process has used of CPUs.
func usedCPU() time.Duration {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
