// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// version is that of a Report's JSON.
const version = 2

// Report is what a run has measured.
type Report struct {
	Version int      `json:"version"`
	Kernel  string   `json:"kernel"`  // its release
	Machine string   `json:"machine"` // its CPU's name
	Results []Result `json:"results"`
}

// Result is one path with some flows. Its rounds were run in turns with those of
// others: round i of one was beside round i of another.
type Result struct {
	Path     string    `json:"path"`
	Family   Family    `json:"family"`
	Flows    int       `json:"flows"`
	Base     []float64 `json:"baseNs"`             // ns a packet through the empty program
	Full     []float64 `json:"pathNs"`             // through the hook's
	Lookup   []float64 `json:"lookupNs,omitempty"` // through one bare lookup; none: packets are of no known flow
	Verified uint32    `json:"verified"`           // instructions of the program; 0: the kernel does not tell
	// Hardware is what the CPU has counted; nil: it has no counters, or the path has
	// not only packets.
	Hardware *Hardware `json:"hardware,omitempty"`
}

// Name is what people call the result.
func (r *Result) Name() string { return fmt.Sprintf("%s/%s with %d flows", r.Path, r.Family, r.Flows) }

// Over is what a packet costs over BASE, in multiples of BASE, one a quiet round.
func (r *Result) Over() []float64 { return r.over(r.Full, r.fastest()) }

// overLookup is the same of a bare lookup.
func (r *Result) overLookup() []float64 { return r.over(r.Lookup, r.fastest()) }

// over leaves out rounds that are not quiet, unless none is.
func (r *Result) over(of []float64, floor float64) []float64 {
	var quiet, all []float64
	for i, full := range of {
		one := full/r.Base[i] - 1
		all = append(all, one)
		if r.quiet(r.Base[i], floor) {
			quiet = append(quiet, one)
		}
	}
	if len(quiet) == 0 {
		return all
	}
	return quiet
}

// fastest is the fastest BASE, but for one in twenty: that may be a clock's mistake.
func (r *Result) fastest() float64 { return slices.Sorted(slices.Values(r.Base))[len(r.Base)/20] }

// fewFlows are in the caches, all of them: BASE is always the same then.
const fewFlows = 256

// quiet says whether a round had the CPU to itself, by its BASE. A neighbour that shares
// a core or a cache makes all slower, but not all by the same. Many flows have no
// such BASE: what their frames take of the caches is another each time.
func (r *Result) quiet(base, floor float64) bool {
	const much = 1.03
	return r.Flows > fewFlows || base <= much*floor
}

// summary is a median, and how far the middle half of the rounds lie apart, as a
// share of it.
func summary(values []float64) (median, spread float64) {
	sorted := slices.Sorted(slices.Values(values))
	at := func(share float64) float64 { return sorted[int(share*float64(len(sorted)-1))] }
	return at(0.5), (at(0.75) - at(0.25)) / at(0.5)
}

func medianOf(values []float64) float64 {
	median, _ := summary(values)
	return median
}

// noisy is beyond which spread a figure says little.
const noisy = 0.10

// Noise names the results whose quiet rounds are few, or differ too much to be believed.
func (r *Report) Noise() []string {
	var names []string
	for i := range r.Results {
		if quiet := r.Results[i].Over(); 4*len(quiet) < len(r.Results[i].Full) {
			names = append(names, fmt.Sprintf("%s (%d of %d rounds are quiet)", r.Results[i].Name(), len(quiet), len(r.Results[i].Full)))
			continue
		}
		if _, spread := summary(r.Results[i].Over()); spread > noisy {
			names = append(names, fmt.Sprintf("%s (%.0f %%)", r.Results[i].Name(), 100*spread))
		}
	}
	return names
}

// Write writes a report as a table, and says why a column of it is empty.
func (r *Report) Write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for i := range r.Results {
		fmt.Fprintln(table, strings.Join(r.row(i), "\t"))
	}
	if err := table.Flush(); err != nil || r.counted() {
		return err
	}
	_, err := fmt.Fprintf(w, "%v: 'weir bench counts' counts what a packet runs without them\n", ErrNoCounters)
	return err
}

func (r *Report) counted() bool {
	return slices.ContainsFunc(r.Results, func(one Result) bool { return one.Hardware != nil })
}

