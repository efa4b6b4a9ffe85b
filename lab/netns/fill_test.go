// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAFilledPoolLoadsNothingMore(t *testing.T) {
	needRoot(t)
	pool := NewPool(1)
	require.NoError(t, pool.Fill(t.Context(), 2))
	opened := pool.Opened()
	for _, sockets := range []bool{false, true} {
		network := twoNodes()
		network.Uplinks, network.Sockets = true, sockets
		w, err := pool.New(t.Context(), network, Options{})
		require.NoError(t, err)
		before := loadedPrograms(t)
		for _, n := range w.nodes {
			require.NoError(t, n.ns.run(n.datapath.LoadAll))
		}
		require.Equal(t, before, loadedPrograms(t))
		require.NoError(t, w.Close())
	}
	require.Equal(t, opened, pool.Opened())
	require.NoError(t, pool.Close())
}

// loadedPrograms is how many BPF programs this process holds.
func loadedPrograms(t *testing.T) (count int) {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == "anon_inode:bpf-prog" {
			count++
		}
	}
	require.NotZero(t, count)
	return count
}
