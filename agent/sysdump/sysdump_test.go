// SPDX-License-Identifier: Apache-2.0

package sysdump

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

const (
	nodesList = `{"kind":"NodeList","apiVersion":"v1","items":[
		{"kind":"Node","apiVersion":"v1","metadata":{"name":"up"}},{"kind":"Node","apiVersion":"v1","metadata":{"name":"down"}},{"kind":"Node","apiVersion":"v1","metadata":{"name":"bare"}}]}`
	agentsList = `{"kind":"PodList","apiVersion":"v1","items":[
		{"kind":"Pod","apiVersion":"v1","metadata":{"name":"weir-up","namespace":"kube-system","labels":{"app.kubernetes.io/name":"weir"}},"spec":{"nodeName":"up","containers":[{"name":"agent","image":"weir:1","env":[{"name":"NODE_NAME","value":"up"}]}]},
		 "status":{"containerStatuses":[{"name":"agent","restartCount":1}]}},
		{"kind":"Pod","apiVersion":"v1","metadata":{"name":"weir-down","namespace":"kube-system","labels":{"app.kubernetes.io/name":"weir"}},"spec":{"nodeName":"down","containers":[{"name":"agent","image":"weir:1"}]}}]}`
	podsList = `{"kind":"PodList","apiVersion":"v1","items":[
		{"kind":"Pod","apiVersion":"v1","metadata":{"name":"shop","namespace":"default","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"a\":\"hunter2\"}","db-password":"hunter2"}},
		 "spec":{"containers":[{"name":"c","image":"shop:1","args":["--token","hunter2"],"env":[{"name":"DATABASE","value":"hunter2"}]}],"volumes":[{"name":"v","secret":{"secretName":"shop-tls"}}]}}]}`
)

// cluster is an API server whose node down does not answer, and that has an agent on
// two of three nodes.
func cluster(t *testing.T) *rest.Config {
	empty := func(kind string) string { return `{"kind":"` + kind + `","apiVersion":"v1","items":[]}` }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer := func(text string) { _, _ = io.WriteString(w, text) }
		path := r.URL.Path
		switch {
		case strings.Contains(path, "secrets"):
			t.Errorf("a Secret was asked for: %s", path)
		case path == "/version":
			answer(`{"gitVersion":"v1.2.3"}`)
		case strings.HasPrefix(path, "/api/v1/namespaces/kube-system/pods/weir-down/"):
			<-r.Context().Done() // the node is down
		case path == "/api/v1/namespaces/kube-system/pods/weir-up/log":
			answer(map[string]string{"": "it runs, password=hunter2\n", "true": "it ended\n"}[r.URL.Query().Get("previous")])
		case path == "/api/v1/nodes":
			answer(nodesList)
		case path == "/api/v1/pods":
			answer(podsList)
		case path == "/api/v1/namespaces/kube-system/pods":
			answer(agentsList)
		case path == "/api/v1/services":
			w.WriteHeader(http.StatusForbidden)
			answer(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"services are forbidden","reason":"Forbidden","code":403}`)
		case strings.HasPrefix(path, "/api/v1/") && !strings.Contains(path, "configmaps") && !strings.Contains(path, "exec"), strings.HasPrefix(path, "/apis/discovery"), strings.HasPrefix(path, "/apis/networking"):
			answer(empty("List"))
		default:
			w.WriteHeader(http.StatusNotFound)
			answer(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"there is no such thing","reason":"NotFound","code":404}`)
		}
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return &rest.Config{Host: server.URL}
}

func options(t *testing.T) Options {
	return Options{
		Path: filepath.Join(t.TempDir(), "dump.zip"), Version: "test", Since: time.Hour, Timeout: 300 * time.Millisecond, Listen: time.Second,
		Room: 1 << 20, Say: func(line string) { t.Log(line) },
	}
}

// unzipped gives the files of a zip.
func unzipped(t *testing.T, path string) map[string]string {
	all, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer all.Close()
	files := map[string]string{}
	for _, f := range all.File {
		in, err := f.Open()
		require.NoError(t, err)
		text, err := io.ReadAll(in)
		require.NoError(t, err)
		files[f.Name] = string(text)
	}
	return files
}

