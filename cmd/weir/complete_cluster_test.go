// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPodsAndNodesOfAClusterAreCompleted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/v1/pods":
			fmt.Fprint(w, `{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"web","namespace":"shop"}},{"metadata":{"name":"dns","namespace":"kube-system"}}]}`)
		case "/api/v1/nodes":
			fmt.Fprint(w, `{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"worker"}}]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	config := testFile(t, "config", "apiVersion: v1\nkind: Config\ncurrent-context: c\n"+
		"clusters: [{name: c, cluster: {server: "+server.URL+"}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n")
	t.Setenv("KUBECONFIG", config)
	out, _, code := weirIn("__complete", "monitor", "--pod", "sh")
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "shop/web\n")
	require.NotContains(t, out, "kube-system")

	t.Setenv("KUBECONFIG", "/nonexistent")
	out, _, _ = weirIn("__complete", "policy", "check", "--kubeconfig", config, "--from", "")
	require.Contains(t, out, "shop/web\n")
	require.Contains(t, out, "node/worker\n")
	out, _, code = weirIn("__complete", "flow", "list", "--from", "")
	require.Equal(t, exitOK, code)
	require.NotContains(t, out, "shop/web")
}
