// SPDX-License-Identifier: Apache-2.0

// Package datapath loads Weir's BPF programs, attaches them and keeps their
// tables equal to a model.State. Nothing else touches a BPF map.
//
// It decides nothing about packets: the programs do. Its one invariant is
// that every prefix of its changes is safe: wherever it is killed, no packet
// passes that neither the old nor the new state lets through.
package datapath

import "github.com/weirnet/weir/model"

// Change is what one Apply did.
type Change struct {
	Endpoints, Addresses, Services, RuleSets Delta
	Epoch                                    uint32 // after the change
}

// Delta counts table objects.
type Delta struct{ Added, Changed, Removed int }

// Decision is what a program decided about one packet.
type Decision struct {
	Action  model.Action
	Out     model.Out
	Ifindex int          // of the way out, where it has one
	AsItIs  bool         // the kernel goes on with the packet where it is, and nothing is redirected
	Reason  model.Reason // with Forward: why a policy would have dropped it, which is only told
	File    string       // where in the C source it was decided
	Line    int
	Flow    FlowLookup
	Origin  model.Origin // the rule that decided, on the slow path
	Tables  []TableRead  // tables read, in the order of the datapath
}

// FlowLookup is what the flow table had for a packet.
type FlowLookup string

// Outcomes of a flow lookup.
const (
	FlowNone     FlowLookup = ""         // not looked up
	FlowNew      FlowLookup = "new"      // not found: judged
	FlowKnown    FlowLookup = "known"    // found, of the current epoch
	FlowRejudged FlowLookup = "rejudged" // found, of an older epoch
)

// TableRead is one table that a packet's decision was read from.
type TableRead struct {
	Table string
	Hit   bool
}

// Counter counts packets by reason and direction.
type Counter struct {
	Reason  model.Reason // empty: forwarded
	Hook    model.Hook
	Packets uint64
	Bytes   uint64
}
