// SPDX-License-Identifier: Apache-2.0

// Package page writes the pages of a report: one of the whole run, and one of each
// failure, with its network drawn.
//
// It is given data and finds out nothing: what failed why, and what differs, is found
// by package report. Its one invariant is that a page needs nothing but itself: no
// other host, no script to be read, and no text of a run is ever markup.
package page

import (
	"github.com/weirnet/weir/lab"
)

// Run is what the page of a run shows.
type Run struct {
	Short    string // why it does not have all results; empty: it has
	Counts   []Count
	Facts    []Fact
	Problems []string // of the run as a whole
	Failed   int
	Causes   []Cause
	More     int // causes that are left out
	Worlds   []World
	Rows     []Row
	Notes    []string // that cells point to: Cell.Note counts from 1
	Slowest  []Slow
	Files    []Link
}

// Count is how many runs ended so.
type Count struct {
	Class string // of the style: pass, same, fail, skipped
	N     int
	Name  string
}

// Fact is a line about a run.
type Fact struct{ Name, Text string }

// Cause is failures that probably have one cause.
type Cause struct {
	N      int
	Text   string
	Places string   // worlds and kernels
	Names  []Link   // of some of them
	More   int      // that are left out of Names
	Tale   *Failure // the shortest; nil: Story, or nothing
	Story  string   // as text
}

// Link leads to a file beside the page. Without a File it is text.
type Link struct{ Text, File string }

// World is a world, with the kernels that it was run on: a column each.
type World struct {
	Name    string
	Kernels []string
}

// Row is a scenario in a family, with a cell for each column.
type Row struct {
	Name  string
	Cells []Cell
}

// Cell is how a run ended; empty where there was none.
type Cell struct {
	Outcome string
	File    string // the page of a failure
	Note    int    // why: the number of a note; 0: none
}

// Slow is a run that took long.
type Slow struct {
	Scenario, World, Kernel string
	Seconds                 float64
	On                      string // what most of the time was spent on
}

// Failure is what the page of a failure shows, and what a report keeps of it as
// JSON. Hosts are named as in the scenario.
type Failure struct {
	Scenario string       `json:"scenario"` // name/family
	World    string       `json:"world"`
	Kernel   string       `json:"kernel"` // its release
	Outcome  string       `json:"result"`
	Seconds  float64      `json:"seconds"`
	Pos      string       `json:"pos"` // FILE:LINE of the step
	Step     string       `json:"step"`
	Problem  string       `json:"problem"`
	Details  []Detail     `json:"details,omitempty"`
	Odd      string       `json:"odd,omitempty"` // who stands alone of scenario, model and datapath
	V6       bool         `json:"ipv6,omitempty"`
	Topology lab.Topology `json:"topology"`
	Walks    []Walk       `json:"walks,omitempty"`
	// Drawn is which of the walks is in the drawing; -1: none.
	Drawn  int      `json:"drawn"`
	Left   int      `json:"left,omitempty"`   // walks and frames that are left out
	Frames []Frame  `json:"frames,omitempty"` // of interfaces, where walks do not tell
	Model  []string `json:"model,omitempty"`  // what the model says
	Repeat string   `json:"repeat,omitempty"`
	// File is the name of its files, without suffix.
	File string `json:"file"`
}

// Detail is a field that is not as it was expected.
type Detail struct {
	Field string `json:"field"`
	Want  string `json:"want"`
	Got   string `json:"got"`
}

// Walk is a frame's way through hooks.
type Walk struct {
	From   string   `json:"from,omitempty"`
	Sent   string   `json:"sent,omitempty"` // the frame, in words; empty where unknown
	Steps  []Step   `json:"steps,omitempty"`
	To     string   `json:"to,omitempty"`
	Nobody string   `json:"nobody,omitempty"` // why nobody got it
	Faults []string `json:"faults,omitempty"`
}

// Step is what a hook did.
type Step struct {
	Node     string `json:"node,omitempty"` // empty: the endpoint's
	Hook     string `json:"hook"`
	Endpoint string `json:"endpoint"`
	Tuple    string `json:"tuple,omitempty"` // where Before is unknown
	Action   string `json:"action"`
	Reason   string `json:"reason,omitempty"`
	Out      string `json:"out,omitempty"`   // the way out: local, host, device, tunnel, self
	Rest     string `json:"rest,omitempty"`  // of the decision, with the way out, flow, policy
	Place    string `json:"place,omitempty"` // FILE:LINE
	But      string `json:"but,omitempty"`   // what it did, if not that
	Tables   string `json:"tables,omitempty"`
	Before   string `json:"before,omitempty"`
	After    string `json:"after,omitempty"`
}

// Frame is one that a host's interface carried.
type Frame struct {
	Host string `json:"host"`
	Text string `json:"text"`
}
