// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Warm is what the runs of a world share, loaded before they are known: the
// programs that most of them need. It is for a Runner with Parallel 1.
type Warm struct {
	before   census
	nets     *netns.Pool
	prog     *progPool
	counters *cover.Counters // of what prog has loaded; nil: nothing is counted
	costs    []datapath.ProgramCost
}

// warmNodes is how many nodes most worlds have at most.
const warmNodes = 2

// NewWarm loads for a world. A Runner's Run closes it. Counted has counters put into
// the programs, for a Runner with Cover: those of world netns are loaded by each run.
func NewWarm(ctx context.Context, world syntax.World, counted bool) (*Warm, error) {
	w := &Warm{before: takeCensus(), nets: netns.NewPool(1), prog: newProgPool(1, datapath.Options{Stats: true})}
	if counted {
		w.counters = new(cover.Lives).Counters()
		w.prog = newProgPool(1, datapath.Options{Edit: w.counters.Edit})
	}
	var err error
	switch world {
	case syntax.Netns:
		if !counted {
			err = w.nets.Fill(ctx, warmNodes)
		}
	case syntax.Prog:
		var pool *prog.Pool
		if pool, err = w.prog.get(); err == nil {
			err = pool.Fill(ctx, warmNodes)
		}
		switch {
		case err != nil:
		case counted:
			w.costs, err = datapath.Verify(datapath.Options{})
		default:
			w.costs, err = pool.Costs(ctx)
		}
	}
	if err != nil {
		w.prog.close()
		return nil, errors.Join(fmt.Errorf("load for world %s: %w", world, err), w.nets.Close())
	}
	if counted {
		w.counters.Reset()
	}
	return w, nil
}

// Costs is what the verifier spent on the programs as they are without counters; nil for
// another world than prog.
func (w *Warm) Costs() []datapath.ProgramCost { return w.costs }
