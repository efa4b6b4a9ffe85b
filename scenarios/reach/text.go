// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"fmt"
	"strings"
)

// Summary is the report in a line, or a few where there is more to say than
// percentages.
func (r *Report) Summary() string {
	var b strings.Builder
	lines, branches := r.Lines(), r.Branches()
	for _, stale := range r.Stale {
		fmt.Fprintf(&b, "cover: scenarios/reach/unreachable is out of date: %s\n", stale)
	}
	for _, name := range r.Apart {
		fmt.Fprintf(&b, "cover: no program of %s ran: what is its alone is not counted\n", name)
	}
	for _, k := range r.ByKernel {
		fmt.Fprintf(&b, "cover: on %s, %s\n", k.Kernel, shares(k.Lines, k.Branches))
	}
	fmt.Fprintf(&b, "cover: %s", shares(lines, branches))
	return b.String()
}

func shares(lines, branches Share) string {
	return fmt.Sprintf("%.1f %% of lines reached (%d of %d), %.1f %% of branches (%d of %d)",
		lines.Percent(), lines.Reached, lines.Of, branches.Percent(), branches.Reached, branches.Of)
}
