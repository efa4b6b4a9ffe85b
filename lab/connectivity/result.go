// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/weirnet/weir/lab/junit"
)

// Status is how an action ended.
type Status string

// Statuses. One that is flaky failed first, and succeeded when it was done again.
const (
	Passed  Status = "pass"
	Failed  Status = "fail"
	Flaky   Status = "flaky"
	Skipped Status = "skip"
)

// Result is what became of an action.
type Result struct {
	Name   string `json:"name"` // test/case/family
	Test   string `json:"test"`
	Case   string `json:"case"`
	Family Family `json:"family"`
	Status Status `json:"status"`
	// Seconds are those of the last attempt.
	Seconds  float64 `json:"seconds"`
	What     string  `json:"what,omitempty"`     // who asked what
	Denied   bool    `json:"denied,omitempty"`   // it had to fail
	Attempts int     `json:"attempts,omitempty"` // 0: it could not be done
	// Errors are those of the attempts that failed, in their order.
	Errors []string `json:"errors,omitempty"`
	Reason string   `json:"reason,omitempty"` // why it was skipped
	// Drops are what Weir's agents said meanwhile of packets between the two.
	Drops []string `json:"drops,omitempty"`
	// Values were measured; the name ends in the unit, but for mtu, which is octets.
	Values map[string]float64 `json:"values,omitempty"`
	// Evidence is of an action that failed, of the first ones of a run.
	Evidence *Evidence `json:"evidence,omitempty"`
}

func skipped(a *Action, why string) Result {
	return Result{Name: a.Name(), Test: a.Test, Case: a.Case, Family: a.Family, Status: Skipped, Reason: why}
}

// Tally counts results by their status.
type Tally struct{ Passed, Failed, Flaky, Skipped int }

// Count counts.
func Count(results []Result) (t Tally) {
	for i := range results {
		switch results[i].Status {
		case Passed:
			t.Passed++
		case Failed:
			t.Failed++
		case Flaky:
			t.Flaky++
		case Skipped:
			t.Skipped++
		}
	}
	return t
}

func (t Tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d flaky, %d skipped", t.Passed, t.Failed, t.Flaky, t.Skipped)
}

// Report is a whole run, as -o json writes it.
type Report struct {
	Features *Features `json:"features"`
	Results  []Result  `json:"results"`
	Seconds  float64   `json:"seconds"`
	Problem  string    `json:"problem,omitempty"` // why the run ended before its end
}

// JSON writes a report as one document.
func (r *Report) JSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// longestReport is more octets than any report has.
const longestReport = 256 << 20

// ReadReport reads what JSON has written.
func ReadReport(in io.Reader) (*Report, error) {
	r := new(Report)
	if err := json.NewDecoder(io.LimitReader(in, longestReport)).Decode(r); err != nil {
		return nil, fmt.Errorf("read report: it is no document of 'weir connectivity test -o json': %w", err)
	}
	if r.Features == nil {
		return nil, errors.New("read report: it says nothing of a cluster: it is no document of 'weir connectivity test -o json'")
	}
	return r, nil
}

// JUnit writes a report as one suite, with the features as its properties. That an
// action was flaky is in the case's output; that the run ended before its end is an
// error of a case of its own.
func (r *Report) JUnit(out io.Writer) error {
	s := junit.Suite{Name: "weir connectivity test", Seconds: fmt.Sprintf("%.3f", r.Seconds), Cases: []junit.Case{}}
	for _, row := range r.Features.Rows() {
		s.Properties = append(s.Properties, junit.Property{Name: row[0], Value: row[1]})
	}
	for i := range r.Results {
		add(&s, &r.Results[i])
	}
	if r.Problem != "" {
		s.Tests++
		s.Errors++
		s.Cases = append(s.Cases, junit.Case{Class: "run", Name: "whole", Seconds: s.Seconds, Error: &junit.Problem{Message: junit.Printable(r.Problem)}})
	}
	return (&junit.Suites{Suites: []junit.Suite{s}}).Write(out)
}

func add(s *junit.Suite, r *Result) {
	c := junit.Case{Class: r.Test, Name: r.Case + "/" + string(r.Family), Seconds: fmt.Sprintf("%.3f", r.Seconds)}
	s.Tests++
	switch r.Status {
	case Failed:
		s.Failures++
		last := ""
		if n := len(r.Errors); n > 0 {
			last = r.Errors[n-1]
		}
		c.Failure = &junit.Problem{Message: junit.Printable(last), Text: junit.Printable(strings.Join(r.Story(), "\n"))}
	case Skipped:
		s.Skipped++
		c.Skipped = &junit.Problem{Message: junit.Printable(r.Reason)}
	case Flaky:
		c.Out = junit.Printable(strings.Join(r.Story(), "\n"))
	}
	s.Cases = append(s.Cases, c)
}

// Story is what is known of an action that failed, in lines.
func (r *Result) Story() []string {
	var lines []string
	if r.What != "" {
		lines = append(lines, r.What)
	}
	for i, e := range r.Errors {
		if len(r.Errors) > 1 || r.Status == Flaky {
			e = fmt.Sprintf("attempt %d: %s", i+1, e)
		}
		lines = append(lines, e)
	}
	if r.Status == Flaky {
		lines = append(lines, fmt.Sprintf("attempt %d: it succeeded", r.Attempts))
	}
	for _, d := range r.Drops {
		lines = append(lines, "drop: "+d)
	}
	return append(lines, r.Evidence.story()...)
}
