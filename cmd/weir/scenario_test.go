// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// weirScenario runs `weir scenario` and gives its output and exit code.
func weirScenario(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"scenario"}, args...))
	code = exitCode(root.Execute())
	return out.String(), errs.String(), code
}

func scenarioFile(t *testing.T, steps string) string {
	path := filepath.Join(t.TempDir(), "own.txtar")
	source := "# One's own.\nworlds prog\nfamilies ipv4\ntopology two-pods\n" + steps + "\n"
	require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	return path
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("worlds need root: run the test as root, or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF")
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestScenarioListShowsTheLibrary(t *testing.T) {
	out, _, code := weirScenario("list")
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "service-clusterip-tcp")
	out, _, code = weirScenario("list", "-o", "json")
	require.Equal(t, exitOK, code)
	for line := range strings.Lines(out) {
		var s struct{ Name, Description string }
		require.NoError(t, json.Unmarshal([]byte(line), &s))
		require.NotEmpty(t, s.Description, "%s does not say what it is about", s.Name)
	}
}

func TestScenarioShowPrintsAFile(t *testing.T) {
	out, _, code := weirScenario("show", "gateway-arp")
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "arp(op=request tpa=gateway)")
	_, _, code = weirScenario("show", "no-such-scenario")
	require.Equal(t, exitUsage, code)
	_, _, code = weirScenario("show")
	require.Equal(t, exitUsage, code)
}

func TestScenarioCheckFindsMistakes(t *testing.T) {
	path := scenarioFile(t, "ping client -> wep")
	_, stderr, code := weirScenario("check", path)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, path+":5: ping: wep is no host")
	out, _, code := weirScenario("check")
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "no mistakes")
}

func TestScenarioRunEndsWithTheCount(t *testing.T) {
	needRoot(t)
	out, _, code := weirScenario("run", "--world", "prog", scenarioFile(t, "ping client -> web"))
	require.Equal(t, exitOK, code, out)
	require.Equal(t, "1 passed, 0 failed, 0 skipped", lastLine(out))

	reports := filepath.Join(t.TempDir(), "reports")
	out, _, code = weirScenario("run", "--report", reports, scenarioFile(t, "ping client -> web fails timeout"))
	require.Equal(t, exitFailed, code)
	require.Equal(t, "0 passed, 1 failed, 0 skipped", lastLine(out))
	captures, err := filepath.Glob(filepath.Join(reports, "2*", "own-ipv4-prog*.pcapng"))
	require.NoError(t, err)
	require.Len(t, captures, 1)
	require.Contains(t, out, "capture: "+captures[0])
	require.FileExists(t, filepath.Join(reports, "latest", "junit.xml"))
}

func TestScenarioRunGivesJSONALine(t *testing.T) {
	needRoot(t)
	out, _, code := weirScenario("run", "-o", "json", scenarioFile(t, "ping client -> web"))
	require.Equal(t, exitOK, code)
	var r map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	for _, field := range []string{"scenario", "world", "kernel", "result", "seconds"} {
		require.Contains(t, r, field)
	}
}

func TestScenarioRunOfNothingFails(t *testing.T) {
	out, stderr, code := weirScenario("run", "--run", "no-such-scenario")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "no scenario was run")
	require.Equal(t, "0 passed, 0 failed, 0 skipped", lastLine(out))
}

func TestScenarioRunRefusesAWrongCommandLine(t *testing.T) {
	for _, args := range [][]string{{"--world", "moon"}, {"-o", "yaml"}, {"--run", "("}, {"--no-such-flag"}} {
		_, _, code := weirScenario(append([]string{"run"}, args...)...)
		require.Equal(t, exitUsage, code, "%v", args)
	}
}

func TestScenarioWordsExplainsEveryVerb(t *testing.T) {
	out, _, code := weirScenario("words")
	require.Equal(t, exitOK, code)
	for _, w := range []string{"connect HOST -> ", "expect HOST nothing", "topology four-pods", "port-unreachable("} {
		require.Contains(t, out, w)
	}
}

func TestScenarioRunShowsWhatIsReached(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "reached")
	out, _, code := weirScenario("run", "--world", "prog", "--cover", dir, scenarioFile(t, "ping client -> web"))
	require.Equal(t, exitOK, code, out)
	require.Regexp(t, `cover: \d+\.\d % of lines reached \(\d+ of \d+\), \d+\.\d % of branches \(\d+ of \d+\); see .*/index.html\n1 passed`, out)
	require.Contains(t, out, "no program of host.bpf.c ran")
	lcov, err := os.ReadFile(filepath.Join(dir, "cover.lcov"))
	require.NoError(t, err)
	require.Contains(t, string(lcov), "SF:bpf/lib/packet.h\n")
	alone, err := os.ReadFile(filepath.Join(dir, "alone.json"))
	require.NoError(t, err)
	require.Contains(t, string(alone), `{"scenario":"own/ipv4","lines":[{"file":"container.bpf.c",`)
	require.FileExists(t, filepath.Join(dir, "lib.packet.h.html"))
}
