// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
	"github.com/weirnet/weir/scenarios/shard"
)

// partFlags say which part of the scenarios is to be run.
type partFlags struct {
	shard shard.Shard
	costs string
}

func (p *partFlags) add(f *pflag.FlagSet) {
	p.shard = shard.Whole
	f.Var(shardFlag{&p.shard}, "shard", "only the I-th of N parts, I/N: a scenario is in one part with all its runs")
	f.StringVar(&p.costs, "costs", "", "balance the parts by what runs took in this report; the same for all parts")
}

// shardFlag is a flag whose value is a shard.
type shardFlag struct{ value *shard.Shard }

func (s shardFlag) String() string {
	if s.value == nil || *s.value == shard.Whole { // pflag asks an empty one for its default
		return ""
	}
	return s.value.String()
}

func (s shardFlag) Type() string { return "I/N" }

func (s shardFlag) Set(text string) (err error) {
	value, err := shard.Parse(text)
	if err == nil {
		*s.value = value
	}
	return err
}

// part is what one shard runs.
type part struct {
	scenarios []*scenarios.Scenario

	shard shard.Shard
	plan  shard.Plan
	whole []*scenarios.Scenario
	runs  []scenarios.Result // the whole's, on one kernel
}

// take works out the part of the scenarios, of which runs are wanted.
func (p *partFlags) take(all []*scenarios.Scenario, runs []scenarios.Result) (*part, error) {
	var costs shard.Costs
	if p.costs != "" {
		if p.shard == shard.Whole {
			return nil, usageError(errors.New("--costs balances the parts of --shard: give that too"))
		}
		kept, err := report.Read(p.costs)
		if err != nil {
			return nil, usageError(fmt.Errorf("--costs: %w", err))
		}
		costs = kept.Costs()
	}
	plan, err := shard.NewPlan(p.shard.Of, runs, costs)
	if err != nil {
		return nil, usageError(fmt.Errorf("--shard %s: %w", p.shard, err))
	}
	return &part{plan.Take(p.shard.Part, all), p.shard, plan, all, runs}, nil
}

// describe says what is about to be run on kernels, by the names of results.
func (p *part) describe(kernels ...string) *shard.Run {
	return shard.NewRun(p.shard, p.plan, p.whole, p.runs, kernels)
}
