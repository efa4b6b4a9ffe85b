// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"errors"

	"github.com/weirnet/weir/lab/prog"
)

// Play plays one sequence of a seed in a pool, as Run does, and gives what it
// finds, not shrunk. A sequence is the same each time as long as the programs do
// the same.
func Play(ctx context.Context, pool *prog.Pool, o *Options, n uint64) (*Finding, error) {
	var found *Finding
	var failed error
	q := newSequence(o.Seed, n, o.Captured, o.Uplinks, &Tally{})
	err := pool.Use(ctx, q.made.topology(), func(w *prog.World) { found, failed = q.run(ctx, w, o.planted()) })
	return found, errors.Join(err, failed)
}
