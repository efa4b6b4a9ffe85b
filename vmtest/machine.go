// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// Options are what a machine is like. The zero value is a good machine.
type Options struct {
	Memory   int       // MiB; 0: DefaultMemory
	CPUs     int       // 0: 1
	Modules  []string  // loaded before the snapshot; others are loaded when the kernel asks
	Files    []File    // put into the guest before the snapshot
	Service  *Command  // started before the snapshot, see Machine.Continue; may be nil
	Disks    []Disk    //
	Networks []Network //
	Append   string    // to the kernel's command line
	Needs    []string  // options of the kernel's config, without which it is refused
	Cold     bool      // boot, neither restoring nor making a snapshot
	Hostname string    // empty: "weir"

	Accelerator Accelerator // empty: what ChooseAccelerator says
	Console     io.Writer   // gets what the kernel says, as it comes; may be nil
	Progress    Progress    // may be nil
}

// DefaultMemory of a machine, in MiB. What a guest does not touch costs
// nothing. In 512 the whole library in world prog is too much for one guest of 7.2, since
// that holds several sets of tables at once.
const DefaultMemory = 768

// Machine is a running guest.
type Machine struct {
	Kernel      *Kernel
	Accelerator Accelerator
	// Warm tells that it was restored from a snapshot.
	Warm bool
	// Started is how long it took until the guest's user space answered.
	Started time.Duration
	// Slowdown is how many times longer the guest takes for the same work as
	// this machine does. Deadlines are stretched by it. It is at least 1.
	Slowdown float64

	q       *qemu
	console *console
	conn    net.Conn
	out     *wire.Writer
	lastID  atomic.Uint32

	mu       sync.Mutex
	handlers map[uint32]func(wire.Frame) // by id of a request
	killed   chan struct{}               // closed, and replaced, when the kernel has killed a process for memory
	death    error
	dead     chan struct{} // closed when death is set
	ready    chan wire.ReadyMessage
	heard    time.Time         // when the guest last gave a sign of life
	busy     int               // deliveries to the caller that go on: silence is not the guest's then
	loaded   map[string]bool   // modules
	sent     map[string]string // files: what was put at a path
	silent   time.Duration     // how long the guest had given no sign of life, if it was given up
	closing  bool
	waiting  bool // the service waits for its input
	done     sync.WaitGroup
}

// Start returns a running machine: restored from its snapshot, which is made
// first if there is none.
func Start(ctx context.Context, k *Kernel, o Options) (*Machine, error) {
	p, err := Prepare(ctx, k, o)
	if err != nil {
		return nil, err
	}
	return p.Start(ctx)
}

