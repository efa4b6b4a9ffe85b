// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/pcap"
)

// weirRecord runs `weir record` and gives what it says and its exit code.
func weirRecord(args ...string) (stderr string, code int) {
	var errs bytes.Buffer
	root := rootCommand()
	root.SetErr(&errs)
	root.SetArgs(append([]string{"record"}, args...))
	err := root.Execute()
	if err != nil {
		errs.WriteString(err.Error())
	}
	return errs.String(), exitCode(err)
}

func TestRecordWritesWhatInterfacesCarryAndWhatWasDecided(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "out.pcapng")
	stderr, code := weirRecord("service-clusterip-tcp", "--family", "ipv6", "-w", path)
	require.Equal(t, exitOK, code, stderr)
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	r, err := pcap.NewReader(file)
	require.NoError(t, err)
	var notes []string
	var p pcap.Packet
	for err = r.Next(&p); err == nil; err = r.Next(&p) {
		notes = append(notes, p.Comments...)
	}
	require.Contains(t, strings.Join(notes, "\n"), "from-container of default/client: forward, out local")
}

func TestRecordRefusesWhatItCannotRecord(t *testing.T) {
	prog := scenarioFile(t, "ping client -> web")
	for says, args := range map[string][]string{
		"which scenario?":         {},
		"where to?":               {"service-clusterip-tcp"},
		"no file and no scenario": {"no-such-scenario", "-w", "x"},
		"is not for world netns":  {prog, "-w", "x"},
		"is for ipv4 ipv6":        {"service-clusterip-tcp", "--family", "ipx", "-w", "x"},
		"has ":                    {"../../scenarios/library", "-w", "x"},
	} {
		stderr, code := weirRecord(args...)
		require.Equal(t, exitUsage, code, "%v: %s", args, stderr)
		require.Contains(t, stderr, says, "%v", args)
	}
}
