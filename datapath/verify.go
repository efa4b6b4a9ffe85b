// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// ProgramCost is what the running kernel's verifier spent on one program.
type ProgramCost struct {
	Program      string  `json:"program"`
	Instructions int     `json:"instructions"` // of the program
	Verified     int     `json:"verified"`     // instructions that the verifier went through; it gives up at a million
	Seconds      float64 `json:"seconds"`      // that the verifier took
}

// Verify loads all programs, as Open would with these options, and gives what
// that cost, by name. Nothing stays loaded.
func Verify(opts Options) (costs []ProgramCost, err error) {
	opts.PinPath, opts.Attach, opts.Cgroup, opts.Stats = "", false, "", true
	d, err := Open(opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Costs()
}

// ErrNoStats is a datapath that was opened without Options.Stats.
var ErrNoStats = errors.New("what the verifier tells was not kept: open the datapath with Stats")

// Costs gives what loading each program cost, by name. It loads those that have not been
// needed yet, and those of sockets for no namespace where none are led.
func (d *Datapath) Costs() (costs []ProgramCost, err error) {
	if !d.opts.Stats {
		return nil, ErrNoStats
	}
	if err := d.LoadAll(); err != nil {
		return nil, err
	}
	p := d.programs
	if err := p.needSockets(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	loaded := maps.Clone(p.loaded)
	p.mu.Unlock()
	for name, program := range loaded {
		cost, err := readVerifierStats(program.VerifierLog)
		if err != nil {
			return nil, fmt.Errorf("read the cost of program %s: %w", name, err)
		}
		cost.Program, cost.Instructions = name, int(p.objects.program(name).Instructions.Size()/8)
		costs = append(costs, cost)
	}
	slices.SortFunc(costs, func(a, b ProgramCost) int { return cmp.Compare(a.Program, b.Program) })
	return costs, nil
}

// Lines of the verifier's statistics: print_verification_stats of
// kernel/bpf/verifier.c, since 5.2.
var (
	verifierTime      = regexp.MustCompile(`(?m)^verification time (\d+) usec$`)
	verifierProcessed = regexp.MustCompile(`(?m)^processed (\d+) insns `)
)

var errNoStats = errors.New("the verifier's log has no statistics")

func readVerifierStats(log string) (ProgramCost, error) {
	took, processed := verifierTime.FindStringSubmatch(log), verifierProcessed.FindStringSubmatch(log)
	if took == nil || processed == nil {
		return ProgramCost{}, errNoStats
	}
	microseconds, err := strconv.ParseInt(took[1], 10, 64)
	if err != nil {
		return ProgramCost{}, fmt.Errorf("%w: %w", errNoStats, err)
	}
	verified, err := strconv.Atoi(processed[1])
	if err != nil {
		return ProgramCost{}, fmt.Errorf("%w: %w", errNoStats, err)
	}
	return ProgramCost{Verified: verified, Seconds: (time.Duration(microseconds) * time.Microsecond).Seconds()}, nil
}
