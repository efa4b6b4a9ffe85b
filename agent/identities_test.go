// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent"
	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
)

// agreed are the numbers of a cluster without an API server.
type agreed struct {
	changed func()
	report  func(error)
	mu      sync.Mutex
	numbers map[string]model.Identity
	wanted  map[string]model.WantedIdentity
}

func (s *agreed) Numbers() map[string]model.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.numbers)
}

func (s *agreed) Use(wanted map[string]model.WantedIdentity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = wanted
}

func (s *agreed) Count() (shared, local int)  { return len(s.numbers), 0 }
func (s *agreed) Run(ctx context.Context)     { <-ctx.Done() }
func (s *agreed) WaitForSync(context.Context) {}

// agree gives labels a number.
func (s *agreed) agree(key string, number model.Identity) {
	s.mu.Lock()
	s.numbers = map[string]model.Identity{key: number}
	s.mu.Unlock()
	s.changed()
}

// keyOf gives the key of labels that the agent has found.
func (s *agreed) keyOf(app string) (string, model.WantedIdentity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, w := range s.wanted {
		if w.Labels.PodLabels["app"] == app {
			return key, w
		}
	}
	return "", model.WantedIdentity{}
}

func TestPodsAreConnectedBeforeTheClusterHasANumberForThem(t *testing.T) {
	n := newNode(t)
	shared := new(agreed)
	n.options.Identities = func(changed func(), report func(error)) (agent.Identities, error) {
		shared.changed, shared.report = changed, report
		return shared, nil
	}
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	require.Eventually(t, func() bool { key, _ := shared.keyOf("a"); return key != "" }, patience, 5*time.Millisecond, "pods are told before they have addresses")
	key, w := shared.keyOf("a")
	require.Equal(t, model.IdentityUnknown, w.Number)
	require.True(t, w.Here)

	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	a.add()
	at := b.add()[0]
	require.NoError(t, a.reach(b, at))
	numbers := func() map[string]uint32 {
		found := map[string]uint32{}
		for _, e := range n.endpoints() {
			found[e.PodName] = e.Identity
		}
		return found
	}
	for pod, number := range numbers() {
		require.False(t, model.Identity(number).IsShared(), pod)
	}
	shared.agree(key, 4711)
	require.Eventually(t, func() bool { return numbers()["a"] == 4711 }, patience, 5*time.Millisecond)
	require.NoError(t, a.reach(b, at))
	var list []api.Identity
	require.NoError(t, api.NewClient(filepath.Join(n.paths.RunDir, "agent.sock")).Get(t.Context(), api.PathIdentities, &list))
	scopes := map[string]api.Scope{}
	for _, id := range list {
		scopes[id.Labels] = id.Scope
	}
	require.Equal(t, api.ScopeShared, scopes["app=a"])
	require.Equal(t, api.ScopeLocal, scopes["app=b"])
	require.Equal(t, api.ScopeReserved, scopes["reserved:world"])

	shared.report(context.DeadlineExceeded)
	require.Equal(t, "share identities", n.status().Errors[0].What)
	shared.report(nil)
	require.Empty(t, n.status().Errors)
	for _, s := range []*sandbox{a, b} {
		_, err := s.call("DEL", nil)
		require.NoError(t, err)
	}
}
