// SPDX-License-Identifier: Apache-2.0

package phase

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// In a bubble of synctest nothing but a sleep takes time.

func TestPhasesAddUpToTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock()
		ctx := With(context.Background(), c)
		time.Sleep(1 * time.Second)
		endSteps := Start(ctx, Steps)
		time.Sleep(2 * time.Second)
		endWaits := Start(ctx, Waits)
		time.Sleep(4 * time.Second)
		endWaits()
		time.Sleep(8 * time.Second)
		endSteps()
		time.Sleep(16 * time.Second)
		require.Equal(t, map[Phase]float64{Other: 17, Steps: 10, Waits: 4}, c.Seconds())
	})
}

func TestAPhaseTwiceCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock()
		ctx := With(context.Background(), c)
		defer Start(ctx, Waits)()
		end := Start(ctx, Waits)
		time.Sleep(time.Second)
		end()
		time.Sleep(time.Second)
		require.Equal(t, map[Phase]float64{Waits: 2}, c.Seconds())
	})
}

func TestWhatWasMeasuredElsewhereIsMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock()
		ctx := With(context.Background(), c)
		defer Start(ctx, Tables)()
		time.Sleep(3 * time.Second)
		Move(ctx, Attach, time.Second)
		require.Equal(t, map[Phase]float64{Tables: 2, Attach: 1}, c.Seconds())
		Move(ctx, Load, time.Hour)
		Move(ctx, Load, -time.Hour)
		require.Equal(t, map[Phase]float64{Attach: 1, Load: 2}, c.Seconds(), "no more than there was")
	})
}

func TestWithoutAClockNothingIsMeasured(t *testing.T) {
	end := Start(context.Background(), Load)
	Move(context.Background(), Attach, time.Second)
	end()
	require.Nil(t, of(context.Background()))
}
