// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// withoutCluster takes away what names a cluster of this machine's.
func withoutCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	t.Setenv("HOME", t.TempDir())
}

func TestClusterCommandsRefuseWrongUsage(t *testing.T) {
	withoutCluster(t)
	for line, want := range map[string]string{
		"install --api-server 192.0.2.1":                   "it is HOST:PORT",
		"install --masquerade-excluded 10.0.0.0":           `"10.0.0.0" is not an address block`,
		"install --dry-run --api-server h:1 --return x":    "return: 'x' is unknown",
		"install --dry-run -o json":                        "there is only yaml",
		"install -o yaml":                                  "--dry-run is not given: the cluster would be changed",
		"status --socket /run/x":                           "--socket is where this node's agent is asked, and --local is not given",
		"status --local --context prod":                    "--context is about a whole cluster, and --local asks this node's agent alone",
		"status --local --wait":                            "--wait is about a whole cluster",
		"status --timeout 1m":                              "--timeout ends --wait, which is not given",
		"install now":                                      "unknown command",
		"status -o yaml":                                   "there is only table and json",
		"image":                                            "where to?",
		"lab cluster up --nodes 0":                         "a cluster has one at least",
		"lab cluster up --ip-family ipv5":                  `IP family "ipv5" is unknown`,
		"lab cluster up --name My_Cluster":                 "no DNS label",
		"lab traffic load":                                 "whom to ask?",
		"lab traffic load --target h:1 --duration 0s":      "more than nothing",
		"lab traffic load --target h:1 --output table":     "it is text or json",
		"install --dry-run --api-server h:1 --mtu 100":     "mtu: 100 is not between",
		"install --dry-run --api-server h:1 --maglev-size": "flag needs an argument",
	} {
		_, stderr, code := weirIn(strings.Fields(line)...)
		require.Contains(t, stderr, want, line)
		require.Equal(t, exitUsage, code, line)
	}
}

func TestClusterCommandsSayHowToNameACluster(t *testing.T) {
	withoutCluster(t)
	for _, command := range []string{"install", "uninstall", "status", "sysdump"} {
		_, stderr, code := weirIn(command)
		require.Contains(t, stderr, "--kubeconfig", command)
		require.Equal(t, exitFailed, code, command)
	}
}

func TestDryRunNeedsNoCluster(t *testing.T) {
	withoutCluster(t)
	out, stderr, code := weirIn("install", "--dry-run", "--api-server", "192.0.2.1:6443", "--mtu", "1400")
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, "kind: DaemonSet")
	require.Contains(t, out, "mtu: 1400")
}

func TestAnAgentThatIsAwayIsAFailure(t *testing.T) {
	_, stderr, code := weirIn("status", "--local", "--socket", filepath.Join(t.TempDir(), "agent.sock"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "the agent of this node does not answer")
}
