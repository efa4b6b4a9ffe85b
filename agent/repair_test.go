// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/api"
)

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// What somebody deletes from a table comes back, and the agent tells of it.
func TestTablesThatDriftAreRepairedAndToldOf(t *testing.T) {
	n := newNode(t)
	var log journal
	n.options.Config.RepairInterval = "50ms" // which an operator may not choose
	n.options.Log = slog.New(slog.NewTextHandler(&log, nil))
	n.options.Metrics = "127.0.0.1:9871"
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	a.add()
	addrs := b.add()
	await := func(what func(api.Repair) bool) (r api.Repair) {
		t.Helper()
		require.Eventually(t, func() bool { r = n.status().Repair; return what(r) }, patience, 10*time.Millisecond)
		return r
	}
	await(func(r api.Repair) bool { return r.Compared > 0 })
	require.Empty(t, n.status().Repair.Entries)

	m, err := ebpf.LoadPinnedMap(filepath.Join(n.paths.Pins, "endpoints"), nil)
	require.NoError(t, err)
	defer m.Close()
	key, err := m.NextKeyBytes(nil)
	require.NoError(t, err)
	require.NoError(t, m.Delete(key))
	r := await(func(r api.Repair) bool { return r.Entries["endpoints"] == 1 })
	require.Equal(t, map[string]uint64{"endpoints": 1}, r.Entries)
	require.Contains(t, log.String(), `level=WARN msg="a table was not what the state in force says, and is repaired" table=endpoints missing=1 surplus=0 wrong=0 keys="missing ifindex `)
	for _, at := range addrs {
		require.NoError(t, a.reach(b, at), at)
	}
	await(func(r api.Repair) bool { return r.Repaired() == 0 && r.Entries["endpoints"] == 1 })

	var answer *http.Response
	require.Eventually(t, func() bool { // it listens beside what else begins with the agent
		answer, err = http.Get("http://127.0.0.1:9871/metrics")
		return err == nil
	}, patience, 10*time.Millisecond)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), `weir_repaired_entries_total{table="endpoints"} 1`)
	require.Contains(t, string(text), "weir_repair_last_timestamp_seconds 1")
}
