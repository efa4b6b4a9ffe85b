// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"context"
	"sync"

	"github.com/weirnet/weir/vmtest"
)

// room shares vmtest's places for guests, which other processes ask for too.
// A place that is held lets several guests in.
type room struct {
	door chan struct{} // of who asks vmtest: one at a time, so that the others see what is free

	mu     sync.Mutex
	free   int      // in places that are held
	places []func() // that are held, to give back
}

func newRoom() *room { return &room{door: make(chan struct{}, 1)} }

// enter waits for room for one more guest.
func (r *room) enter(ctx context.Context) (leave func(), err error) {
	select {
	case r.door <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-r.door }()
	if r.takeFree() {
		return r.leave, nil
	}
	release, err := vmtest.Acquire(ctx, vmtest.DefaultMemory)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places = append(r.places, release)
	r.free += guestsPerPlace - 1
	return r.leave, nil
}

func (r *room) takeFree() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free == 0 {
		return false
	}
	r.free--
	return true
}

// leave gives a place back when no guest needs it.
func (r *room) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free++
	if r.free >= guestsPerPlace {
		r.free -= guestsPerPlace
		last := len(r.places) - 1
		r.places[last]()
		r.places = r.places[:last]
	}
}
