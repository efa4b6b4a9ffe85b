// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// leaves has the client open a connection to web-0, which leaves entries, and
// gives what is wrong with them.
func (b *bench) leaves(entries table) []string { return b.leavesBy(Said{}, entries) }

func (b *bench) leavesBy(said Said, entries table) []string {
	b.sees(table{})
	look := b.oracle.Look(ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(1, 8080, flagSYN)), atClient, b.now)
	e := look.Judge(Missed)
	require.NoError(b, e.Check(Outcome{Action: model.Forward, Tuple: direct, Out: model.OutLocal}))
	b.oracle.Observe(e, direct, b.now)
	b.sees(entries)
	return look.Left(said)
}

// Whose rule a packet is said to be judged by is one whose policy was asked.
func TestTheRuleThatIsNamedWasAsked(t *testing.T) {
	for policy, wrong := range map[model.PolicyRef]bool{{}: true, {Kind: "NetworkPolicy", Namespace: "default", Name: "open"}: false, {Kind: "NetworkPolicy", Namespace: "default", Name: "shut"}: true} {
		b := newBench(t)
		b.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}
`)
		said := b.leavesBy(Said{Origin: model.Origin{Policy: policy}}, table{})
		if wrong {
			require.Contains(t, said, fmt.Sprintf("the packet is said to be judged by %q, and was by others", model.Origin{Policy: policy}))
		} else {
			require.NotContains(t, strings.Join(said, ""), "judged by")
		}
	}
}

func TestEachFieldOfWhatAPacketLeavesIsCompared(t *testing.T) {
	b := newBench(t)
	device := func(pod string) (ifindex int, mac, podMAC [6]byte) {
		d := b.oracle.local.Devices[model.ParseKey(pod)]
		return d.Ifindex, hardware(d.MAC), hardware(d.PodMAC)
	}
	there := Entry{Leaves: direct, Other: atWeb, Out: model.OutLocal, Current: true, Seen: uint8(flagSYN)}
	there.Sent.Known = true
	there.Ifindex, there.SMAC, there.DMAC = device(web0)
	back := Entry{Reply: true, Leaves: direct.Reversed(), Other: atClient, Out: model.OutLocal, Current: true}
	back.Ifindex, back.SMAC, back.DMAC = device(client)

	tests := []struct {
		name  string
		wrong string
		spoil func(there, back *Entry)
	}{
		{"nothing", "", func(_, _ *Entry) {}},
		{"flags that were not shown", "has seen the flags 18", func(e, _ *Entry) { e.Seen |= uint8(flagACK) }},
		{"another number", "has the number", func(e, _ *Entry) { e.Sent.Value++ }},
		{"something acknowledged", "has acknowledged the number", func(e, _ *Entry) { e.Acked.Known = true }},
		{"answers that have numbers", "the entry of answers has the number", func(_, e *Entry) { e.Sent.Known = true }},
		{"answers that acknowledge", "the entry of answers has acknowledged", func(_, e *Entry) { e.Acked.Known = true }},
		{"an answer that nobody gave", "has been answered true", func(e, _ *Entry) { e.Answered = true }},
		{"another way out", "has the way out host", func(e, _ *Entry) { e.Out = model.OutHost }},
		{"another device", "has the device", func(e, _ *Entry) { e.Ifindex++ }},
		{"another source MAC", "has the source MAC", func(e, _ *Entry) { e.SMAC[5]++ }},
		{"another destination MAC", "has the destination MAC", func(e, _ *Entry) { e.DMAC[0]++ }},
		{"a translation", "has a translation true", func(e, _ *Entry) { e.Translated = true }},
		{"a hairpin", "has a hairpin true", func(e, _ *Entry) { e.Hairpin = true }},
		{"a port", "has a source port of its own true", func(e, _ *Entry) { e.Source = true }},
		{"a difference of addresses", "has a difference of addresses 1", func(e, _ *Entry) { e.AddrDiff = 1 }},
		{"a difference of ports", "has a difference of ports 1", func(e, _ *Entry) { e.PortDiff = 1 }},
		{"objects that hold no longer", "has been judged under the present objects false", func(e, _ *Entry) { e.Current = false }},
		{"a service", `of the service "default/web:80"`, func(e, _ *Entry) { e.Service = model.PortRef{Namespace: "default", Name: "web", Port: "80"} }},
		{"a rule", "has the origin", func(e, _ *Entry) { e.Origin.Policy.Name = "deny" }},
		{"another half", "the flow's entry leads to", func(e, _ *Entry) { e.Other = atClient }},
		{"answers that have shown flags", "the entry of answers has seen the flags 2", func(_, e *Entry) { e.Seen = uint8(flagSYN) }},
		{"answers of another flow", "the entry of answers leads to", func(_, e *Entry) { e.Leaves.Dport++ }},
		{"answers that are dead", "the entry of answers leads to", func(_, e *Entry) { e.Dead = true }},
		{"answers to another device", "the entry of answers has the device", func(_, e *Entry) { e.Ifindex++ }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			own, answers := there, back
			tt.spoil(&own, &answers)
			wrong := newBench(t).leaves(table{{atClient, direct}: own, {atWeb, direct.Reversed()}: answers})
			if tt.wrong == "" {
				require.Empty(t, wrong)
				return
			}
			require.Len(t, wrong, 1)
			require.Contains(t, wrong[0], tt.wrong)
		})
	}
	require.Equal(t, []string{"the flow tcp 10.0.0.1:1 -> 10.0.0.2:8080 has no entry"}, newBench(t).leaves(table{}))
	require.Equal(t, []string{"the flow tcp 10.0.0.1:1 -> 10.0.0.2:8080 has no entry of answers"}, newBench(t).leaves(table{{atClient, direct}: there}))
}
