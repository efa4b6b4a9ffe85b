// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// A service is a program that takes long to begin, and is begun once for all
// machines of a kind: it is in the snapshot. It says one line when it is ready,
// and waits for its input. Each restored machine continues it from there.

// serviceID is the id of its frames. Those of requests never get that far.
const serviceID = 1 << 31

// serviceDeadline is how long a service may take until it is ready. It is
// stretched by the machine's Slowdown.
const serviceDeadline = 2 * time.Minute

// ErrNoService means that a machine has no service that waits for its input.
var ErrNoService = errors.New("no service waits in this machine")

// begin starts the service, if there is one, and waits until it is ready. What
// the kernel complains of meanwhile would be in no machine's console, and is an
// error.
func (m *Machine) begin(ctx context.Context, service *Command) error {
	if service == nil {
		return nil
	}
	limit := m.stretch(serviceDeadline)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it was not ready within %s", limit))
	defer cancel()
	from := m.console.position()
	b := &beginning{told: make(chan error, 1)}
	defer m.handleAs(serviceID, b.take)()
	message := service.startMessage()
	message.NoStdin = false
	if err := m.out.SendJSON(wire.Start, serviceID, message); err != nil {
		return m.orDeath(err)
	}
	var err error
	select {
	case err = <-b.told:
	case <-m.dead:
		err = m.Death()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("start the service %s: %w", service.Path, err)
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	if _, splats := m.console.since(from); len(splats) > 0 {
		return &SplatError{splats}
	}
	m.waiting = true
	return nil
}

// beginning is what a service has said so far.
type beginning struct {
	out, err bytes.Buffer
	told     chan error // what came of it
}

func (b *beginning) take(f wire.Frame) {
	switch f.Kind {
	case wire.Stdout:
		b.out.Write(f.Payload)
		switch at := bytes.IndexByte(b.out.Bytes(), '\n'); {
		case at < 0:
		case at == b.out.Len()-1:
			b.tell(nil)
		default:
			b.tell(errors.New("it wrote more than the line which says that it is ready"))
		}
	case wire.Stderr:
		b.err.Write(f.Payload)
	case wire.Exit:
		var e wire.ExitMessage
		err := f.Decode(&e)
		switch {
		case err != nil:
		case e.Error != "":
			err = errors.New(e.Error)
		default:
			err = fmt.Errorf("it ended with code %d before it was ready", e.Code)
		}
		if said := bytes.TrimSpace(b.err.Bytes()); len(said) > 0 {
			err = fmt.Errorf("%w: %s", err, said[max(0, len(said)-lastWords):])
		}
		b.tell(err)
	}
}

func (b *beginning) tell(err error) {
	select {
	case b.told <- err:
	default:
	}
}

// Continue gives the machine's service its input and takes its output until it
// has ended. Results and errors are those of Run. Of the command Stdin, Stdout,
// Stderr, Collect, CollectTo, Timeout, Signals and AllowSplats count. It can be
// done once; then the error is ErrNoService, as in a machine without a service.
func (m *Machine) Continue(ctx context.Context, c *Command) (*Result, error) {
	m.mu.Lock()
	waiting := m.waiting
	m.waiting = false
	m.mu.Unlock()
	if !waiting {
		return nil, ErrNoService
	}
	return m.toItsEnd(ctx, c, func(ctx context.Context, c *Command) (*wire.ExitMessage, error) {
		j := m.newJob(c)
		defer close(j.over)
		j.id = serviceID
		defer m.handleAs(j.id, j.take)()
		if c.Stdin == nil {
			stdin := *c
			stdin.Stdin = bytes.NewReader(nil)
			j.c = &stdin
		}
		go j.feed()
		return j.wait(ctx)
	})
}
