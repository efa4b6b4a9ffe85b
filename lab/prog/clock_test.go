// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
)

// A machine that lets the world wait for an hour ages nothing in it.
func TestWaitingAgesNothing(t *testing.T) {
	withWorld(t, testTopology, func(w *World) {
		reader := w.Datapath("").FlowReader()
		clock := func() time.Duration {
			_, now, err := reader.Now()
			require.NoError(t, err)
			return now
		}
		ping := func() {
			require.NoError(t, w.Ping(context.Background(), "default/a", testTopology.Pods[1].Addresses[0]))
		}
		ping()
		before, said := clock(), w.Now()
		// All clocks show an hour more, and the world has done nothing.
		const hour = time.Hour
		require.NoError(t, w.each(func(dp *datapath.Datapath) error { return dp.Advance(hour) }))
		w.offset += hour
		w.busy = w.busy.Add(-hour)
		require.Less(t, w.Now().Sub(said), time.Minute)
		ping()
		require.GreaterOrEqual(t, clock(), before)
		require.Less(t, clock()-before, time.Minute)
		require.Less(t, w.Now().Sub(said), time.Minute)
		walks := w.Walks()
		require.Equal(t, datapath.FlowKnown, walks[len(walks)-1].Steps[0].Decision.Flow)

		// An hour that is advanced is one.
		require.NoError(t, w.Advance(context.Background(), hour))
		require.GreaterOrEqual(t, clock()-before, hour)
		require.GreaterOrEqual(t, w.Now().Sub(said), hour)
	})
}
