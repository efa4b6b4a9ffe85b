// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock is the API server's, which leases go by: those of the machines that take
// them may be hours apart. It is as exact as HTTP's dates, to a second.
type clock struct{ ahead atomic.Int64 } // of this machine's, in nanoseconds

func (c *clock) now() time.Time { return time.Now().Add(c.aheadBy()) }

func (c *clock) aheadBy() time.Duration { return time.Duration(c.ahead.Load()) }

// watch learns the time from each answer.
func (c *clock) watch(next http.RoundTripper) http.RoundTripper { return &watched{c, next} }

type watched struct {
	clock *clock
	next  http.RoundTripper
}

func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if at, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		w.clock.ahead.Store(int64(time.Until(at)))
	}
	return answer, nil
}
