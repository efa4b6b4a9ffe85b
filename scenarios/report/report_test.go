// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/junit"
	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/shard"
)

// failing is a scenario that fails at its last step, in world prog.
const failing = `# A service leads elsewhere.
worlds prog
families ipv4
topology two-pods
apply web.yaml

send client ip(dst=web.default) tcp(sport=40000 dport=80 flags=S)
expect web ip(src=client dst=web) tcp(dport=8081 flags=S)

-- web.yaml --
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector:
    app: web
  ports:
  - port: 80
    targetPort: 8080
`

func run(t *testing.T, sources ...string) []scenarios.Result {
	if os.Geteuid() != 0 {
		t.Fatal("worlds need root: run the test as root, or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF")
	}
	var all []*scenarios.Scenario
	for i, source := range sources {
		s, err := scenarios.Parse(string(rune('a'+i))+".txtar", []byte(source))
		require.NoError(t, err)
		all = append(all, s)
	}
	results, err := (&scenarios.Runner{Parallel: 1}).Run(context.Background(), all)
	require.NoError(t, err)
	return results
}

func TestAFailureTellsItsStory(t *testing.T) {
	r := run(t, failing)[0]
	story := (&Text{}).Story(r)
	for _, part := range []string{
		"a.txtar:8: expect web ip(src=client dst=web) tcp(dport=8081 flags=S)",
		"tcp.dport\n    expected  8081\n    got       8080",
		"the odd one out is the scenario",
		"client sent   ipv4(src=10.0.0.10 dst=10.96.0.10",
		"from-container of default/client: forward, out local",
		"flow new, at bpf/",
		"services hit",
		"dst=10.96.0.10→10.0.0.11",
		"dport=80→8080",
		"→ web",
		"Service default/web (ClusterIP) port 80 may lead it to 10.0.0.11 port 8080",
		"repeat: weir scenario run --world prog --run '^a/ipv4$' a.txtar",
	} {
		require.Contains(t, story, part)
	}
	require.NotContains(t, story, "\x1b")
	require.Contains(t, (&Text{Colour: true}).Story(r), "\x1b[31m")
}

func TestTheLastLineStandsAlone(t *testing.T) {
	passing := strings.Replace(failing, "dport=8081", "dport=8080", 1)
	results := run(t, failing, passing)
	var out bytes.Buffer
	text := &Text{Out: &out}
	for _, r := range results {
		text.Result(r)
	}
	text.Summary(results)
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	require.Equal(t, "1 passed, 1 failed, 0 skipped", lines[len(lines)-1])
}

func TestAFolderKeepsResultsStoriesAndCaptures(t *testing.T) {
	results := run(t, failing)
	dir := filepath.Join(t.TempDir(), "reports")
	folder, err := NewFolder(dir)
	require.NoError(t, err)
	require.NoError(t, folder.Add(results[0]))
	capture := folder.Capture(results[0])
	require.NoError(t, folder.Close(results, &shard.Run{Ended: true, Results: 1}))
	dir = folder.Path()

	data, err := os.ReadFile(filepath.Join(dir, "results.json"))
	require.NoError(t, err)
	var line map[string]any
	require.NoError(t, json.Unmarshal(data, &line))
	require.Equal(t, "a/ipv4", line["scenario"])
	require.Equal(t, "fail", line["result"])
	require.Equal(t, "prog", line["world"])
	require.Equal(t, scenarios.Kernel(), line["kernel"])
	for _, field := range []string{"reason", "seconds", "family"} {
		require.Contains(t, line, field)
	}

	var doc junit.Suites
	data, err = os.ReadFile(filepath.Join(dir, "junit.xml"))
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal(data, &doc))
	require.Equal(t, junit.Property{Name: "kernel", Value: scenarios.Kernel()}, doc.Suites[0].Properties[0])
	require.Equal(t, 1, doc.Suites[0].Failures)
	require.Contains(t, doc.Suites[0].Cases[0].Failure.Text, "dport=80→8080")
	require.Equal(t, line["cause"], doc.Suites[0].Cases[0].Failure.Type)
	require.Len(t, doc.Suites, 1)

	story, err := os.ReadFile(strings.TrimSuffix(capture, ".pcapng") + ".txt")
	require.NoError(t, err)
	require.Contains(t, string(story), "table services:")
	require.Contains(t, string(story), "flows:")
	checkCapture(t, capture)
}

// Of a frame in a namespace only what the datapath told is known.
func TestAFailureInNamespacesTellsWhatTheDatapathTold(t *testing.T) {
	source := strings.Replace(failing, "worlds prog", "worlds netns", 1)
	r := run(t, strings.Replace(source, "dst=web.default) tcp(sport=40000 dport=80 ", "dst=web) tcp(sport=40000 dport=8080 ", 1))[0]
	require.Equal(t, scenarios.Fail, r.Outcome)
	story := (&Text{}).Story(r)
	require.Contains(t, story, "tcp 10.0.0.10:40000 -> 10.0.0.11:8080\n  from-container of default/client: forward, out local")

	var file bytes.Buffer
	require.NoError(t, Capture(&file, r))
	reader, err := pcap.NewReader(&file)
	require.NoError(t, err)
	var notes []string
	for p := (pcap.Packet{}); reader.Next(&p) == nil; {
		for _, c := range p.Comments {
			notes = append(notes, reader.Interface(p.Interface).Name+": "+c)
		}
	}
	require.Contains(t, strings.Join(notes, "\n"), "web: from-container of default/client: forward, out local")
}

// checkCapture reads a capture with the tool that people will open it with.
func checkCapture(t *testing.T, path string) {
	tshark, err := exec.LookPath("tshark")
	require.NoError(t, err, "captures are checked against it: apt-get install tshark")
	cmd := exec.Command(tshark, "-r", path, "-o", "tcp.check_checksum:TRUE", "-T", "fields",
		"-e", "frame.interface_name", "-e", "ip.dst", "-e", "tcp.dstport", "-e", "tcp.checksum.status", "-e", "frame.comment")
	out, err := cmd.Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Contains(t, lines[0], "client\t10.96.0.10\t80\t1\t")
	require.Contains(t, lines[0], "from-container of default/client: forward")
	require.Contains(t, lines[1], "web\t10.0.0.11\t8080\t1\t")
}
