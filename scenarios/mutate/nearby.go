// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"fmt"
	"slices"
	"sync"
)

// nearby remembers which runs noticed errors of a line and of a function.
type nearby struct {
	mu sync.Mutex
	at map[string][]int // the last one first
}

// remembered is how many runs are remembered for a place.
const remembered = 6

func nearOf(s *subject) []string {
	return []string{fmt.Sprintf("%s:%d %s", s.File, s.Line, s.Object), fmt.Sprintf("%s:%d", s.File, s.Line), s.Function + " " + s.Object}
}

func (k *nearby) add(s *subject, run int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, place := range nearOf(s) {
		all := slices.DeleteFunc(k.at[place], func(n int) bool { return n == run })
		all = append([]int{run}, all...)
		k.at[place] = all[:min(len(all), remembered)]
	}
}

// of gives the runs that noticed errors near by, the nearest first.
func (k *nearby) of(s *subject) []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []int
	for _, place := range nearOf(s) {
		for _, n := range k.at[place] {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}
