// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/scenarios"
)

// frameHooks are the programs that world prog passes frames through.
var frameHooks = []string{
	bpf.ContainerProgFromContainer, bpf.ContainerProgToContainer, bpf.HostProgFromDevice, bpf.HostProgToDevice,
}

// inProg measures what scenarios in prog notice of some mutants.
func inProg(t *testing.T, which string, only func(*mutant.Mutant) bool) *Report {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and loads BPF programs")
	}
	objects, err := Embedded()
	require.NoError(t, err)
	all, err := scenarios.Library()
	require.NoError(t, err)
	named := regexp.MustCompile(which)
	all = slices.DeleteFunc(all, func(s *scenarios.Scenario) bool { return !named.MatchString(s.Name) })
	report, err := Run(t.Context(), Options{
		Objects: objects, Scenarios: all, Only: only, Without: []string{ByFuzz, ByNetns, BySocket},
	})
	require.NoError(t, err)
	return report
}

// What drop returns is what the kernel obeys; what it notes only tells of it.
func TestADropThatLetsThePacketPassIsNoticed(t *testing.T) {
	report := inProg(t, "", func(m *mutant.Mutant) bool {
		// What drop returns is put where it belongs behind the call of tell, on whose
		// line it is.
		return strings.HasSuffix(m.ID, "-pass") && m.File == "lib/verdict.h" &&
			m.Text == "emit_event(ctx_len(ctx), EVENT_DROP, VERDICT_DROP, reason);" && (m.Before == "r0 = 2" || m.Before == "w0 = 2")
	})
	noticed := map[string]int{}
	for _, r := range report.Results {
		if r.Outcome == NotExecuted {
			continue
		}
		require.Equal(t, Killed, r.Outcome, "%s of %s; %s", r.ID, r.Object, r.reachedBy())
		for _, p := range r.Programs {
			noticed[p]++
		}
	}
	for _, p := range frameHooks {
		require.Positive(t, noticed[p], p)
	}
}

func TestOneErrorOfEachKindInEachProgramIsNoticed(t *testing.T) {
	lines := map[mutant.Kind][]string{
		mutant.Round:     {"if (routes(hook, flow) && pkt->ttl <= 1)"},
		mutant.Always:    {"if (!s || !ctl)"},
		mutant.Never:     {"if (routes(hook, flow) && pkt->ttl <= 1)"},
		mutant.Bound:     {"if (doff < sizeof(*tcp) || doff > pkt->l4_len)"},
		mutant.Immediate: {"return state == BACKEND_SERVING ||"},
		mutant.Swap:      {"len = bpf_ntohs(ip->tot_len);"},
		mutant.Store:     {"pkt->key.dport = udp->dest;"},
		mutant.Call:      {"s = bpf_map_lookup_elem(&scratch, &zero);"},
		mutant.Arguments: {
			"reason = route(ctx, pkt, flow);", "return ctx_l4_csum_replace(ctx, check, 0, diff, 0);",
			"return ctx_redirect(ctx, pkt->out_ifindex, 0);", "return ctx_redirect_peer(ctx, pkt->out_ifindex);",
		},
		mutant.Confused: {"pkt->key.sport = udp->source;"},
	}
	report := inProg(t, "^(service-|nodeport|ttl|flow-known|udp|icmp-error)", func(m *mutant.Mutant) bool { return slices.Contains(lines[m.Kind], m.Text) })
	for _, kind := range mutant.Kinds() {
		for _, program := range frameHooks {
			assert.True(t, slices.ContainsFunc(report.Results, func(r Result) bool {
				return r.Kind == kind && slices.Contains(r.Programs, program) && r.Outcome == Killed && r.By == ByProg
			}), "%s in %s, at %s", kind, program, lines[kind])
		}
	}
}

// What packets leave in the entries of their flow decides about those that come
// later, if any come.
func TestAFieldThatIsLeftOutOfAFlowsEntryIsNoticed(t *testing.T) {
	lines := []string{
		"flow->seen |= seen;",
		"flow->sent = pkt->seq;",
		"flow->acked = pkt->ack;",
		"flow->last_seen = pkt->now;",
		"reply->last_seen = pkt->now;",
		"flow->epoch = pkt->epoch;",
		"reply->epoch = pkt->epoch;",
		"old->epoch = s->open.epoch;",
		"flow->flags |= FLOW_ANSWERED;",
		"flow->flags |= FLOW_TRANSLATED;",
		"reply->flags = FLOW_REPLY | (s->open.flags & FLOW_HAIRPIN);",
		"s->open.flags |= FLOW_SOURCE;",
		"flow->addr_diff = diff;",
		"flow->out = OUT_LOCAL;",
		"flow->ifindex = ifindex;",
		"flow->routed = pkt->now;",
		"reply->other_ifindex = pkt->key.ifindex;",
		"reply->service = s->open.service;",
		"s->open.origin = pkt->origin;",
		"__builtin_memcpy(flow->dmac, ep->pod_mac, sizeof(flow->dmac));",
	}
	report := inProg(t, "^(flow-|pod-to-pod$|pod-to-outside$|pod-to-itself$|masquerade-frames|nodeport-frames|service-tcp|policy-origin|pod-removed)", func(m *mutant.Mutant) bool {
		return m.Kind == mutant.Store && slices.Contains(lines, m.Text)
	})
	for _, line := range lines {
		assert.True(t, slices.ContainsFunc(report.Results, func(r Result) bool {
			return r.Text == line && r.Outcome == Killed && r.By == ByProg
		}), line)
	}
}
