// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// api answers as a cluster of one node, whose clock is hours ahead.
type fakeAPI struct {
	ahead   time.Duration
	lease   string // of a namespace that a session before has left
	mu      sync.Mutex
	deleted []string
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", time.Now().Add(f.ahead).UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodDelete {
		f.mu.Lock()
		f.deleted = append(f.deleted, r.URL.Path)
		f.mu.Unlock()
	}
	switch r.URL.Path {
	case "/api/v1/nodes":
		w.Write([]byte(`{"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}]}`))
	case "/api/v1/namespaces":
		w.Write([]byte(`{"kind": "NamespaceList", "apiVersion": "v1", "items": [{"metadata": {"name": "weir-old", "annotations": {"` + annotationLease + `": "` + f.lease + `"}}}]}`))
	case "/apis/apps/v1/namespaces/kube-system/daemonsets/weir":
		w.WriteHeader(http.StatusNotFound)
		w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`))
	default:
		w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Success"}`))
	}
}

func TestALeaseGoesByTheServersClock(t *testing.T) {
	for name, c := range map[string]struct {
		ahead time.Duration
		over  bool // by that clock
	}{
		"a lease that is over by the server's clock alone":    {5 * time.Hour, true},
		"a lease that is over by this machine's clock alone":  {-5 * time.Hour, false},
		"a lease that is over by a clock that is this one's":  {0, true},
		"a lease that holds by a clock that is this one's":    {0, false},
		"a lease that holds by a clock that is hours forward": {5 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			until := time.Now().Add(c.ahead + time.Hour)
			if c.over {
				until = until.Add(-2 * time.Hour)
			}
			f := &fakeAPI{ahead: c.ahead, lease: until.Format(time.RFC3339)}
			server := httptest.NewServer(f)
			defer server.Close()
			s, err := Open(t.Context(), Options{Kubeconfig: kubeconfig(t, server.URL), Image: "weir:dev"})
			require.NoError(t, err)
			require.InDelta(t, c.ahead.Seconds(), s.ClockAhead().Seconds(), 2)
			if c.over {
				require.Contains(t, f.deleted, "/api/v1/namespaces/weir-old")
			} else {
				require.Empty(t, f.deleted)
			}
		})
	}
}

func TestWhoLooksRemovesNothingAndNeedsNoImage(t *testing.T) {
	f := &fakeAPI{lease: time.Now().Add(-time.Hour).Format(time.RFC3339)}
	server := httptest.NewServer(f)
	defer server.Close()
	_, err := Open(t.Context(), Options{Kubeconfig: kubeconfig(t, server.URL), Look: true})
	require.NoError(t, err)
	require.Empty(t, f.deleted)
	_, err = Open(t.Context(), Options{Kubeconfig: kubeconfig(t, server.URL)})
	require.ErrorContains(t, err, "no image is known that has the program weir")
}
