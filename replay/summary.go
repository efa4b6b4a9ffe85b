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
	Packets   int     `json:"packets"`
	Forward   int     `json:"forward"`
	Drop      int     `json:"drop"`
	Refused   int     `json:"refused"`
	Broken    int     `json:"broken,omitempty"`
	Truncated int     `json:"truncated"`
	Reasons   []Count `json:"reasons"`
	// Problems are what could not be read of the captures.
	Problems []string `json:"problems,omitempty"`

	counts map[Count]int
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
		s.counts = map[Count]int{}
	}
	s.Packets++
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
	s.counts[Count{Verdict: o.Verdict, Reason: o.Reason}]++
}

// Finish makes Reasons, the most frequent first of each verdict.
func (s *Summary) Finish() {
	s.Reasons = make([]Count, 0, len(s.counts))
	for c, n := range s.counts {
		c.Packets = n
		s.Reasons = append(s.Reasons, c)
	}
	order := map[Verdict]int{Forward: 0, Drop: 1, Refused: 2, Broken: 3}
	slices.SortFunc(s.Reasons, func(a, b Count) int {
		return cmp.Or(order[a.Verdict]-order[b.Verdict], b.Packets-a.Packets, cmp.Compare(a.Reason, b.Reason))
	})
}

// Text writes the summary for people.
func (s *Summary) Text(out io.Writer) error {
	broken := ""
	if s.Broken > 0 {
		broken = fmt.Sprintf(", %d broken", s.Broken)
	}
	_, err := fmt.Fprintf(out, "%d packets: %d forward, %d drop, %d refused%s; %d cut by the capture\n", s.Packets, s.Forward, s.Drop, s.Refused, broken, s.Truncated)
	for _, c := range s.Reasons {
		if err != nil {
			break
		}
		_, err = fmt.Fprintf(out, "  %9d  %-7s  %s\n", c.Packets, c.Verdict, c.Reason)
	}
	if err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}
