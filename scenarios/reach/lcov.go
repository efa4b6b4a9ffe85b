// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
)

// LCOV writes the report as lcov's geninfo does: FN and FNDA for functions,
// BRDA for branches, DA for lines. Dead lines are left out: they are no code of
// the programs that ran. Paths are of the repository.
func (r *Report) LCOV(to io.Writer) error {
	out := bufio.NewWriter(to)
	for _, f := range r.Files {
		fmt.Fprintf(out, "TN:\nSF:bpf/%s\n", f.Name)
		hit := 0
		for _, fn := range f.Functions {
			fmt.Fprintf(out, "FN:%d,%s\n", fn.Line, fn.Name)
		}
		for _, fn := range f.Functions {
			fmt.Fprintf(out, "FNDA:%d,%s\n", fn.Count, fn.Name)
			if fn.Count > 0 {
				hit++
			}
		}
		fmt.Fprintf(out, "FNF:%d\nFNH:%d\n", len(f.Functions), hit)
		f.lcovLines(out)
		fmt.Fprintln(out, "end_of_record")
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write lcov: %w", err)
	}
	return nil
}

func (f *File) lcovLines(out io.Writer) {
	var branches, lines Share
	numbers := slices.Sorted(maps.Keys(f.Lines))
	for _, number := range numbers {
		l := f.Lines[number]
		for i, b := range l.Branches {
			for way, w := range b.Ways {
				if w.Dead {
					continue
				}
				taken := "-" // the line never ran
				if l.Count > 0 {
					taken = fmt.Sprint(w.Count)
				}
				fmt.Fprintf(out, "BRDA:%d,%d,%d,%s\n", number, i, way, taken)
				branches.Of++
				if w.Count > 0 {
					branches.Reached++
				}
			}
		}
	}
	fmt.Fprintf(out, "BRF:%d\nBRH:%d\n", branches.Of, branches.Reached)
	for _, number := range numbers {
		l := f.Lines[number]
		if l.State == Dead {
			continue
		}
		fmt.Fprintf(out, "DA:%d,%d\n", number, l.Count)
		lines.Of++
		if l.Count > 0 {
			lines.Reached++
		}
	}
	fmt.Fprintf(out, "LF:%d\nLH:%d\n", lines.Of, lines.Reached)
}
