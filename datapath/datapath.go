// SPDX-License-Identifier: Apache-2.0

// Package datapath loads Weir's BPF programs, attaches them and keeps their
// tables equal to a model.State. Nothing else touches a BPF map.
//
// It decides nothing about packets: the programs do. Its one invariant is
// that every prefix of its changes is safe: wherever it is killed, no packet
// passes that neither the old nor the new state lets through.
package datapath

import (
	"time"

	"github.com/weirnet/weir/model"
)

// Options say how a Datapath is opened.
type Options struct {
	// PinPath is a directory on a bpffs that keeps tables and links when the
	// process ends. Empty: nothing is pinned, everything goes with Close.
	PinPath string
	// Attach makes Apply attach the programs to endpoints' devices. Without
	// it they only run by Run.
	Attach bool
	// Flows is the room for answered flows, in entries (two a flow);
	// Unanswered for those not yet answered. 0: a default.
	Flows, Unanswered uint32
}

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
	Ifindex int // of the way out, where it has one
	Reason  model.Reason
	File    string // where in the C source it was decided
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

// Flow is one entry of the flow table: one direction of a flow at one hook.
type Flow struct {
	Hook       model.Hook
	Endpoint   string // name, or "ifindex N" of an endpoint that is gone
	Tuple      model.Tuple // as the hook sees the packets
	Translated model.Tuple // as they leave
	Reply      bool        // the reply direction
	Answered   bool        // in the table of answered flows
	State      string      // of TCP: see FlowState; else "unanswered", "answered"
	Service    string      // by whose frontend it was translated
	Out        model.Out
	Ifindex    int
	Epoch      uint32
	Idle       time.Duration
}

// Counter counts packets by reason and direction.
type Counter struct {
	Reason  model.Reason // empty: forwarded
	Hook    model.Hook
	Packets uint64
	Bytes   uint64
}
