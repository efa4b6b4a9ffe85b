// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// A pod asks for what nobody serves, twice as often as it is told, at one moment.
func TestAPodIsRefusedAsOftenAsTheOperatorSays(t *testing.T) {
	for name, tt := range map[string]struct {
		refusals uint32
		told     int
	}{
		"as many as by default":                 {0, model.DefaultRefusals},
		"ten a second, and as many at once":     {10, 10},
		"three, of which each takes 334 ms":     {3, 2},
		"one":                                   {1, 1},
		"more than there can be, as by default": {1 << 20, model.DefaultRefusals},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			for i := range n.state.Services.Len() {
				n.state.Services.At(i).Backends = nil
			}
			d := openDatapath(t, Options{Refusals: tt.refusals, StopClock: true})
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			r := d.Runner(model.FromContainer)
			for _, to := range []struct {
				device   model.Device
				src, dst string
			}{
				{n.client, "10.0.0.1", "10.96.0.1"}, {n.web, "fd00::2", "fd96::1"},
			} {
				told := 0
				for i := range 2 * tt.told {
					ran, err := r.Run(tcpFrame(t, to.src, to.dst, uint16(1024+i), 80, syn), to.device.Ifindex, 0)
					require.NoError(t, err)
					require.Equal(t, model.ReasonNoBackend, ran.Decision.Reason)
					if ran.Decision.Action == model.Reply {
						told++
					}
				}
				require.Equal(t, tt.told, told, to.dst)
			}
		})
	}
}
