// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"context"
	"time"

	"github.com/weirnet/weir/datapath"
)

// pause is the longest that nothing happens in this world, by its clocks: a
// machine that has other things to do would let flows expire, and a scenario
// would pass or fail by its load. It is longer than the steps of the kernel's
// coarse clock, so that time never goes back.
const pause = 50 * time.Millisecond

// hold takes back from the clocks what has passed since the world was last busy,
// but for a pause.
func (w *World) hold() error {
	defer w.wasBusy()
	idle := time.Since(w.busy) - pause
	if w.busy.IsZero() || idle <= 0 {
		return nil
	}
	w.offset -= idle
	return w.each(func(dp *datapath.Datapath) error { return dp.Hold(idle) })
}

func (w *World) wasBusy() { w.busy = time.Now() }

// Now implements lab.World. It is where the clocks are held: who asks for the time
// is about to look at flows and to pass a frame, and between these no time is
// taken back.
func (w *World) Now() time.Time {
	if err := w.hold(); err != nil {
		w.unheld = err // the next frame is told
	}
	return w.busy.Add(w.offset)
}

// Advance implements lab.World.
func (w *World) Advance(_ context.Context, by time.Duration) error {
	if err := w.hold(); err != nil {
		return err
	}
	w.offset += by
	return w.each(func(dp *datapath.Datapath) error { return dp.Advance(by) })
}

// Collect implements lab.World.
func (w *World) Collect(context.Context) error {
	if err := w.hold(); err != nil {
		return err
	}
	defer w.wasBusy()
	return w.each(func(dp *datapath.Datapath) error {
		_, err := dp.Collect()
		return err
	})
}
