// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/datapath"
)

// monitor hands the datapath's events to whoever watches.
type monitor struct {
	mu       sync.Mutex
	watchers map[chan []api.Event]*uint64 // what each has missed
}

// A watcher that is too slow misses events, and is told how many: the datapath
// does not wait.
const monitorRoom = 64

func (m *monitor) join() (events chan []api.Event, leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers == nil {
		m.watchers = map[chan []api.Event]*uint64{}
	}
	events = make(chan []api.Event, monitorRoom)
	m.watchers[events] = new(uint64)
	return events, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, events)
	}
}

func (m *monitor) watched() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.watchers) > 0
}

func (m *monitor) tell(events []api.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for watcher, missed := range m.watchers {
		batch := events
		if *missed > 0 {
			batch = append([]api.Event{{Time: time.Now(), Missed: *missed}}, events...)
		}
		select {
		case watcher <- batch:
			*missed = 0
		default:
			*missed += uint64(len(events))
		}
	}
}

const (
	eventInterval = 50 * time.Millisecond
	idleInterval  = 500 * time.Millisecond
)

// watchEvents empties the ring, so that who begins to watch sees nothing old.
func (a *Agent) watchEvents(ctx context.Context) error {
	interval := idleInterval
	names := newDirectory()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		watched := a.monitor.watched()
		raw, err := a.datapath.Events()
		a.report("read the datapath's events", err)
		interval = idleInterval
		if !watched {
			names = newDirectory()
			continue
		}
		interval = eventInterval
		if len(raw) == 0 {
			continue
		}
		now := monotonic()
		names = a.directoryOf(names)
		events := make([]api.Event, 0, len(raw))
		for i := range raw {
			events = append(events, toEvent(&raw[i], now, &names))
		}
		a.monitor.tell(events)
	}
}

func monotonic() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func toEvent(e *datapath.Event, now time.Duration, names *directory) api.Event {
	event := api.Event{
		Time: time.Now().Add(e.Time - now), Hook: string(e.Hook), Endpoint: e.Endpoint,
		Verdict: string(e.Decision.Action), Reason: string(e.Decision.Reason), Protocol: e.Tuple.Protocol.String(),
		Source: netip.AddrPortFrom(e.Tuple.Src, e.Tuple.Sport).String(),
		Target: netip.AddrPortFrom(e.Tuple.Dst, e.Tuple.Dport).String(),
		From:   names.identity(e.SrcIdentity), To: names.identity(e.DstIdentity),
		Flow: string(e.Decision.Flow), Length: e.Length,
		Direction: e.Direction().String(), Reply: e.Reply, TCPFlags: tcpFlags(e.TCPFlags),
		SourceParty: names.party(e.Tuple.Src), TargetParty: names.party(e.Tuple.Dst),
	}
	if source := netip.AddrPortFrom(e.After.Src, e.After.Sport).String(); source != event.Source && e.After.Src.IsValid() {
		event.SourceAfter = source
	}
	if target := netip.AddrPortFrom(e.After.Dst, e.After.Dport).String(); target != event.Target && e.After.Dst.IsValid() {
		event.TargetAfter = target
	}
	if !e.Decision.Origin.Policy.IsZero() {
		event.Policy = e.Decision.Origin.String()
	}
	if e.Decision.File != "" {
		event.Place = fmt.Sprintf("%s:%d", e.Decision.File, e.Decision.Line)
	}
	return event
}

// tcpFlags are the letters of the flags that are set, as tcpdump has most of them.
func tcpFlags(flags uint8) string {
	var text strings.Builder
	for i, letter := range "FSRPAUEC" {
		if flags&(1<<i) != 0 {
			text.WriteRune(letter)
		}
	}
	return text.String()
}

func (a *Agent) serveMonitor(w http.ResponseWriter, r *http.Request) {
	events, leave := a.monitor.join()
	defer leave()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	lines := json.NewEncoder(w)
	if err := out.Flush(); err != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case batch := <-events:
			for i := range batch {
				if lines.Encode(&batch[i]) != nil {
					return
				}
			}
			if out.Flush() != nil {
				return
			}
		}
	}
}
