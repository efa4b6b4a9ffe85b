// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/weirnet/weir/scenarios"
)

// Marks in a guest's kernel log.
const (
	beginMark = "weir: begin "
	endMark   = "weir: end "
)

func label(r scenarios.Result) string { return string(r.World) + " " + r.Scenario }

// writeMark writes a line into the kernel's log, where it stands before and
// behind what the kernel says. Every opening of the file has a rate limit of
// its own, so each mark opens it anew (devkmsg_write of kernel/printk/printk.c).
func writeMark(mark, label string) error {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("mark the kernel's log: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString("<6>" + mark + label); err != nil {
		return fmt.Errorf("mark the kernel's log: %w", err)
	}
	return nil
}

// trail is which runs began and ended, in the order of the kernel's log.
type trail struct {
	running string // or ""
	last    string // the last that ended, or ""
}

// follow takes one line of the log, and says whether a run began.
func (t *trail) follow(line string) (began bool) {
	if _, name, ok := strings.Cut(line, beginMark); ok {
		t.running = name
		return true
	}
	if _, name, ok := strings.Cut(line, endMark); ok {
		t.running, t.last = "", name
	}
	return false
}

// blamed is the run during which the log ends, or else the last before.
func (t *trail) blamed() string {
	if t.running != "" {
		return t.running
	}
	return t.last
}

// blame finds the run during which, or right after which, the kernel said
// something; "" if none had begun. The text is the log; without a title it is
// its end that is looked for.
func blame(log, title string) string {
	if at := strings.Index(log, title); title != "" && at >= 0 {
		log = log[:at]
	}
	var t trail
	for line := range strings.Lines(log) {
		t.follow(strings.TrimRight(line, "\r\n"))
	}
	return t.blamed()
}

// watcher reads a guest's kernel log as it comes. It is an io.Writer.
type watcher struct {
	began chan<- struct{} // gets a token at each mark of a beginning

	mu      sync.Mutex
	partial []byte
	ended   map[string]bool // before the last beginning
	trail   trail
}

func newWatcher(began chan<- struct{}) *watcher {
	return &watcher{began: began, ended: map[string]bool{}}
}

func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = append(w.partial, b...)
	for {
		line, rest, found := bytes.Cut(w.partial, []byte("\n"))
		if !found {
			return len(b), nil
		}
		text := strings.TrimRight(string(line), "\r")
		w.partial = append(w.partial[:0], rest...)
		if !w.trail.follow(text) {
			continue
		}
		if w.trail.last != "" {
			w.ended[w.trail.last] = true
		}
		select {
		case w.began <- struct{}{}:
		default: // one token says it all
		}
	}
}

// over says whether another run has begun since that one ended.
func (w *watcher) over(label string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[label]
}
