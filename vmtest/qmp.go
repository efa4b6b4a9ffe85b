// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// monitor speaks QMP, QEMU's machine protocol, one command at a time.
// https://www.qemu.org/docs/master/interop/qmp-spec.html
type monitor struct {
	mu   sync.Mutex
	conn net.Conn
	dec  *json.Decoder
}

// newMonitor waits for the greeting, which comes when QEMU has made its
// devices.
func newMonitor(conn net.Conn, deadline time.Duration) (*monitor, error) {
	m := &monitor{conn: conn, dec: json.NewDecoder(bufio.NewReader(conn))}
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return nil, err
	}
	var greeting struct{ QMP json.RawMessage }
	if err := m.dec.Decode(&greeting); err != nil {
		return nil, fmt.Errorf("greet QEMU: %w", err)
	}
	return m, m.do("qmp_capabilities", nil, nil)
}

// qmpDeadline is far beyond what any command takes: a QEMU that does not
// answer is dead.
const qmpDeadline = 20 * time.Second

// do runs one command, and decodes what it returns.
func (m *monitor) do(command string, arguments, result any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.conn.SetDeadline(time.Now().Add(qmpDeadline)); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := m.dec.Decode(&reply); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("QMP %s: %w", command, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("QMP %s: %s", command, reply.Error.Desc)
		case reply.Return == nil: // an event
		case result == nil:
			return nil
		default:
			if err := json.Unmarshal(reply.Return, result); err != nil {
				return fmt.Errorf("QMP %s: %w", command, err)
			}
			return nil
		}
	}
}

// await polls until done says so. Both states that are waited for come within
// milliseconds, and neither has an event that cannot be missed.
func (m *monitor) await(what string, deadline time.Duration, done func() (bool, error)) error {
	for start := time.Now(); ; time.Sleep(500 * time.Microsecond) {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if time.Since(start) > deadline {
			return fmt.Errorf("QEMU did not %s within %s", what, deadline)
		}
	}
}

// saveTo writes the state of a stopped machine without its memory, which is a
// file of its own.
func (m *monitor) saveTo(file string) error {
	if err := m.shareMemory(); err != nil {
		return err
	}
	if err := m.do("migrate", map[string]any{"uri": "exec:cat > '" + file + "'"}, nil); err != nil {
		return err
	}
	return m.await("save its state", qmpDeadline, func() (bool, error) {
		var info struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := m.do("query-migrate", nil, &info); err != nil {
			return false, err
		}
		if info.Status == "failed" {
			return false, fmt.Errorf("QEMU could not save its state: %s", info.Error)
		}
		return info.Status == "completed", nil
	})
}

// loadFrom is for a QEMU that waits for a state (-incoming defer).
func (m *monitor) loadFrom(file string) error {
	if err := m.shareMemory(); err != nil {
		return err
	}
	if err := m.do("migrate-incoming", map[string]any{"uri": "exec:cat '" + file + "'"}, nil); err != nil {
		return err
	}
	return m.await("load its state", qmpDeadline, func() (bool, error) {
		var status struct{ Status string }
		err := m.do("query-status", nil, &status)
		return status.Status != "inmigrate", err
	})
}

// shareMemory leaves memory out of the state.
func (m *monitor) shareMemory() error {
	type capability struct {
		Name  string `json:"capability"`
		State bool   `json:"state"`
	}
	return m.do("migrate-set-capabilities", map[string]any{
		"capabilities": []capability{{"x-ignore-shared", true}},
	}, nil)
}
