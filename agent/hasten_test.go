// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/api"
)

// stop holds an agent's datapath at a step, once.
type stop struct {
	at       atomic.Pointer[string]
	reached  chan struct{}
	released chan struct{}
}

// stoppable makes a node whose datapath a test can stop.
func stoppable(t *testing.T) (*node, *stop) {
	t.Helper()
	n := newNode(t)
	s := &stop{reached: make(chan struct{}), released: make(chan struct{})}
	n.options.Datapath.Step = func(name string) {
		if at := s.at.Load(); at != nil && *at == name && s.at.CompareAndSwap(at, nil) {
			s.reached <- struct{}{}
			<-s.released
		}
	}
	return n, s
}

const aService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, uid: uid-of-web}
spec: {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{name: http, port: 80}]}
---
`

// answers asks the agent for all that it tells.
func (n *node) answers() {
	n.t.Helper()
	n.status()
	n.endpoints()
	for _, path := range []string{api.PathServices, api.PathPolicies, api.PathIdentities} {
		var list []any
		require.NoError(n.t, n.client.Get(n.t.Context(), path, &list))
	}
}

// While a state is being applied, at whatever step it is, a pod is connected that the
// state does not know, and the agent answers. Were the ADD to wait for the Apply, it
// would not end.
func TestAPodIsConnectedWhileAStateIsBeingApplied(t *testing.T) {
	for _, step := range []string{"write services", "turn the epoch"} {
		t.Run(step, func(t *testing.T) {
			n, s := stoppable(t)
			before := nodes + podObject("a")
			n.source.set(before)
			n.start()
			a := n.sandbox("a", "aaaa")
			a.add()
			s.at.Store(&step)
			n.source.set(before + aService)
			<-s.reached

			n.source.set(before + aService + podObject("b"))
			b := n.sandbox("b", "bbbb")
			addrs := b.add()
			n.answers()
			for _, e := range n.endpoints() {
				require.True(t, e.Ready, e.PodName)
			}
			reached := func() {
				t.Helper()
				for _, at := range addrs {
					require.NoError(t, a.reach(b, at), at)
				}
			}
			reached()
			applied := n.status().Apply.Count
			s.released <- struct{}{}
			require.Eventually(t, func() bool {
				reached() // whatever the passes do meanwhile
				s := n.status()
				// One applies the service, and the next one the pod.
				return s.Apply.Count >= applied+2 && s.Services > 0 && s.Endpoints.Ready == 2
			}, patience, 1)
			reached()

			_, err := b.call("DEL", nil)
			require.NoError(t, err)
			require.Len(t, n.endpoints(), 1)
		})
	}
}

// A pod that was connected beside a state, and is taken away before a state has known of
// it, leaves nothing in the datapath.
func TestAPodThatNoStateKnewLeavesNothing(t *testing.T) {
	n, s := stoppable(t)
	before := nodes + podObject("a")
	n.source.set(before)
	n.start()
	a := n.sandbox("a", "aaaa")
	a.add()
	step := "turn the epoch"
	s.at.Store(&step)
	n.source.set(before + aService)
	<-s.reached
	n.source.set(before + aService + podObject("b"))
	b := n.sandbox("b", "bbbb")
	addrs := b.add()
	_, err := b.call("DEL", nil)
	require.NoError(t, err)
	n.source.set(before + aService)
	s.released <- struct{}{}
	ipcache, err := ebpf.LoadPinnedMap(filepath.Join(n.paths.Pins, "ipcache"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ipcache.Close()) })
	require.Eventually(t, func() bool {
		for _, addr := range addrs {
			key := addr.As16()
			if value, err := ipcache.LookupBytes(key[:]); err != nil || value != nil {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
	require.Equal(t, 1, n.status().Endpoints.Ready)
}

// While the collector is in the middle of its walk, pods are connected, states applied,
// and all is answered.
func TestAPodIsConnectedWhileFlowsAreCollected(t *testing.T) {
	n, s := stoppable(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	step := "collect flows"
	s.at.Store(&step)
	<-s.reached
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	a.add()
	for _, at := range b.add() {
		require.NoError(t, a.reach(b, at), at)
	}
	n.answers()
	s.released <- struct{}{}
}
