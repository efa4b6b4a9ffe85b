// SPDX-License-Identifier: Apache-2.0

package healthcheck_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/healthcheck"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// serverVariable makes this test's program a server of health checks.
const serverVariable = "WEIR_HEALTHCHECK_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverVariable) != "" {
		os.Exit(serveChecks())
	}
	os.Exit(m.Run())
}

// serveChecks reads checks, a list a line, and says "synced" when they are
// answered. It ends with its input.
func serveChecks() int {
	server := healthcheck.Server{}
	defer server.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var checks []compile.HealthCheck
		if err := json.Unmarshal(lines.Bytes(), &checks); err != nil {
			fmt.Println(err)
			return 1
		}
		if err := server.Sync(checks); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("synced")
	}
	return 0
}

// agentOf is a process on a node that answers its health checks.
type agentOf struct {
	node    string
	program *exec.Cmd
	tell    *json.Encoder
	said    *bufio.Scanner
}

func startAgent(t *testing.T, w *netns.World, node string) *agentOf {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	program := exec.CommandContext(ctx, os.Args[0])
	program.Env = append(os.Environ(), serverVariable+"=1")
	program.Stderr = os.Stderr
	in, err := program.StdinPipe()
	require.NoError(t, err)
	out, err := program.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, w.Start(node, program))
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, program.Wait())
		cancel()
	})
	return &agentOf{node: node, program: program, tell: json.NewEncoder(in), said: bufio.NewScanner(out)}
}

// apply gives a node's datapath and its health checks these objects.
func (a *agentOf) apply(t *testing.T, w *netns.World, topology lab.Topology, objects *manifest.Objects) {
	t.Helper()
	objects = manifest.DeriveEndpointSlices(objects)
	state, _, err := compile.All(objects, a.node, model.Local{
		Devices: model.DevicesOf(w.Devices(a.node)), Uplinks: w.Uplinks(a.node), Gateways: topology.Gateways,
		Options: model.Options{Masquerade: true},
	})
	require.NoError(t, err)
	_, err = w.Apply(t.Context(), a.node, state)
	require.NoError(t, err)
	require.NoError(t, a.tell.Encode(compile.HealthChecks(objects, a.node)))
	require.True(t, a.said.Scan())
	require.Equal(t, "synced", a.said.Text())
}

// curl asks from a host and gives the status and the body.
func curl(t *testing.T, w *netns.World, host, url string) (string, string) {
	t.Helper()
	path, err := exec.LookPath("curl")
	require.NoError(t, err, "run: apt-get install curl")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	program := exec.CommandContext(ctx, path, "--silent", "--show-error", "--noproxy", "*", "--write-out", "\n%{http_code}", url)
	var out, problems bytes.Buffer
	program.Stdout, program.Stderr = &out, &problems
	require.NoError(t, w.Start(host, program))
	require.NoError(t, program.Wait(), "%s: %s", program, &problems)
	body, status, found := cutLast(out.String(), "\n")
	require.True(t, found)
	return status, strings.TrimSpace(body)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

const localService = `
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Node
metadata: {name: node}
status:
  addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}]
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
status:
  addresses: [{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: "2001:db8::2"}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32111
  selector: {app: web}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec: {nodeName: node, containers: [{name: main, image: none}]}
status:
  podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]
  conditions: [{type: Ready, status: "True"}]
`

// TestABalancerOutsideLearnsWhichNodeHasBackends asks by real HTTP, through the
// datapath at the nodes' uplinks.
func TestABalancerOutsideLearnsWhichNodeHasBackends(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and loads BPF programs")
	}
	addresses := func(v4, v6 string) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
	}
	topology := lab.Topology{
		Nodes: []lab.Host{
			{Name: "node", Addresses: addresses("192.0.2.1", "2001:db8::1")},
			{Name: "node-2", Addresses: addresses("192.0.2.2", "2001:db8::2")},
		},
		Pods:     []lab.Host{{Name: "default/web", Addresses: addresses("10.0.0.1", "fd00::1"), Node: "node"}},
		Outside:  []lab.Host{{Name: "balancer", Addresses: addresses("198.51.100.1", "2001:db8:1::1")}},
		Gateways: addresses("10.0.0.254", "fd00::fffe"),
		Uplinks:  true,
	}
	w, err := netns.New(t.Context(), topology, netns.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })

	ready, err := manifest.Parse("ready.yaml", strings.NewReader(localService))
	require.NoError(t, err)
	unready, err := manifest.Parse("unready.yaml", strings.NewReader(strings.Replace(localService, `status: "True"`, `status: "False"`, 1)))
	require.NoError(t, err)
	agents := []*agentOf{startAgent(t, w, "node"), startAgent(t, w, "node-2")}
	for _, step := range []struct {
		objects *manifest.Objects
		local   int // endpoints on the first node
		status  string
	}{{ready, 1, "200"}, {unready, 0, "503"}, {ready, 1, "200"}} {
		for _, a := range agents {
			a.apply(t, w, topology, step.objects)
		}
		for _, host := range []string{"192.0.2.%d", "[2001:db8::%d]"} {
			status, body := curl(t, w, "balancer", fmt.Sprintf("http://"+host+":32111/healthz", 1))
			require.Equal(t, step.status, status)
			require.JSONEq(t, fmt.Sprintf(`{"service":{"namespace":"default","name":"web"},"localEndpoints":%d}`, step.local), body)
			status, _ = curl(t, w, "balancer", fmt.Sprintf("http://"+host+":32111/healthz", 2))
			require.Equal(t, "503", status, "the second node never has one")
		}
	}
}
