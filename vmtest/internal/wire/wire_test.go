// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFramesArriveAsTheyWereSent(t *testing.T) {
	var stream bytes.Buffer
	w := NewWriter(&stream)
	require.NoError(t, w.Send(Stdout, 7, []byte("text")))
	require.NoError(t, w.Send(Beat, 0, nil))
	require.NoError(t, w.SendJSON(Exit, 1<<31, ExitMessage{Code: 3}))
	r := NewReader(&stream)
	f, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, Frame{Stdout, 7, []byte("text")}, f)
	f, err = r.Next()
	require.NoError(t, err)
	require.Equal(t, Frame{Beat, 0, []byte{}}, f)
	f, err = r.Next()
	require.NoError(t, err)
	var exit ExitMessage
	require.NoError(t, f.Decode(&exit))
	require.Equal(t, 3, exit.Code)
	_, err = r.Next()
	require.Equal(t, io.EOF, err)
}

func TestAFrameThatBreaksOffIsNotAnEnd(t *testing.T) {
	var stream bytes.Buffer
	require.NoError(t, NewWriter(&stream).Send(Stdout, 7, []byte("text")))
	whole := stream.Bytes()
	for n := 1; n < len(whole); n++ {
		_, err := NewReader(bytes.NewReader(whole[:n])).Next()
		require.Equalf(t, io.ErrUnexpectedEOF, err, "after %d bytes", n)
	}
}

func TestAFrameTooLargeIsRefusedAtBothEnds(t *testing.T) {
	require.Error(t, NewWriter(io.Discard).Send(Stdout, 0, make([]byte, MaxPayload+1)))
	_, err := NewReader(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0})).Next()
	require.ErrorContains(t, err, "more than")
}

func TestAStreamIsCutAndWhole(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), ChunkSize/4)
	var stream, got bytes.Buffer
	require.NoError(t, NewWriter(&stream).SendStream(FileData, 1, bytes.NewReader(data)))
	r := NewReader(&stream)
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		require.LessOrEqual(t, len(f.Payload), ChunkSize)
		got.Write(f.Payload)
	}
	require.Equal(t, data, got.Bytes())
}

func FuzzReader(f *testing.F) {
	var stream bytes.Buffer
	NewWriter(&stream).Send(Stdout, 7, []byte("text"))
	f.Add(stream.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		var again bytes.Buffer
		w := NewWriter(&again)
		for {
			frame, err := r.Next()
			if err != nil {
				break
			}
			require.NoError(t, w.Send(frame.Kind, frame.ID, frame.Payload))
		}
		require.True(t, bytes.HasPrefix(data, again.Bytes()), "what was read is what was there")
	})
}
