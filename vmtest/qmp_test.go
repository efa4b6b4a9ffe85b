// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// monitored is a QEMU that has said all that it will ever say, and hears
// everything.
type monitored struct {
	net.Conn // nil: nothing else is asked of it
	said     *bytes.Reader
}

func says(text string) monitored { return monitored{said: bytes.NewReader([]byte(text))} }

func (m monitored) Read(b []byte) (int, error)    { return m.said.Read(b) }
func (m monitored) Write(b []byte) (int, error)   { return len(b), nil }
func (m monitored) SetDeadline(_ time.Time) error { return nil }

const greeting = `{"QMP": {"version": {}, "capabilities": []}}{"return": {}}`

func TestTheMonitorSkipsEvents(t *testing.T) {
	m, err := newMonitor(says(greeting+`{"event": "STOP"}{"return": {"status": "paused"}}`), time.Second)
	require.NoError(t, err)
	var state struct{ Status string }
	require.NoError(t, m.do("query-status", nil, &state))
	require.Equal(t, "paused", state.Status)
}

func TestTheMonitorTellsErrors(t *testing.T) {
	m, err := newMonitor(says(greeting+`{"error": {"class": "GenericError", "desc": "no such device"}}`), time.Second)
	require.NoError(t, err)
	require.EqualError(t, m.do("device_del", nil, nil), "QMP device_del: no such device")
	require.ErrorIs(t, m.do("cont", nil, nil), io.ErrUnexpectedEOF)
}

func FuzzMonitor(f *testing.F) {
	f.Add(greeting + `{"return": {"status": "running"}}`)
	f.Add(greeting + `{"error": {}}`)
	f.Add(`{"QMP": null}{"return": null}`)
	f.Add(`[]`)
	f.Add(greeting + `{"return": 7}`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := newMonitor(says(text), time.Second)
		if err != nil {
			return
		}
		var state struct{ Status string }
		for range 3 {
			if err := m.do("query-status", nil, &state); err != nil {
				require.ErrorContains(t, err, "query-status", "the command is named")
				return
			}
		}
	})
}