func TestWhatCannotBeHadIsNamedAndKeepsNothingElseOut(t *testing.T) {
	o := options(t)
	index, err := Write(t.Context(), cluster(t), o)
	require.NoError(t, err)
	files := unzipped(t, o.Path)
	require.Contains(t, files["objects/nodes.yaml"], "name: down")
	require.Contains(t, files["nodes/up/agent.log"], "it runs")
	require.Contains(t, files["nodes/up/agent-previous.log"], "it ended")
	for _, line := range []string{
		"objects/services.yaml: services are forbidden",
		"weir/daemonset.yaml: there is no Weir in this cluster",
		"node down: nodes/down/agent.log: there was no answer within 300ms (--timeout)",
		"node down: nodes/down/status.json: there was no answer within 300ms (--timeout)",
		"node bare: nodes/bare/agent.log: no agent's pod is on this node",
		"node up: nodes/up/status.json: exec /weir in pod kube-system/weir-up",
	} {
		require.Contains(t, files["errors.txt"], line)
	}
	var read Index
	require.NoError(t, json.Unmarshal([]byte(files["index.json"]), &read))
	require.Equal(t, index.Lacks, read.Lacks)
	require.Equal(t, "v1.2.3", read.Kube)
	require.Equal(t, []string{"up", "down", "bare"}, read.Nodes)
	for name, text := range files {
		require.NotContains(t, text, "hunter2", name)
	}
	require.Contains(t, files["objects/pods.yaml"], "secretName: shop-tls")
}

func TestFilesAreCutWhereThereIsNoRoom(t *testing.T) {
	o := options(t)
	o.Room, o.Nodes = 40, []string{"up"}
	index, err := Write(t.Context(), cluster(t), o)
	require.NoError(t, err)
	require.Equal(t, []string{"up"}, index.Nodes)
	require.Contains(t, unzipped(t, o.Path)["errors.txt"], "objects/nodes.yaml: cut after 40 bytes: raise --size-limit")
}

func TestThereIsNoHalfZip(t *testing.T) {
	o := options(t)
	o.Timeout = time.Hour
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	o.Say = func(line string) {
		if strings.HasPrefix(line, "node up") {
			cancel(stopped) // while the node that is down is waited for
		}
	}
	_, err := Write(ctx, cluster(t), o)
	require.ErrorIs(t, err, stopped)
	left, err := os.ReadDir(filepath.Dir(o.Path))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestANodeThatIsNotThereIsRefused(t *testing.T) {
	o := options(t)
	o.Nodes = []string{"away"}
	_, err := Write(t.Context(), cluster(t), o)
	require.EqualError(t, err, "there is no node away: the cluster has up, down, bare")
}

func TestSecretsAreLeftOut(t *testing.T) {
	for text, want := range map[string]string{
		"token: abc":                           "token: (left out)",
		`{"apiKey":"abc","n":1}`:               `{"apiKey":"(left out)","n":1}`,
		`{"labels":"app=x,token=abc"}`:         `{"labels":"app=x,token=(left out)"}`,
		"Authorization: Bearer abcdefghij":     "Authorization: (left out)",
		"postgres://me:pass@db/shop":           "postgres://(left out)@db/shop",
		"say eyJhbGciOiJI.eyJzdWIiOi.sig here": "say (left out) here",
		"-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest": "(left out)\nrest",
		`secret "shop-tls" not found`: `secret "shop-tls" not found`,
		"10.0.0.1:80 policy-ingress":  "10.0.0.1:80 policy-ingress",
	} {
		require.Equal(t, want, redactText(text))
	}
	object := map[string]any{
		"args": []any{"--api-token", "hunter2", "--listen", ":80", "--key=hunter2"},
		"data": map[string]any{"config.yaml": "mtu: 1400\npassword: hunter2\n", "sshPrivateKey": "hunter2"},
		"env":  []any{map[string]any{"name": "DB_PASSWD", "value": "hunter2"}, map[string]any{"name": "MTU", "value": "1400"}},
	}
	redactObject(object, true)
	text := fmt.Sprint(object)
	require.NotContains(t, text, "hunter2")
	require.Contains(t, text, "mtu: 1400\npassword: (left out)")
	require.Contains(t, text, "--listen :80")
	require.Contains(t, text, "value:1400")
}
