// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// SplatKind says what a kernel complained about.
type SplatKind string

// What a kernel complains about. After the fatal ones the machine is not used
// any more.
const (
	Panic       SplatKind = "panic"
	Oops        SplatKind = "oops"
	Bug         SplatKind = "bug"
	SoftLockup  SplatKind = "soft lockup"
	HardLockup  SplatKind = "hard lockup"
	RCUStall    SplatKind = "rcu stall"
	HungTask    SplatKind = "hung task"
	OutOfMemory SplatKind = "out of memory"
	Warning     SplatKind = "warning"
	Sanitizer   SplatKind = "sanitizer" // KASAN, UBSAN, KCSAN, KFENCE, lockdep
)

// Fatal tells whether the machine is lost.
func (k SplatKind) Fatal() bool {
	switch k {
	case Warning, Sanitizer, OutOfMemory:
		return false
	}
	return true
}

// Splat is a complaint of the kernel, in its own words.
type Splat struct {
	Kind  SplatKind
	Title string // the first line
	Text  string // the whole of it
}

func (s Splat) String() string { return fmt.Sprintf("%s: %s", s.Kind, s.Title) }

// splatStarts are tried in this order on each line, without its time stamp.
var splatStarts = []struct {
	kind SplatKind
	line *regexp.Regexp
}{
	{Panic, regexp.MustCompile(`Kernel panic - not syncing`)},
	{Panic, regexp.MustCompile(`^weir-init: cannot go on`)},
	{SoftLockup, regexp.MustCompile(`BUG: soft lockup`)},
	{HardLockup, regexp.MustCompile(`hard LOCKUP|NMI watchdog: Watchdog detected`)},
	{RCUStall, regexp.MustCompile(`^rcu: INFO: .*(detected|self-detected) (stall|expedited stall)|^rcu: INFO: .*stalls? on CPUs`)},
	{HungTask, regexp.MustCompile(`^INFO: task .* blocked (in I/O wait )?for more than`)},
	{Sanitizer, regexp.MustCompile(`^BUG: (KASAN|KCSAN|KFENCE|KMSAN)|^UBSAN:|^WARNING: (possible|inconsistent|bad unlock|suspicious)`)},
	{Oops, regexp.MustCompile(`^BUG: (kernel NULL pointer|unable to handle)|^Oops: |^general protection fault|^(invalid opcode|stack segment|double fault|divide error|int3): .*\[#`)},
	{Bug, regexp.MustCompile(`^kernel BUG at|^BUG: (?:scheduling|sleeping|workqueue|Bad|using|memory leak|spinlock)`)},
	{OutOfMemory, regexp.MustCompile(`Out of memory: Killed|Memory cgroup out of memory: Killed|Out of memory and no killable`)},
	{Warning, regexp.MustCompile(`^WARNING: `)},
}

var (
	timeStamp  = regexp.MustCompile(`^\[\s*\d+\.\d+\](\[\s*[TC]\d+\])? `)
	splatEnd   = regexp.MustCompile(`---\[ end (trace|Kernel panic)`)
	ansiEscape = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")
)

// maxSplatLines bounds a splat whose end is not marked.
const maxSplatLines = 80

// consoleLimit is how much of a console is kept, in bytes: the newest.
const consoleLimit = 1 << 20

// console reads what the kernel says, and finds complaints in it. It is an
// io.Writer, for what copies from QEMU.
type console struct {
	onSplat func(Splat) // called when the first line of one has come; of the fatal ones, once

	mu      sync.Mutex
	text    []byte
	dropped int64 // bytes forgotten at the start
	line    []byte
	splats  []*Splat
	open    *Splat // one whose end has not come
	lines   int    // of it
	fatal   bool
	marks   map[string]chan struct{}
}

func newConsole(onSplat func(Splat)) *console {
	return &console{onSplat: onSplat, marks: make(map[string]chan struct{})}
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	var begun []Splat
	c.text = append(c.text, b...)
	if excess := len(c.text) - consoleLimit; excess > consoleLimit/4 {
		c.text = append(c.text[:0], c.text[excess:]...)
		c.dropped += int64(excess)
	}
	c.line = append(c.line, b...)
	for {
		line, rest, found := bytes.Cut(c.line, []byte("\n"))
		if !found {
			break
		}
		if s := c.read(strings.TrimRight(string(line), "\r")); s != nil {
			begun = append(begun, *s)
		}
		c.line = append(c.line[:0], rest...)
	}
	c.mu.Unlock()
	for _, s := range begun {
		if c.onSplat != nil {
			c.onSplat(s)
		}
	}
	return len(b), nil
}

// read takes one line, and returns the splat that begins with it.
func (c *console) read(line string) *Splat {
	line = ansiEscape.ReplaceAllString(line, "")
	bare := timeStamp.ReplaceAllString(line, "")
	if done := c.marks[bare]; done != nil {
		close(done)
		delete(c.marks, bare)
		return nil
	}
	if c.open != nil {
		return c.extend(line, bare)
	}
	for _, start := range splatStarts {
		if start.line.MatchString(bare) {
			return c.begin(start.kind, line, bare)
		}
	}
	return nil
}

func (c *console) begin(kind SplatKind, line, bare string) *Splat {
	s := &Splat{Kind: kind, Title: bare, Text: line + "\n"}
	c.splats = append(c.splats, s)
	c.open, c.lines = s, 1
	if kind == OutOfMemory { // one line says it all
		c.open = nil
	}
	if kind.Fatal() && c.fatal {
		return nil // one death is enough
	}
	c.fatal = c.fatal || kind.Fatal()
	return s
}

// extend adds a line to the open splat. A warning that becomes a panic is two
// splats: the second is what ends the machine.
func (c *console) extend(line, bare string) *Splat {
	for _, start := range splatStarts {
		if !c.open.Kind.Fatal() && start.kind.Fatal() && start.line.MatchString(bare) {
			return c.begin(start.kind, line, bare)
		}
	}
	c.open.Text += line + "\n"
	c.lines++
	if splatEnd.MatchString(bare) || c.lines >= maxSplatLines {
		c.open = nil
	}
	return nil
}

// expect returns a channel that is closed when a line of this text has come,
// and with it everything that the kernel said before.
func (c *console) expect(mark string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := make(chan struct{})
	c.marks[mark] = done
	return done
}

func (c *console) forget(mark string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.marks, mark)
}

// position is a place in the console's text and among its splats.
type position struct {
	offset int64
	splats int
}

func (c *console) position() position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return position{c.dropped + int64(len(c.text)), len(c.splats)}
}

// since returns what came after a position.
func (c *console) since(p position) (text string, splats []Splat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := max(0, p.offset-c.dropped)
	for _, s := range c.splats[p.splats:] {
		splats = append(splats, *s)
	}
	return string(c.text[min(from, int64(len(c.text))):]), splats
}
