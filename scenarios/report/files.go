// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirnet/weir/lab/junit"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/shard"
)

// JSON writes one result as a line, a failure's with its cause.
func JSON(out io.Writer, r scenarios.Result) error {
	if r.Failed() {
		r.Cause = causeOf(r).String()
	}
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return fmt.Errorf("write result of %s: %w", r.Scenario, err)
	}
	return nil
}

// JUnit writes all results as one document, a suite for each kernel and world.
// Of a run that is a part of a whole each suite says so, and one that was cut short
// or met something as a whole has a case of its own for that. Run may be nil.
func JUnit(out io.Writer, results []scenarios.Result, run *shard.Run) error {
	return writeJUnit(out, results, run, func(r scenarios.Result) string {
		if r.Failure == nil {
			return ""
		}
		return (&Text{}).Story(r)
	})
}

// writeJUnit writes results, with the stories of those that have one.
func writeJUnit(out io.Writer, results []scenarios.Result, run *shard.Run, story func(scenarios.Result) string) error {
	var doc junit.Suites
	at := map[string]int{}
	kernels := kernelNames(releases(results))
	var seconds []float64
	for _, r := range results {
		key := string(r.World)
		if len(kernels) > 1 {
			key = kernels[r.Kernel] + "." + key
		}
		if _, ok := at[key]; !ok {
			at[key] = len(doc.Suites)
			doc.Suites = append(doc.Suites, junit.Suite{Name: "scenarios." + key, Properties: []junit.Property{{Name: "kernel", Value: r.Kernel}, {Name: "world", Value: string(r.World)}}})
			seconds = append(seconds, 0)
			if run != nil && run.Shard != shard.Whole.String() {
				s := &doc.Suites[at[key]]
				s.Properties = append(s.Properties, junit.Property{Name: "shard", Value: run.Shard}, junit.Property{Name: runProperty, Value: runText(run)})
			}
		}
		s := &doc.Suites[at[key]]
		seconds[at[key]] += r.Seconds
		s.Seconds = fmt.Sprintf("%.3f", seconds[at[key]])
		add(s, r, junit.Printable(story(r)))
	}
	if run != nil && (!run.Ended || len(run.Problems) > 0) {
		doc.Suites = append(doc.Suites, wholeRun(run, len(results)))
	}
	return doc.Write(out)
}

// wholeSuite is of what a run met as a whole.
const wholeSuite = "scenarios"

// wholeRun is an error of the run as a whole, so that what shows results of one that
// was cut short does not show that all passed.
func wholeRun(run *shard.Run, results int) junit.Suite {
	s := junit.Suite{Name: wholeSuite, Seconds: "0.000"}
	what := append(slices.Clone(run.Problems), run.Short(results))
	if what[0] == "" {
		what = what[1:]
	}
	add(&s, scenarios.Result{Scenario: "the run as a whole", Outcome: scenarios.Broken, Reason: what[0]}, junit.Printable(strings.Join(what, "\n")))
	return s
}

func add(s *junit.Suite, r scenarios.Result, story string) {
	c := junit.Case{Class: s.Name, Name: r.Scenario, Seconds: fmt.Sprintf("%.3f", r.Seconds)}
	problem := &junit.Problem{Message: r.Reason, Text: story}
	if r.Failed() {
		problem.Type = causeOf(r).String()
	}
	s.Tests++
	switch r.Outcome {
	case scenarios.Fail:
		s.Failures++
		c.Failure = problem
	case scenarios.Broken:
		s.Errors++
		c.Error = problem
	case scenarios.Same, scenarios.Skipped:
		if r.Outcome == scenarios.Same {
			problem.Type = string(r.Outcome)
		}
		s.Skipped++
		c.Skipped = problem
	}
	s.Cases = append(s.Cases, c)
}

// name of a failure's files, without suffix.
func (f *Folder) name(r scenarios.Result) string {
	kernel := version(r.Kernel)
	if _, own, ok := strings.Cut(r.Kernel, "#"); ok { // one of several of that release
		kernel += "-" + own
	}
	return filepath.Join(f.path, fmt.Sprintf("%s-%s-%s", strings.NewReplacer("/", "-", "#", "-").Replace(r.Scenario), r.World, kernel))
}

// Add keeps one result, and the story, the page and the capture of a failure.
func (f *Folder) Add(r scenarios.Result) error {
	f.tally.add(r)
	if err := JSON(f.json, r); err != nil {
		return err
	}
	if err := f.keepOutputs(r); err != nil {
		return err
	}
	if r.Failure == nil {
		return nil
	}
	if err := os.WriteFile(f.name(r)+".txt", []byte(f.whole(r)), 0o644); err != nil {
		return fmt.Errorf("write story: %w", err)
	}
	if err := f.keepTale(f.taleOf(r)); err != nil {
		return err
	}
	out, err := os.Create(f.Capture(r))
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	defer out.Close()
	return Capture(out, r)
}

// Capture is the path of the capture of a failure that has a story.
func (f *Folder) Capture(r scenarios.Result) string { return f.name(r) + ".pcapng" }

// briefOf gives the story in what whole has made of it.
func briefOf(whole string) string {
	if head, story, found := strings.Cut(whole, "\n\n"); found && strings.Contains(head, "  kernel ") {
		whole = story
	}
	for _, rest := range []string{"\n\nearlier steps:\n", "\n\ntable ", "\n\nflows:\n"} {
		whole, _, _ = strings.Cut(whole, rest)
	}
	return whole
}

// whole is the story with all that is too long for a terminal.
func (f *Folder) whole(r scenarios.Result) string {
	t := &Text{}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s  kernel %s  %.3fs\n\n%s", r.Outcome, r.World, r.Scenario, r.Kernel, r.Seconds, t.Story(r))
	if len(r.Failure.Before) > 0 {
		fmt.Fprintf(&b, "\nearlier steps:\n")
		for _, w := range r.Failure.Before {
			b.WriteString(t.walk(w))
		}
	}
	for _, table := range r.Failure.Tables {
		fmt.Fprintf(&b, "\ntable %s:\n", table.Name)
		for _, e := range table.Entries {
			fmt.Fprintf(&b, "  %s\n", e)
		}
	}
	if len(r.Failure.Flows) > 0 {
		fmt.Fprintf(&b, "\nflows:\n")
		for _, fl := range r.Failure.Flows {
			fmt.Fprintf(&b, "  %s at %s of %s as %s out %s, %s, reply %t, epoch %d, idle %s\n",
				fl.Tuple, fl.Hook, fl.Endpoint, fl.Translated, fl.Out, fl.State, fl.Reply, fl.Epoch, fl.Idle)
		}
	}
	return b.String()
}
