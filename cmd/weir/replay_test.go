// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/replay"
)

// weirReplay runs `weir replay` and gives its output and exit code.
func weirReplay(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"replay"}, args...))
	err := root.Execute()
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), exitCode(err)
}

// testCapture has two packets of a connection to a service of testState, the
// second one cut.
func testCapture(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	w, err := pcap.NewWriter(&out)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	addr := func(name, a string) frame.Field {
		return frame.Field{Name: name, Value: frame.Addr(netip.MustParseAddr(a))}
	}
	num := func(name string, v int) frame.Field { return frame.Field{Name: name, Value: frame.Num(v)} }
	for i, flags := range []int{2, 16} {
		data, err := frame.Build(
			frame.Layer{Kind: "eth", Fields: []frame.Field{{Name: "src", Value: frame.MAC(make(net.HardwareAddr, 6))}, {Name: "dst", Value: frame.MAC(make(net.HardwareAddr, 6))}}},
			frame.Layer{Kind: "ipv4", Fields: []frame.Field{addr("src", "10.1.0.1"), addr("dst", "10.96.0.1")}},
			frame.Layer{Kind: "tcp", Fields: []frame.Field{num("sport", 1000), num("dport", 80), num("flags", flags)}})
		require.NoError(t, err)
		require.NoError(t, w.Write(pcap.Packet{Interface: n, Time: time.Unix(1_700_000_000+int64(i), 0), Data: data, Length: len(data) + 46*i}))
	}
	return testFile(t, "capture.pcapng", out.String())
}

func testFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const testState = `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
status: {podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

const testPolicy = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
`

func TestReplayPrintsATableAndASummary(t *testing.T) {
	needRoot(t)
	out, stderr, code := weirReplay("--by", "packet", testCapture(t))
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stderr, "made endpoints for the 1 addresses seen")
	require.Regexp(t, `(?m)^ +1  2023-11-14T22:13:20.000000Z +forward +tcp +10.1.0.1:1000 > 10.96.0.1:80  out device  flow new  at bpf/lib/forward.h:\d+$`, out)
	require.Contains(t, out, "(cut)")
	require.Contains(t, out, "2 packets: 2 forward, 0 drop, 0 refused; 1 cut behind their headers")
}

func TestReplayPrintsOneObjectALine(t *testing.T) {
	needRoot(t)
	state := testFile(t, "state.yaml", testState)
	out, stderr, code := weirReplay("-o", "json", "--state", state, testCapture(t))
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3)
	var first, last replay.Result
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &first))
	require.Equal(t, "default/web", first.To)
	require.Equal(t, "10.1.0.2", first.Xlate.Dst.String())
	require.NoError(t, json.Unmarshal([]byte(lines[2]), &last))
	require.Equal(t, 2, last.Summary.Packets)
	require.Equal(t, 2, last.Summary.Forward)
}

func TestAConnectionThatNoRuleAllowsNamesWhoIsolates(t *testing.T) {
	needRoot(t)
	state, capture := testFile(t, "state.yaml", testState+testPolicy), testCapture(t)
	out, stderr, code := weirReplay("--state", state, capture)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, "  policy-ingress  by NetworkPolicy/default/closed, no rule of which matches")
	out, stderr, code = weirReplay("--by", "connection", "-o", "json", "--state", state, capture)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, `"policy":"NetworkPolicy/default/closed","rule":-1,"isolating":["NetworkPolicy/default/closed"]}`)
}

func TestReplayOfADamagedFileFailsAfterWhatItCouldRead(t *testing.T) {
	needRoot(t)
	data, err := os.ReadFile(testCapture(t))
	require.NoError(t, err)
	damaged := testFile(t, "damaged.pcapng", string(data[:len(data)-3]))
	out, stderr, code := weirReplay("-o", "json", damaged)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, damaged+": damaged at offset")
	require.Contains(t, out, `{"n":1,`)
	require.Contains(t, lastLine(out), `"problems":["`)
	require.True(t, json.Valid([]byte(lastLine(out))))
}

func TestReplayWritesThePacketsWithTheirVerdicts(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "out.pcapng")
	_, stderr, code := weirReplay("-w", path, testCapture(t))
	require.Equal(t, exitOK, code, stderr)
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	r, err := pcap.NewReader(file)
	require.NoError(t, err)
	var p pcap.Packet
	require.NoError(t, r.Next(&p))
	require.Contains(t, p.Comments[0], "forward  out device")
}

func TestReplayMakesAScenario(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "made.txtar")
	_, stderr, code := weirReplay("--scenario", "2", "-o", path, "--state", testFile(t, "state.yaml", testState+testPolicy), testCapture(t))
	require.Equal(t, exitOK, code, stderr)
	out, _, code := weirScenario("run", path)
	require.Equal(t, exitOK, code)
	require.Equal(t, "1 passed, 0 failed, 0 skipped", lastLine(out))
	_, stderr, code = weirReplay("--scenario", "3", "-o", path, testCapture(t))
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "the captures have 2")
}

