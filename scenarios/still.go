// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"time"
)

// silence is how long an exchange waits that is to find no answer, quiet how long
// nothing must come where nothing is expected. What is sent and not acknowledged TCP
// sends again after 200 ms at the earliest (TCP_RTO_MIN in include/net/tcp.h), so that
// silence has the second one in it.
const (
	silence = 250 * time.Millisecond
	quiet   = 150 * time.Millisecond
)

// stillStep is how often a wait for nothing looks at the clock.
const stillStep = 10 * time.Millisecond

// still is a context that ends by itself, as if by a deadline, when this machine has
// been awake for a while: of each step only its own length counts, however late the
// step comes. On a machine that is busy, or emulated on a busy one, a wait for what
// must not come is longer by what it was held up itself.
type still struct {
	context.Context
	done chan struct{}
	err  error // once it is done
}

// newStill waits for so much, and by the clock for no more than most.
func newStill(ctx context.Context, wait, most time.Duration) (context.Context, context.CancelFunc) {
	limited, cancel := context.WithTimeout(ctx, most)
	s := &still{Context: limited, done: make(chan struct{})}
	go func() {
		defer cancel()
		defer close(s.done)
		tick := time.NewTicker(stillStep)
		defer tick.Stop()
		s.err = s.count(wait, tick.C)
	}()
	return s, cancel
}

// count counts ticks, of which those that were missed do not come.
func (s *still) count(wait time.Duration, ticks <-chan time.Time) error {
	for ; wait > 0; wait -= stillStep {
		select {
		case <-s.Context.Done():
			return s.Context.Err()
		case <-ticks:
		}
	}
	return context.DeadlineExceeded
}

func (s *still) Done() <-chan struct{} { return s.done }

func (s *still) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}
