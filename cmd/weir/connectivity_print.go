// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/weirnet/weir/lab/connectivity"
)

// connectivityPrinter shows a run as it goes on.
type connectivityPrinter struct {
	out     io.Writer
	explain bool // each action that is skipped
	colour  bool

	mu sync.Mutex // lines come from several goroutines
}

func (p *connectivityPrinter) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, line)
}

func (p *connectivityPrinter) features(f *connectivity.Features) {
	for _, row := range f.Rows() {
		fmt.Fprintf(p.out, "%-14s %s\n", row[0], row[1])
	}
}

// codes of colours (ECMA-48, SGR).
var statusColours = map[connectivity.Status]string{connectivity.Passed: "32", connectivity.Failed: "31", connectivity.Flaky: "33", connectivity.Skipped: "2"}

func (p *connectivityPrinter) result(r connectivity.Result) {
	if r.Status == connectivity.Skipped && !p.explain {
		return // they are counted in the end
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	status := fmt.Sprintf("%-5s", r.Status)
	if p.colour {
		status = "\x1b[" + statusColours[r.Status] + "m" + status + "\x1b[0m"
	}
	if r.Status == connectivity.Skipped {
		fmt.Fprintf(p.out, "%s          %s: %s\n", status, r.Name, r.Reason)
		return
	}
	fmt.Fprintf(p.out, "%s %7.3fs %s%s\n", status, r.Seconds, r.Name, measured(&r))
	if r.Status == connectivity.Passed {
		return
	}
	for _, line := range r.Story() {
		fmt.Fprintln(p.out, "      "+line)
	}
}

// measured shows what an action has measured, where that is what it is for.
func measured(r *connectivity.Result) string {
	v := r.Values
	if _, has := v["p50Microseconds"]; has {
		return fmt.Sprintf(": a round takes %.0f us (p10 %.0f, p90 %.0f, p99 %.0f)", v["p50Microseconds"], v["p10Microseconds"], v["p90Microseconds"], v["p99Microseconds"])
	}
	if _, has := v["medianMbps"]; has {
		return fmt.Sprintf(": %.0f Mbit/s (%.0f to %.0f)", v["medianMbps"], v["leastMbps"], v["mostMbps"])
	}
	return ""
}

// skips says how many actions were skipped for each reason.
func (p *connectivityPrinter) skips(reasons map[string]int) {
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(p.out, "%d skipped: %s\n", reasons[why], why)
	}
}

func (p *connectivityPrinter) summary(report *connectivity.Report, tally connectivity.Tally) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reasons := map[string]int{}
	var failed []string
	for i := range report.Results {
		switch r := &report.Results[i]; r.Status {
		case connectivity.Skipped:
			reasons[r.Reason]++
		case connectivity.Failed:
			failed = append(failed, r.Name)
		}
	}
	p.skips(reasons)
	if len(failed) > 0 {
		fmt.Fprintln(p.out, "failed: "+strings.Join(failed, ", "))
	}
	fmt.Fprintf(p.out, "%s, in %.1f s\n", tally, report.Seconds)
}
