// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
)

// Packets are told while others, which come after them, are judged: nothing of an
// outcome may be of a later packet. They are cut, so that their frames are made, and
// led to a backend, so that they leave with another header.
func TestAnOutcomeIsItsOwnPackets(t *testing.T) {
	needRoot(t)
	const packets = 3*maxBatches*batchPackets + 1
	var all []sent
	for i := range packets {
		f := tcp(t, "10.1.0.1", "10.96.0.1", 1000+i, 80, syn)
		all = append(all, sent{float64(i) / 1e6, f, len(f) + i%500})
	}
	captures := captureOf(t, all...)
	told := 0
	err := WithNetwork(context.Background(), func(n *Network) error {
		r, err := Open(context.Background(), n, captures, Options{At: model.FromContainer, Objects: objects(t)})
		if err != nil {
			return err
		}
		ran := r.Run(context.Background(), captures, func(o *Outcome) error {
			port := uint16(1000 + told)
			if told++; o.Number != told || len(o.Frame) != all[told-1].length || o.Translated == nil ||
				binary.BigEndian.Uint16(o.Frame[34:]) != port || o.Header.Sport != port || o.Translated.Sport != port ||
				binary.BigEndian.Uint16(o.Packet.Data[34:]) != port {
				return errors.New("packet " + Note(o) + " has something of another")
			}
			return nil
		})
		return errors.Join(ran, r.Close())
	})
	require.NoError(t, err)
	require.Equal(t, packets, told)
}

// Who has seen enough of a pipe does not wait until more comes.
func TestWhoIsToldEndsAPipe(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	captures, enough := &Captures{Paths: []string{path}}, errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- WithNetwork(context.Background(), func(n *Network) error {
			r, err := Open(context.Background(), n, captures, Options{At: model.FromContainer})
			if err != nil {
				return err
			}
			return errors.Join(r.Run(context.Background(), captures, func(*Outcome) error { return enough }), r.Close())
		})
	}()
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer out.Close()
	w, err := pcap.NewWriter(out)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	require.NoError(t, w.Write(pcap.Packet{Interface: n, Time: begin, Data: tcp(t, "10.0.0.1", "10.0.0.2", 1, 2, syn)}))
	require.ErrorIs(t, <-done, enough)
}
