// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/bpf/cover"
)

// excused are lines of the programs that may run on one kernel and not on another,
// where a scenario does the same otherwise, each with its reason. All others tell
// kernels apart.
var excused = []struct{ file, text, reason string }{
	{
		"lib/clock.h", "__u64 ns = coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();",
		"Kernels before 5.11 have no coarse clock. Both clocks tell nanoseconds since the boot.",
	},
	{
		"container.bpf.c", "pkt->transit = hook == HOOK_TO_CONTAINER && ctx_ingress_ifindex(ctx);",
		"Before 5.11 BPF_PROG_TEST_RUN tells no program by which device a frame came in. Real packets tell it on all kernels.",
	},
	{
		"lib/conntrack.h", "if (is_hook(hook, HOOK_TO_CONTAINER) && pkt->transit && (flow->flags & FLOW_HERE) &&",
		"The same.",
	},
	{
		"lib/packet.h", "if (ctx_data(ctx) + HEADERS > ctx_data_end(ctx) &&",
		"Since 6.19 BPF_PROG_TEST_RUN takes frames in pieces, and world prog gives it such. Real packets lie in pieces on all kernels, as devices and sockets make them.",
	},
	{"lib/packet.h", "pull_headers(ctx);", "The same."},
	{"lib/packet.h", "ctx_pull(ctx, ctx_len(ctx) < HEADERS ? ctx_len(ctx) : HEADERS);", "The same."},
	{"lib/packet.h", "if (ctx_data(ctx) + len <= ctx_data_end(ctx))", "The same."},
	{"lib/packet.h", "return ctx_pull(ctx, len);", "The same."},
}

// excuses are the counters of the lines above, by the name of the object.
type excuses map[string]map[int]bool

func newExcuses() (excuses, error) {
	e := excuses{}
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadContainer, bpf.LoadHost} {
		spec, err := load()
		if err != nil {
			return nil, fmt.Errorf("read the embedded objects: %w", err)
		}
		shape, err := cover.ShapeOf(spec)
		if err != nil {
			return nil, err
		}
		e[shape.Name] = map[int]bool{}
		for _, counter := range shape.Of(isExcused) {
			e[shape.Name][counter] = true
		}
	}
	return e, nil
}

func isExcused(at blocks.Place) bool {
	for _, line := range excused {
		if at.File == line.file && strings.TrimSpace(at.Text) == line.text {
			return true
		}
	}
	return false
}
