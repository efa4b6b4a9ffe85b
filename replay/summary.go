// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// Summary counts outcomes.
type Summary struct {
	Packets int `json:"packets"`
	Forward int `json:"forward"`
	Drop    int `json:"drop"`
	Refused int `json:"refused"`
	Broken  int `json:"broken,omitempty"`
	// Truncated are those that the capture has cut behind their headers, and
	// CutHeaders those that it has cut in them: these met no program, and are
	// counted by nothing else.
	Truncated  int `json:"truncated"`
	CutHeaders int `json:"cut_headers"`
	// Super are those that a device would have made several packets of, and
	// Shortened those that were judged with a part of their payload.
	Super     int `json:"super"`
	Shortened int `json:"shortened"`
	// NeverSent are those, among all verdicts, that follow from a dropped one.
	NeverSent int `json:"never_sent"`
	// Shown is how many of the packets a filter has let through; nil without one.
	Shown *int `json:"shown,omitempty"`
	// Connections and Dead count connections, where they were put together.
	Connections int     `json:"connections,omitempty"`
	Dead        int     `json:"dead,omitempty"`
	Reasons     []Count `json:"reasons"`
	// Problems are what could not be read of the captures.
	Problems []string `json:"problems,omitempty"`

	counts map[Count]*int
	last   Count // of the packet before, which most packets are like
	ofLast *int
}

// Count is how many packets had a verdict for a reason.
type Count struct {
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"`
	Packets int     `json:"packets"`
}

// Add counts an outcome.
func (s *Summary) Add(o *Outcome) {
	if s.counts == nil {
		s.counts = map[Count]*int{}
	}
	s.Packets++
	if o.CutHeaders {
		s.CutHeaders++
		return
	}
	switch o.Verdict {
	case Forward:
		s.Forward++
	case Drop:
		s.Drop++
	case Refused:
		s.Refused++
	case Broken:
		s.Broken++
	}
	if o.Truncated {
		s.Truncated++
	}
	if o.Segments > 0 {
		s.Super++
	}
	if o.Shortened {
		s.Shortened++
	}
	if o.NeverSent {
		s.NeverSent++
	}
	*s.counted(Count{Verdict: o.Verdict, Reason: o.Reason})++
}

// counted is where packets with a verdict and a reason are counted.
func (s *Summary) counted(as Count) *int {
	if s.ofLast != nil && s.last == as {
		return s.ofLast
	}
	count := s.counts[as]
	if count == nil {
		count = new(int)
		s.counts[as] = count
	}
	s.last, s.ofLast = as, count
	return count
}

// Finish makes Reasons, the most frequent first of each verdict.
func (s *Summary) Finish() {
	s.Reasons = make([]Count, 0, len(s.counts))
	for c, n := range s.counts {
		c.Packets = *n
		s.Reasons = append(s.Reasons, c)
	}
	order := map[Verdict]int{Forward: 0, Drop: 1, Refused: 2, Broken: 3}
	slices.SortFunc(s.Reasons, func(a, b Count) int {
		return cmp.Or(order[a.Verdict]-order[b.Verdict], b.Packets-a.Packets, cmp.Compare(a.Reason, b.Reason))
	})
}

// line tells in one line how many packets met what; what no packet met is left
// out behind the three verdicts.
func (s *Summary) line() string {
	line := fmt.Sprintf("%d packets: %d forward, %d drop, %d refused", s.Packets, s.Forward, s.Drop, s.Refused)
	for _, more := range []struct {
		count int
		what  string
	}{
		{s.Broken, ", %d broken"}, {s.CutHeaders, ", %d with headers that the capture has cut"},
		{s.Truncated, "; %d cut behind their headers"}, {s.Super, "; %d stand for several segments"}, {s.Shortened, "; %d judged with a part of their payload"},
		{s.NeverSent, "; %d never sent, since they follow from dropped ones"},
	} {
		if more.count > 0 {
			line += fmt.Sprintf(more.what, more.count)
		}
	}
	return line
}

// Text writes the summary for people.
func (s *Summary) Text(out io.Writer) error {
	_, err := fmt.Fprintln(out, s.line())
	for _, c := range s.Reasons {
		if err != nil {
			break
		}
		_, err = fmt.Fprintf(out, "  %9d  %-7s  %s\n", c.Packets, c.Verdict, c.Reason)
	}
	if err == nil && s.Connections > 0 {
		_, err = fmt.Fprintf(out, "%d connections, %d dead\n", s.Connections, s.Dead)
	}
	if err == nil && s.Shown != nil {
		_, err = fmt.Fprintf(out, "%d packets shown\n", *s.Shown)
	}
	if err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}
