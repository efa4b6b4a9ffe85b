// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

func keptFailure(t *testing.T, name string) *connectivity.Report {
	report, err := readFailures(nil, filepath.Join("../../scenarios/failure/testdata", name))
	require.NoError(t, err)
	return report
}

func TestAReportsFolderHasWhatIsKnownOfAFailure(t *testing.T) {
	report, folder := keptFailure(t, "reverse-nat.json"), filepath.Join(t.TempDir(), "new", "report")
	require.NoError(t, writeReport(folder, report))
	again, err := readFailures(nil, folder)
	require.NoError(t, err)
	require.Equal(t, report.Results[0].Errors, again.Results[0].Errors)

	of := filepath.Join(folder, "cluster-ip.node-1-udp.ipv4")
	story, err := os.ReadFile(filepath.Join(of, "story.txt"))
	require.NoError(t, err)
	for _, part := range []string{"timed out", "flow: from-container of", "policy allows", "done again: ", "captured then: ", "frames at client-1"} {
		require.Contains(t, string(story), part)
	}
	file, err := os.Open(filepath.Join(of, "client-1.pcapng"))
	require.NoError(t, err)
	defer file.Close()
	reader, err := pcap.NewReader(file)
	require.NoError(t, err)
	frames := 0
	for p := new(pcap.Packet); ; frames++ {
		err := reader.Next(p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Equal(t, "eth0", reader.Interface(p.Interface).Name)
	}
	require.Positive(t, frames)
}

// The report suffices: what 'weir policy check' says of its objects is what it said in
// the cluster.
func TestTheObjectsOfAReportAnswerForTheCluster(t *testing.T) {
	e := keptFailure(t, "policy.json").Results[0].Evidence
	var text bytes.Buffer
	require.NoError(t, writeObjects(&text, e.Objects))
	objs, err := manifest.Parse("objects.yaml", &text)
	require.NoError(t, err)
	require.NotEmpty(t, e.Policy)
	for _, said := range e.Policy {
		got, err := ruling(objs, said.From, said.To, said.Port)
		require.NoError(t, err)
		require.Equal(t, &said, got)
		require.False(t, got.Allowed)
		require.Contains(t, strings.Join(got.Why, "\n"), "policy-ingress-pod-1")
	}
}