// Prepare does once what many machines of one kind have in common: it chooses
// the accelerator and reads the files. The snapshot is made by the first Start.
func Prepare(ctx context.Context, k *Kernel, o Options) (*Plan, error) {
	path, err := findQEMU()
	if err != nil {
		return nil, err
	}
	if err := checkConfig(k, o.Needs); err != nil {
		return nil, err
	}
	if o.Accelerator == "" {
		choice, err := ChooseAccelerator(ctx, k)
		if err != nil {
			return nil, err
		}
		o.Accelerator = choice.Accelerator
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	o.CPUs = max(o.CPUs, 1)
	return newPlan(ctx, path, k, o)
}

// Start returns a running machine. It may be called by many goroutines.
func (p *Plan) Start(ctx context.Context) (*Machine, error) {
	if p.options.Cold {
		return p.bootCold(ctx)
	}
	return p.restore(ctx)
}

// ErrLacks means that a kernel was built without something that is needed.
var ErrLacks = errors.New("the kernel's config lacks")

// checkConfig says by name what a kernel lacks, instead of letting it hang.
func checkConfig(k *Kernel, needs []string) error {
	if len(k.Config) == 0 {
		if len(needs) > 0 {
			return fmt.Errorf("kernel %s: its config is not known, so that %s cannot be checked: put it beside the kernel, as config-%s",
				k.ID, strings.Join(needs, ", "), k.Release)
		}
		return nil // the boot will tell
	}
	var lacks []string
	for _, f := range k.Check(needs...) {
		if f.Fatal {
			lacks = append(lacks, fmt.Sprintf("CONFIG_%s (%s)", f.Option, f.For))
		}
	}
	if lacks != nil {
		return fmt.Errorf("kernel %s: %w %s", k.ID, ErrLacks, strings.Join(lacks, ", "))
	}
	return nil
}

// newMachine begins to listen to a QEMU that has just been started.
func newMachine(k *Kernel, o Options, q *qemu) *Machine {
	m := &Machine{
		Kernel: k, Accelerator: o.Accelerator, Slowdown: 1, q: q,
		handlers: make(map[uint32]func(wire.Frame)),
		dead:     make(chan struct{}),
		killed:   make(chan struct{}),
		ready:    make(chan wire.ReadyMessage, 1),
		heard:    time.Now(),
		loaded:   make(map[string]bool),
		sent:     make(map[string]string),
	}
	m.console = newConsole(m.complained)
	var sink io.Writer = m.console
	if o.Console != nil {
		sink = io.MultiWriter(m.console, o.Console)
	}
	read := make(chan struct{})
	m.done.Go(func() {
		io.Copy(sink, q.console)
		close(read)
	})
	m.done.Go(func() {
		<-q.ended
		select { // what the kernel said last comes before what QEMU did
		case <-read:
		case <-time.After(time.Second):
		}
		m.die(m.causeOfDeath(q.epitaph()))
	})
	return m
}

// talk connects to the guest.
func (m *Machine) talk() error {
	conn, err := m.q.connectPort()
	if err != nil {
		return err
	}
	m.conn, m.out = conn, wire.NewWriter(conn)
	m.done.Go(func() { m.listen(wire.NewReader(conn)) })
	return nil
}

// hello begins the conversation, and waits for the guest's answer.
func (m *Machine) hello(ctx context.Context, message wire.HelloMessage) (wire.ReadyMessage, error) {
	message.UnixNano = time.Now().UnixNano()
	message.Seed = make([]byte, 32)
	rand.Read(message.Seed)
	if err := m.out.SendJSON(wire.Hello, 0, message); err != nil {
		return wire.ReadyMessage{}, m.orDeath(err)
	}
	select {
	case r := <-m.ready:
		m.mu.Lock()
		for _, name := range r.Modules {
			m.loaded[name] = true
		}
		m.mu.Unlock()
		return r, nil
	case <-m.dead:
		return wire.ReadyMessage{}, m.Death()
	case <-ctx.Done():
		return wire.ReadyMessage{}, context.Cause(ctx)
	}
}

// listen takes frames until the connection ends.
func (m *Machine) listen(in *wire.Reader) {
	for {
		frame, err := in.Next()
		if err != nil {
			m.mu.Lock()
			closing := m.closing
			m.mu.Unlock()
			if !closing {
				// QEMU's end tells more than the connection's; give it time.
				select {
				case <-m.q.ended:
				case <-time.After(2 * time.Second):
					m.die(fmt.Errorf("%w: the connection to the guest broke: %v", ErrBroken, err))
				}
			}
			return
		}
		m.mu.Lock()
		m.heard = time.Now()
		m.busy++
		handler := m.handlers[frame.ID]
		m.mu.Unlock()
		m.dispatch(frame, handler)
		m.mu.Lock()
		m.heard = time.Now()
		m.busy--
		m.mu.Unlock()
	}
}

func (m *Machine) dispatch(frame wire.Frame, handler func(wire.Frame)) {
	switch frame.Kind {
	case wire.Beat:
	case wire.Ready:
		var r wire.ReadyMessage
		if err := frame.Decode(&r); err != nil {
			m.die(fmt.Errorf("%w: %v", ErrBroken, err))
			return
		}
		select {
		case m.ready <- r:
		default:
		}
	case wire.ModuleWanted:
		// In the background: the answer needs this loop.
		go m.provideModule(frame.ID, string(frame.Payload))
	default:
		if handler != nil {
			handler(frame)
		}
	}
}

// handle registers what takes the frames of a new request.
func (m *Machine) handle(handler func(wire.Frame)) (id uint32, forget func()) {
	id = m.lastID.Add(1)
	return id, m.handleAs(id, handler)
}

// handleAs registers what takes the frames of an id.
func (m *Machine) handleAs(id uint32, handler func(wire.Frame)) (forget func()) {
	m.mu.Lock()
	m.handlers[id] = handler
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		delete(m.handlers, id)
		m.mu.Unlock()
	}
}

