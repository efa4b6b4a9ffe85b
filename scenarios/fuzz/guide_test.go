// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	source "github.com/weirnet/weir/bpf/blocks"
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

// seldom are lines that a frame in ten thousand or fewer reaches, as
// BenchmarkPlantedErrors found them: refusals. The errors that are planted leave out
// what leads there. Each is the line before, and the line.
var seldom = []reach.Excuse{
	{File: "lib/packet.h", Before: "if (pkt->key.family == FAMILY_IPV6 && !udp->check)", Text: "return REFUSE(pkt, REASON_BAD_UDP_CHECKSUM);"},
	{File: "lib/packet.h", Before: "if (len < sizeof(*udp) || (len > pkt->l4_len && !pkt->fragment))", Text: "return REFUSE(pkt, REASON_BAD_UDP_LENGTH);"},
	{File: "lib/pod.h", Before: "if (ttl_spent(pkt, &s->open))", Text: "return REFUSE(pkt, REASON_TTL_EXCEEDED);"},
	{File: "lib/pod.h", Before: "linklocal(&pkt->key.src, pkt->key.family)))", Text: "return REFUSE(pkt, REASON_MARTIAN_SOURCE);"},
	{File: "lib/pod.h", Before: "if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))", Text: "return REFUSE(pkt, REASON_NO_ENDPOINT);"},
	{File: "lib/pod.h", Before: "if (pkt->key.hook == HOOK_FROM_CONTAINER && !addr_equal(own, &pkt->key.src))", Text: "return REFUSE(pkt, REASON_SPOOFED_SOURCE);"},
	{File: "lib/pod.h", Before: "if (pkt->key.hook == HOOK_TO_CONTAINER && !addr_equal(own, &flow->dst))", Text: "return REFUSE(pkt, REASON_NOT_FOR_ENDPOINT);"},
	{File: "lib/uplink.h", Before: "if (ttl_spent(pkt, &s->open))", Text: "return REFUSE(pkt, REASON_TTL_EXCEEDED);"},
	{File: "lib/uplink.h", Before: "if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))", Text: "return REFUSE(pkt, REASON_NO_ENDPOINT);"},
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
	}
}

// BenchmarkPlantedErrors measures how many of the errors that are planted where
// few frames come are found in a minute, with a guide and without one, in turn.
func BenchmarkPlantedErrors(b *testing.B) {
	requireRoot(b)
	const patience = 12 * time.Second
	names := map[bool]string{true: "guided", false: "blind"}
	found, frames, took := map[bool]int{}, map[bool]uint64{}, map[bool]time.Duration{}
	for b.Loop() {
		for _, at := range seldom {
			for seed := uint64(1); seed <= 3; seed++ {
				for guided, name := range names {
					one, after, n := search1(b, at, seed, guided, patience)
					took[guided] += after
					frames[guided] += n
					if one {
						found[guided]++
					}
					b.Logf("%s, seed %d, %s: found %t after %s, %d frames", at, seed, name, one, after.Round(time.Millisecond), n)
				}
			}
		}
	}
	for guided, name := range names {
		b.ReportMetric(float64(found[guided]), name+"-found")
		b.ReportMetric(float64(found[guided])/took[guided].Minutes(), name+"/min")
		b.ReportMetric(float64(found[guided])/float64(frames[guided])*1e6, name+"/Mframes")
	}
}

// search1 looks for one error, and says after what time it was found. What it
// takes to load the programs does not count.
func search1(b *testing.B, at reach.Excuse, seed uint64, guided bool, patience time.Duration) (found bool, after time.Duration, frames uint64) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var begin time.Time
	changed := 0
	plant := leaveOut(at, &changed)
	tally, _, err := Run(ctx, Options{Seed: seed, Time: patience, Parallel: 1, Uplinks: true, Guided: guided, MaxKinds: 1,
		Edit: func(spec *ebpf.CollectionSpec) error { begin = time.Now(); return plant(spec) },
		seen: func(*Finding) { found, after = true, time.Since(begin); cancel() },
	})
	if ctx.Err() == nil {
		require.NoError(b, err)
	}
	require.Positive(b, changed, "%s has no check to leave out", at)
	if !found {
		after = time.Since(begin)
	}
	return found, after, tally.Frames
}
