// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
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
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	opts.PinPath = ""
	obj, err := readObjects(&opts)
	if err != nil {
		return nil, err
	}
	if err := obj.configure(&opts); err != nil {
		return nil, err
	}
	stats := ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}
	all, maps, err := obj.loadPrograms(&opts, ebpf.CollectionOptions{Programs: stats})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll(maps), all.close()) }()
	if err := all.loadHost(stats); err != nil {
		return nil, err
	}
	if err := all.add(obj.socket, stats); err != nil { // of whichever namespace
		return nil, fmt.Errorf("load the programs of sockets: %w", err)
	}
	for name, program := range all.loaded {
		cost, err := readVerifierStats(program.VerifierLog)
		if err != nil {
			return nil, fmt.Errorf("read the cost of program %s: %w", name, err)
		}
		cost.Program, cost.Instructions = name, int(obj.program(name).Instructions.Size()/8)
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
