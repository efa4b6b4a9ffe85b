// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/scenarios"
)

// Shard is one part of a whole, written I/N: the I-th of N, from 1.
type Shard struct{ Part, Of int }

// Whole is the only part.
var Whole = Shard{1, 1}

// Errors about shards.
var (
	// ErrNotation is what is no shard.
	ErrNotation = errors.New("a shard is I/N, the I-th of N, like 2/5")
	// ErrEmpty is more shards than scenarios.
	ErrEmpty = errors.New("a shard would have nothing to run")
)

// Parse reads I/N. ErrNotation.
func Parse(text string) (Shard, error) {
	part, of, found := strings.Cut(text, "/")
	i, errPart := number(part)
	n, errOf := number(of)
	switch {
	case !found || errPart != nil || errOf != nil:
		return Shard{}, ErrNotation
	case i > n:
		return Shard{}, fmt.Errorf("%w: there is no part %d of %d", ErrNotation, i, n)
	}
	return Shard{i, n}, nil
}

// number reads one from 1 on, written in the one way that it has: results of
// shards are told apart by their text.
func number(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && (n < 1 || strconv.Itoa(n) != text) {
		err = ErrNotation
	}
	return n, err
}

func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Part, s.Of) }

// Plan says which part each scenario is in, by its name.
type Plan map[string]int

// NewPlan parts the scenarios that runs are of: the dearest first, each to the
// part that has least so far. ErrEmpty.
func NewPlan(of int, runs []scenarios.Result, costs Costs) (Plan, error) {
	type load struct {
		name    string
		seconds float64
	}
	var loads []load
	at := map[string]int{}
	estimate := costs.estimate(runs)
	for _, r := range runs {
		name := scenarioOf(r)
		if _, known := at[name]; !known {
			at[name] = len(loads)
			loads = append(loads, load{name: name})
		}
		loads[at[name]].seconds += estimate(r)
	}
	if len(loads) < of {
		return nil, fmt.Errorf("%w: %d shards for %d scenarios that fit what was asked for", ErrEmpty, of, len(loads))
	}
	slices.SortFunc(loads, func(a, b load) int {
		return cmp.Or(-cmp.Compare(a.seconds, b.seconds), cmp.Compare(a.name, b.name))
	})
	plan := Plan{}
	filled, count := make([]float64, of), make([]int, of)
	for _, l := range loads {
		least := 0
		for i := range filled {
			// Of equals the one that has fewest: what costs nothing is spread too.
			if cmp.Or(cmp.Compare(filled[i], filled[least]), cmp.Compare(count[i], count[least])) < 0 {
				least = i
			}
		}
		filled[least] += l.seconds
		count[least]++
		plan[l.name] = least + 1
	}
	return plan, nil
}

// scenarioOf is the name of the scenario that a run is of.
func scenarioOf(r scenarios.Result) string {
	name, _, _ := strings.Cut(r.Scenario, "/")
	return name
}

// Take gives the scenarios of one part.
func (p Plan) Take(part int, all []*scenarios.Scenario) []*scenarios.Scenario {
	return slices.DeleteFunc(slices.Clone(all), func(s *scenarios.Scenario) bool { return p[s.Name] != part })
}

// digest is the same for two plans that are.
func (p Plan) digest() string {
	var lines []string
	for name, part := range p {
		lines = append(lines, fmt.Sprintf("%s %d", name, part))
	}
	return digest(lines)
}

// digest of lines, in whatever order they come.
func digest(lines []string) string {
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:16])
}
