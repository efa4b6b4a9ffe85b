// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/weirnet/weir/model"
)

// use leaves a trace in every table that packets and Apply write.
func use(t *testing.T, d *Datapath, n *node) {
	t.Helper()
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Advance(time.Hour))
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000, 80, syn), model.Forward)
	run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 40000, synAck), model.Forward)
	run(t, d, n.client, tcpFrame(t, "10.0.0.9", "10.0.0.2", 40000, 80, syn), model.Drop)
}

func TestAResetDatapathIsLikeOneJustOpened(t *testing.T) {
	for _, opts := range []Options{{}, {Attach: true}, {Attach: true, ForceClsact: true}} {
		t.Run(fmt.Sprintf("attached: %t, by clsact: %t", opts.Attach, opts.ForceClsact), func(t *testing.T) {
			n := newNode(t)
			opts.Flows, opts.Unanswered = 1024, 1024
			d := openDatapath(t, opts)
			residue, err := d.Residue()
			require.NoError(t, err)
			require.Empty(t, residue)

			use(t, d, n)
			residue, err = d.Residue()
			require.NoError(t, err)
			what := fmt.Sprint(residue)
			for _, trace := range []string{"table endpoints", "table ct_unanswered", "table changed", "the counter", "the meter", "the epoch is 2", "the ring has"} {
				require.Contains(t, what, trace)
			}
			require.Equal(t, opts.Attach, len(d.attached.links)+len(d.attached.filters) > 0)

			require.NoError(t, d.Reset())
			residue, err = d.Residue()
			require.NoError(t, err)
			require.Empty(t, residue)
		})
	}
}

func TestAResetDatapathServesAnotherNamespace(t *testing.T) {
	for _, clsact := range []bool{false, true} {
		t.Run(fmt.Sprintf("by clsact: %t", clsact), func(t *testing.T) {
			n := newNode(t)
			opts := small()
			opts.Attach, opts.ForceClsact = true, clsact
			d := openDatapath(t, opts)
			use(t, d, n)
			require.NoError(t, d.Reset())

			elsewhere, err := netns.New()
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, elsewhere.Close()) })
			there := &node{client: addDevice(t, "client"), web: addDevice(t, "web")}
			there.state = newState(there.client, there.web)
			use(t, d, there)
		})
	}
}

// A datapath that was reset may be attached otherwise than before, and one that is
// attached may not.
func TestAResetDatapathIsAttachedAsIsAsked(t *testing.T) {
	n := newNode(t)
	opts := small()
	opts.Attach = true
	d := openDatapath(t, opts)
	before := d.Attachment()
	for _, clsact := range []bool{true, false} {
		require.NoError(t, d.ByClsact(clsact))
		want := before
		if clsact {
			want = "clsact"
		}
		require.Equal(t, want, d.Attachment())
		use(t, d, n)
		require.ErrorIs(t, d.ByClsact(!clsact), ErrAttached)
		require.Equal(t, want, d.Attachment())
		require.NoError(t, d.Reset())
	}
	opts.ForceClsact = true
	forced := openDatapath(t, opts)
	require.NoError(t, forced.ByClsact(false))
	require.Equal(t, "clsact", forced.Attachment(), "as the options have it")
}