var columns = []string{"PATH", "FAMILY", "FLOWS", "OVER BASE", "SPREAD", "GOAL", "MET", "BASE ns", "OVER BASE ns", "BARE LOOKUP ns", "CYCLES", "INSTRUCTIONS", "VERIFIED"}

// row is a result as people read it.
func (r *Report) row(i int) []string {
	one := &r.Results[i]
	times, spread := summary(one.Over())
	base := medianOf(one.Base)
	goal, met, lookup := "-", "-", "-"
	if most := r.goal(i); most > 0 {
		goal, met = fmt.Sprintf("%.2f", most), map[bool]string{true: "yes", false: "no"}[times <= most]
	}
	if len(one.Lookup) > 0 {
		lookup = fmt.Sprintf("%.0f", medianOf(one.overLookup())*base)
	}
	cycles, instructions := "-", "-"
	if h := one.Hardware; h != nil {
		cycles, instructions = fmt.Sprintf("%.0f", h.Cycles), fmt.Sprintf("%.0f", h.Instructions)
	}
	return []string{one.Path, string(one.Family), fmt.Sprint(one.Flows), fmt.Sprintf("%.2f", times), fmt.Sprintf("%.1f %%", 100*spread), goal, met,
		fmt.Sprintf("%.0f", base), fmt.Sprintf("%.0f", times*base), lookup, cycles, instructions, fmt.Sprint(one.Verified)}
}

// mostOver is what a packet of one flow is to cost over BASE, in multiples of it.
var mostOver = map[string]float64{
	"pod-to-service": 1.7, "pod-to-pod": 1.2, "node-port": 1.9, "pod-to-world": 1.8, "dsr-out": 3, "dsr-in": 3, "new-flow": 8, "new-flow-in": 8,
}

// What a packet of many flows in random turn is to cost, at most: of one bare lookup
// there and the cost of one flow together.
const (
	manyFlows    = 1 << 16
	ofTheLimit   = 1.1
	oneFlowAlone = 1
)

// goal is what a result is to cost, in multiples of BASE over BASE; 0: no goal.
func (r *Report) goal(i int) float64 {
	one := &r.Results[i]
	switch {
	case one.Flows == oneFlowAlone, len(one.Lookup) == 0 && one.Flows == leastOpened:
		return mostOver[one.Path]
	case one.Flows < manyFlows || len(one.Lookup) == 0:
		return 0
	}
	alone := r.find(one.Path, one.Family, oneFlowAlone)
	if alone == nil {
		return 0
	}
	return ofTheLimit * (medianOf(one.overLookup()) + medianOf(alone.Over()))
}

// find gives a result; nil: it was not measured.
func (r *Report) find(path string, f Family, flows int) *Result {
	i := slices.IndexFunc(r.Results, func(o Result) bool { return o.Path == path && o.Family == f && o.Flows == flows })
	if i < 0 {
		return nil
	}
	return &r.Results[i]
}

// floors are the fastest BASE of each result in a report of the same machine.
func (r *Report) floors(old *Report) map[string]float64 {
	floors := map[string]float64{}
	if old == nil || old.Machine != r.Machine || old.Kernel != r.Kernel {
		return floors
	}
	for i := range old.Results {
		floors[old.Results[i].Name()] = old.Results[i].fastest()
	}
	return floors
}

// ErrReport is what is no report that this version reads.
var ErrReport = errors.New("no report that can be read")

// ErrVersion is a report of another version's.
var ErrVersion = fmt.Errorf("%w: of another version", ErrReport)

// Read reads a report's JSON.
func Read(from io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(from).Decode(&r); err != nil {
		return nil, fmt.Errorf("read a report: %w: %w: give what 'weir bench -o json' prints", ErrReport, err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("read a report: %w, %d, and this one is %d: measure the old commit again by this command", ErrVersion, r.Version, version)
	}
	for i := range r.Results {
		if one := &r.Results[i]; len(one.Full) == 0 || len(one.Base) != len(one.Full) {
			return nil, fmt.Errorf("read a report: %w: path %s has %d rounds and %d of BASE", ErrReport, one.Path, len(one.Full), len(one.Base))
		}
	}
	return &r, nil
}
