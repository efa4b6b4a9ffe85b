// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"context"
	"sync"

	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// room shares vmtest's places for guests, which other processes ask for too. A
// place that is held has guestsPerPlace shares, of which a guest takes some.
type room struct {
	door chan struct{} // of who asks vmtest: one at a time, so that the others see what is free

	mu     sync.Mutex
	free   int      // shares of places that are held
	places []func() // that are held, to give back
}

func newRoom() *room { return &room{door: make(chan struct{}, 1)} }

// shares is how many of a place's a guest of a world takes. World prog computes
// all the time: two of its guests on one core were three times as slow as one after
// the other.
var shares = map[syntax.World]int{syntax.Prog: guestsPerPlace, syntax.Netns: 1}

// enter waits for room for one more guest, which takes so many shares.
func (r *room) enter(ctx context.Context, shares int) (leave func(), err error) {
	select {
	case r.door <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-r.door }()
	leave = func() { r.leave(shares) }
	if r.takeFree(shares) {
		return leave, nil
	}
	release, err := vmtest.Acquire(ctx, vmtest.DefaultMemory)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places = append(r.places, release)
	r.free += guestsPerPlace - shares
	return leave, nil
}

func (r *room) takeFree(shares int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free < shares {
		return false
	}
	r.free -= shares
	return true
}

// leave gives places back that no guest needs.
func (r *room) leave(shares int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free += shares
	for r.free >= guestsPerPlace {
		r.free -= guestsPerPlace
		last := len(r.places) - 1
		r.places[last]()
		r.places = r.places[:last]
	}
}
