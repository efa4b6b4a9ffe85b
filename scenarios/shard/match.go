// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrMismatch is parts that are not those of one whole.
var ErrMismatch = errors.New("these are not the shards of one run")

// Part is a Run with what people call it: the path of its report.
type Part struct {
	Name string
	Run  *Run
}

// Match says whether parts are those of one whole, each once. ErrMismatch.
func Match(parts []Part) error {
	if len(parts) == 0 {
		return fmt.Errorf("%w: there are none", ErrMismatch)
	}
	first := parts[0]
	whole, err := Parse(first.Run.Shard)
	if err != nil {
		return fmt.Errorf("%w: %s says that it is shard %q: %w", ErrMismatch, first.Name, first.Run.Shard, err)
	}
	have := map[int]string{}
	for _, p := range parts {
		s, err := Parse(p.Run.Shard)
		if err != nil {
			return fmt.Errorf("%w: %s says that it is shard %q: %w", ErrMismatch, p.Name, p.Run.Shard, err)
		}
		if s.Of != whole.Of {
			return fmt.Errorf("%w: %s is shard %s and %s is shard %s", ErrMismatch, first.Name, whole, p.Name, s)
		}
		if err := sameWhole(first, p); err != nil {
			return err
		}
		if other, twice := have[s.Part]; twice {
			return fmt.Errorf("%w: shard %s is there twice: %s and %s", ErrMismatch, s, other, p.Name)
		}
		have[s.Part] = p.Name
	}
	return missing(have, whole.Of)
}

func sameWhole(a, b Part) error {
	switch {
	case !slices.Equal(a.Run.Kernels, b.Run.Kernels):
		return fmt.Errorf("%w: %s ran on %s and %s on %s", ErrMismatch,
			a.Name, strings.Join(a.Run.Kernels, ", "), b.Name, strings.Join(b.Run.Kernels, ", "))
	case a.Run.Scenarios != b.Run.Scenarios:
		return fmt.Errorf("%w: %s and %s are of other sets of scenarios: give all the same build, files, --run and --world", ErrMismatch, a.Name, b.Name)
	case a.Run.Plan != b.Run.Plan:
		return fmt.Errorf("%w: %s and %s were parted by other costs: give all the same --costs", ErrMismatch, a.Name, b.Name)
	}
	return nil
}

func missing(have map[int]string, of int) error {
	var gone []string
	for part := 1; part <= of; part++ {
		if _, there := have[part]; !there {
			gone = append(gone, Shard{part, of}.String())
		}
	}
	switch len(gone) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: shard %s is missing", ErrMismatch, gone[0])
	}
	return fmt.Errorf("%w: shards %s are missing", ErrMismatch, strings.Join(gone, ", "))
}

// Short tells what a part lacks to be whole; empty when nothing.
func (r *Run) Short(results int) string {
	switch {
	case !r.Ended:
		return fmt.Sprintf("it was cut short, with %d of %d results", results, r.Results)
	case results != r.Results:
		return fmt.Sprintf("it has %d of %d results", results, r.Results)
	}
	return ""
}