// request sends frames under a new id, and waits until the guest is done with
// them.
func (m *Machine) request(ctx context.Context, send func(id uint32) error, other func(wire.Frame) error) error {
	result := make(chan error, 1)
	var failed error // of other; frames come one after another
	id, forget := m.handle(func(f wire.Frame) {
		if f.Kind != wire.Done {
			if failed == nil && other != nil {
				failed = other(f)
			}
			return
		}
		var d wire.DoneMessage
		err := f.Decode(&d)
		if err == nil && d.Error != "" {
			err = errors.New(d.Error)
		}
		if err == nil {
			err = failed
		}
		select {
		case result <- err:
		default:
		}
	})
	defer forget()
	if err := send(id); err != nil {
		return m.orDeath(err)
	}
	select {
	case err := <-result:
		return err
	case <-m.dead:
		return m.Death()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// orDeath prefers the machine's death to what it caused.
func (m *Machine) orDeath(err error) error {
	select {
	case <-m.dead:
		return m.Death()
	case <-time.After(500 * time.Millisecond): // the news of a death may be slower than its effects
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
}

// provideModule answers the kernel, which asks for a module by one of its
// names.
func (m *Machine) provideModule(id uint32, wanted string) {
	found := false
	if ordered, missing := m.Kernel.modules.order(wanted); len(missing) == 0 {
		found = m.loadModules(context.Background(), ordered) == nil
	}
	m.out.SendJSON(wire.ModuleAnswer, id, wire.ModuleAnswerMessage{Found: found})
}

// LoadModules loads modules by name or alias, and what they need. A module
// that is built into the kernel is not an error.
func (m *Machine) LoadModules(ctx context.Context, names ...string) error {
	ordered, missing := m.Kernel.modules.order(names...)
	for _, name := range missing {
		if !m.Kernel.modules.builtIn[moduleName(name)] {
			return fmt.Errorf("load module %s: kernel %s has none of that name", name, m.Kernel.ID)
		}
	}
	return m.loadModules(ctx, ordered)
}

func (m *Machine) loadModules(ctx context.Context, ordered []*module) error {
	for _, mod := range ordered {
		m.mu.Lock()
		loaded := m.loaded[mod.Name]
		m.mu.Unlock()
		if loaded {
			continue
		}
		image, err := m.Kernel.modules.read(mod)
		if err != nil {
			return fmt.Errorf("load module %s: %w", mod.Name, err)
		}
		err = m.request(ctx, func(id uint32) error {
			if err := m.out.SendJSON(wire.ModuleBegin, id, wire.ModuleMessage{Name: mod.Name, Size: int64(len(image))}); err != nil {
				return err
			}
			if err := m.out.SendStream(wire.FileData, id, bytes.NewReader(image)); err != nil {
				return err
			}
			return m.out.Send(wire.ModuleEnd, id, nil)
		}, nil)
		if err != nil {
			return fmt.Errorf("load module %s: %w", mod.Name, err)
		}
		m.mu.Lock()
		m.loaded[mod.Name] = true
		m.mu.Unlock()
	}
	return nil
}

// Console returns what the kernel has said, or the newest part of it.
func (m *Machine) Console() string {
	text, _ := m.console.since(position{})
	return text
}

// Splats returns what the kernel has complained about.
func (m *Machine) Splats() []Splat {
	_, splats := m.console.since(position{})
	return splats
}

// Close ends the machine and leaves nothing behind. It may be called again.
func (m *Machine) Close() error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.die(ErrClosed)
	if m.conn != nil {
		m.conn.Close()
	}
	m.q.close()
	m.done.Wait()
	return nil
}

// encode is for messages of fixed types, which cannot fail.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// PID is the process id of QEMU here.
func (m *Machine) PID() int { return m.q.process.Pid }
