// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStillEndsAsByADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := newStill(t.Context(), 100*time.Millisecond, time.Minute)
		defer cancel()
		inner, cancelInner := context.WithCancel(ctx)
		defer cancelInner()
		<-inner.Done()
		require.ErrorIs(t, inner.Err(), context.DeadlineExceeded, "what is derived from it ends like it")
		require.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

func TestStillIsNotLongerThanMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := newStill(t.Context(), time.Hour, 25*time.Millisecond)
		defer cancel()
		<-ctx.Done()
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
		require.Equal(t, 25*time.Millisecond, time.Since(began))
	})
}

func TestStillIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := newStill(t.Context(), time.Hour, time.Hour)
		require.NoError(t, ctx.Err())
		cancel()
		<-ctx.Done()
		require.ErrorIs(t, ctx.Err(), context.Canceled)
	})
}

// A machine that is held up is given the time that it lost.
func TestStillCountsStepsAndNotTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ticks, ended := make(chan time.Time), make(chan error, 1)
		go func() { ended <- (&still{Context: t.Context()}).count(3*stillStep, ticks) }()
		for range 3 {
			time.Sleep(time.Hour)
			require.Empty(t, ended)
			ticks <- time.Now()
		}
		require.ErrorIs(t, <-ended, context.DeadlineExceeded)
	})
}