func TestReplayComparesStatesAndResults(t *testing.T) {
	needRoot(t)
	capture := testCapture(t)
	before, after := testFile(t, "before.yaml", testState), testFile(t, "after.yaml", testState+testPolicy)
	out, stderr, code := weirReplay("--diff", before, after, capture)
	require.Equal(t, exitOK, code, stderr)
	require.True(t, strings.HasPrefix(out, "tcp 10.1.0.1:1000 > 10.96.0.1:80: 2 packets changed, the first is 1; the connection would be dead\n"), out)
	require.Equal(t, "2 of 2 packets changed, in 1 flows; 0 connections dead before, 1 after", lastLine(out))
	_, _, code = weirReplay("--diff", "--exit-code", before, after, capture)
	require.Equal(t, exitFailed, code)

	was, _, _ := weirReplay("-o", "json", "--state", before, capture)
	is, _, _ := weirReplay("-o", "json", "--state", after, capture)
	out, stderr, code = weirReplay("--diff", "-o", "json", testFile(t, "was.json", was), testFile(t, "is.json", is))
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, `"after":"drop policy-ingress"`)
	require.JSONEq(t, `{"summary":{"packets":2,"changed":2,"flows":1,"more":0,"dead_before":0,"dead_after":1}}`, lastLine(out))

	object := "../../bpf/container_bpfel.o"
	out, stderr, code = weirReplay("--diff", "--state", before, object, object, capture)
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, "0 of 2 packets changed, in 0 flows; 0 connections dead before, 0 after", lastLine(out))
}

func TestReplayRefusesAWrongCommandLine(t *testing.T) {
	capture, state := testCapture(t), testFile(t, "state.yaml", testState)
	for says, args := range map[string][]string{
		"which capture?":                    {},
		"expected one of from-container":    {"--at", "nowhere", capture},
		"expected one of text, json":        {"-o", "xml", capture},
		"packets are numbered from 1":       {"--scenario", "0", capture},
		"goes with neither":                 {"--scenario", "1", "--diff", state, state, capture},
		"name A and B":                      {"--diff", state},
		"needs the captures":                {"--diff", state, state},
		"compares two of a kind":            {"--diff", state, "../../bpf/container_bpfel.o", capture},
		"goes without --state":              {"--diff", "--state", state, state, state, capture},
		"which is not given":                {"--node", "a", capture},
		"--diff and --write do not go":      {"--diff", "-w", "x", state, state, capture},
		"--scenario goes with neither --di": {"--scenario", "1", "-w", "x", capture},
		"would overwrite":                   {"-w", capture, capture},
	} {
		_, stderr, code := weirReplay(args...)
		require.Equal(t, exitUsage, code, "%v: %s", args, stderr)
		require.Contains(t, stderr, says, "%v", args)
	}
}

func TestReplaySaysWhatIsWrongWithItsFiles(t *testing.T) {
	needRoot(t)
	capture := testCapture(t)
	for says, args := range map[string][]string{
		"no such file":                {"/nonexistent.pcap"},
		"is a folder":                 {t.TempDir()},
		"neither pcap nor pcapng":     {testFile(t, "text", "hello")},
		"is not one of pod":           {"--state", testFile(t, "state.yaml", "apiVersion: v1\nkind: Nonsense\n"), capture},
		"not an object file":          {"--object", testFile(t, "x.o", "hello"), capture},
		"read object file":            {"--object", "/nonexistent.o", capture},
		"no such file or directory":   {"--state", "/nonexistent.yaml", capture},
		"read what to compare: open ": {"--diff", "/nonexistent.yaml", "/nonexistent.yaml", capture},
	} {
		_, stderr, code := weirReplay(args...)
		require.Equal(t, exitFailed, code, "%v: %s", args, stderr)
		require.Contains(t, strings.ToLower(stderr), strings.ToLower(says), "%v", args)
	}
}

func TestAComparisonOfReplaysEndsWith2OnAMistake(t *testing.T) {
	needRoot(t)
	missing := filepath.Join(t.TempDir(), "missing")
	good, bad, capture := testFile(t, "good.yaml", testState), testFile(t, "bad.yaml", "kind: ["), testCapture(t)
	for _, args := range [][]string{{good, missing, capture}, {good, bad, capture}, {good, good, missing}, {missing, good, capture}} {
		_, stderr, code := weirReplay(append([]string{"--diff", "--exit-code"}, args...)...)
		require.Equal(t, exitUsage, code, "%v: %s", args, stderr)
	}
}
