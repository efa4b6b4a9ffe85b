// SPDX-License-Identifier: Apache-2.0

// Package phase measures where the time of a run goes: into making namespaces,
// loading programs, waiting, and so on.
//
// Whoever does something that takes time says so where it is done, by Start. It is
// no tracer: phases have no order, and no places. Its one invariant is that the
// phases of a Clock add up to its time: of two that are open, the inner one counts.
package phase

import (
	"context"
	"sync"
	"time"
)

// Phase is something that a run spends time on.
type Phase string

// Phases, in the order in which a run comes to them.
const (
	Namespaces Phase = "namespaces" // made, and their sysctls set
	Devices    Phase = "devices"    // veth pairs made
	Addresses  Phase = "addresses"  // and routes and neighbours given
	Settle     Phase = "settle"     // until interfaces carry frames
	Captures   Phase = "captures"   // at every interface
	Queue      Phase = "queue"      // for a datapath or a worker that is free
	Load       Phase = "load"       // programs loaded and verified
	Tables     Phase = "tables"     // emptied, compared and filled
	Attach     Phase = "attach"     // programs put on devices and cgroups
	Steps      Phase = "steps"      // of the script, but for what is told apart
	Waits      Phase = "waits"      // for frames, and for what must not come
	Teardown   Phase = "teardown"   // but for what is done in the background
	Other      Phase = "other"
)

// All are the phases in their order.
func All() []Phase {
	return []Phase{Namespaces, Devices, Addresses, Settle, Captures, Queue, Load, Tables, Attach, Steps, Waits, Teardown, Other}
}

// Clock measures the phases of one run, which does one thing at a time.
type Clock struct {
	mu    sync.Mutex
	now   Phase
	since time.Time
	spent map[Phase]time.Duration
}

// NewClock begins with Other.
func NewClock() *Clock {
	return &Clock{now: Other, since: time.Now(), spent: map[Phase]time.Duration{}}
}

// turn ends what is on, begins a phase, and gives what was on.
func (c *Clock) turn(to Phase) (was Phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count()
	was, c.now = c.now, to
	return was
}

// count adds up what is on. The lock is held.
func (c *Clock) count() {
	now := time.Now()
	c.spent[c.now] += now.Sub(c.since)
	c.since = now
}

// Seconds are what was spent so far, in whole microseconds, without what took less.
func (c *Clock) Seconds() map[Phase]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count()
	out := map[Phase]float64{}
	for p, d := range c.spent {
		if us := d.Round(time.Microsecond).Microseconds(); us > 0 {
			out[p] = float64(us) / 1e6
		}
	}
	return out
}

type key struct{}

// With has a run of a context measured by a clock.
func With(ctx context.Context, c *Clock) context.Context { return context.WithValue(ctx, key{}, c) }

func of(ctx context.Context) *Clock {
	c, _ := ctx.Value(key{}).(*Clock)
	return c
}

// Start begins a phase of the context's run. When it ends, the one goes on in
// which it began. Where nothing is measured it does nothing.
func Start(ctx context.Context, p Phase) (end func()) {
	c := of(ctx)
	if c == nil {
		return func() {}
	}
	was := c.turn(p)
	return func() { c.turn(was) }
}

// Move gives to a phase what was measured elsewhere, and counted for the phase
// that is on.
func Move(ctx context.Context, to Phase, d time.Duration) {
	c := of(ctx)
	if c == nil || d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count()
	d = min(d, c.spent[c.now])
	c.spent[c.now] -= d
	c.spent[to] += d
}
