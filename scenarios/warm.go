// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Warm is what the runs of a world share, loaded before they are known: the
// programs that most of them need. It is for a Runner with Parallel 1.
type Warm struct {
	before census
	nets   *netns.Pool
	prog   *progPool
}

// warmNodes is how many nodes most worlds have at most.
const warmNodes = 2

// NewWarm loads for a world. A Runner's Run closes it.
func NewWarm(ctx context.Context, world syntax.World) (*Warm, error) {
	w := &Warm{before: takeCensus(), nets: netns.NewPool(1), prog: newProgPool(1, nil)}
	var err error
	switch world {
	case syntax.Netns:
		err = w.nets.Fill(ctx, warmNodes)
	case syntax.Prog:
		var pool *prog.Pool
		if pool, err = w.prog.get(); err == nil {
			err = pool.Fill(ctx, warmNodes)
		}
	}
	if err != nil {
		w.prog.close()
		return nil, errors.Join(fmt.Errorf("load for world %s: %w", world, err), w.nets.Close())
	}
	return w, nil
}
