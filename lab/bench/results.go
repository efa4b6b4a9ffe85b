// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// Results are what benchmarks have reported: values by name and unit, as "go test
// -bench" prints them. The name is without "Benchmark" and the number of CPUs.
type Results map[string]map[string][]float64

// Add reads what "go test -bench" has printed; name is the file's in errors. Lines
// that are no results are passed over.
func (r Results) Add(name string, from io.Reader) error {
	lines := benchfmt.NewReader(from, name)
	for lines.Scan() {
		switch line := lines.Result().(type) {
		case *benchfmt.Result:
			r.take(line)
		case *benchfmt.SyntaxError:
			if line.Msg == "missing measurements" {
				continue // a benchmark whose parts have reported
			}
			return fmt.Errorf("read benchmarks: %w", line)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read benchmarks: %w", err)
	}
	return nil
}

func (r Results) take(line *benchfmt.Result) {
	base, parts := line.Name.Parts()
	name := string(base)
	for _, part := range parts {
		if !strings.HasPrefix(string(part), "-") {
			name += string(part)
		}
	}
	if r[name] == nil {
		r[name] = map[string][]float64{}
	}
	for _, v := range line.Values {
		value, unit := cmp.Or(v.OrigValue, v.Value), cmp.Or(v.OrigUnit, v.Unit)
		r[name][unit] = append(r[name][unit], value)
	}
}

// value is the median of what a benchmark has reported.
func (r Results) value(name, unit string) (float64, bool) {
	values := r[name][unit]
	if len(values) == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], true
}
