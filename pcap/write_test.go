// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
	"github.com/stretchr/testify/require"
)

func example(t *testing.T) []byte {
	var out bytes.Buffer
	w, err := NewWriter(&out, "a capture of the test")
	require.NoError(t, err)
	pod, err := w.AddInterface("client", "the pod's side")
	require.NoError(t, err)
	require.NoError(t, w.Write(Packet{
		Interface: pod, Time: time.Unix(1_700_000_000, 123_456_789), Direction: Out,
		Data:     []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xb5payload"),
		Comments: []string{"dropped: policy-ingress at judge.h:10", "second note"},
	}))
	return out.Bytes()
}

func TestACaptureIsReadBackByAnotherImplementation(t *testing.T) {
	r, err := pcapgo.NewNgReader(bytes.NewReader(example(t)), pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	data, info, err := r.ReadPacketData()
	require.NoError(t, err)
	require.Len(t, data, 21)
	require.Equal(t, int64(1_700_000_000_123_456_789), info.Timestamp.UnixNano())
	iface, err := r.Interface(0)
	require.NoError(t, err)
	require.Equal(t, "client", iface.Name)
}

func TestTsharkShowsTheNotesBesideThePacket(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	require.NoError(t, err, "captures are checked against it: apt-get install tshark")
	path := filepath.Join(t.TempDir(), "notes.pcapng")
	require.NoError(t, os.WriteFile(path, example(t), 0o600))
	out, err := exec.Command(tshark, "-r", path, "-T", "fields", "-e", "frame.comment", "-e", "frame.interface_name").CombinedOutput()
	require.NoError(t, err, string(out))
	text := string(out)
	require.True(t, strings.Contains(text, "policy-ingress at judge.h:10") && strings.Contains(text, "second note"), text)
	require.Contains(t, text, "client")
}

func TestAPacketOfAnUnknownInterfaceIsRefused(t *testing.T) {
	w, err := NewWriter(&bytes.Buffer{})
	require.NoError(t, err)
	require.ErrorContains(t, w.Write(Packet{Interface: 1}), "add it first")
}
