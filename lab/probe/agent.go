// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Serve tells an agent of its own for each stream that is accepted what to do,
// until ctx ends. Streams that do not begin with the token are ended at once.
func Serve(ctx context.Context, listener net.Listener, token string) error {
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		stream, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			continue // one that gave up while it waited
		}
		streams.Go(func() { Do(ctx, stream, token) })
	}
}

// Do does what a stream says until it or ctx ends, and closes it.
func Do(ctx context.Context, stream io.ReadWriteCloser, token string) {
	ctx, cancel := context.WithCancel(ctx)
	a := &agent{out: json.NewEncoder(stream), open: map[io.Closer]struct{}{}, conns: map[uint64]*dialled{}, captures: map[uint64]*capture{}}
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer func() {
		cancel()
		stop()
		stream.Close()
		a.forget()
		a.work.Wait()
	}()
	in := json.NewDecoder(stream)
	for first := true; ; first = false {
		var r request
		if in.Decode(&r) != nil {
			return // over, or no probe's
		}
		if first && subtle.ConstantTimeCompare([]byte(r.Token), []byte(token)) != 1 {
			return
		}
		a.work.Go(func() { a.answer(ctx, &r) })
	}
}

// agent is what one stream has opened.
type agent struct {
	writing sync.Mutex
	out     *json.Encoder
	work    sync.WaitGroup // all goroutines

	mu       sync.Mutex
	open     map[io.Closer]struct{}
	conns    map[uint64]*dialled
	captures map[uint64]*capture
	last     uint64 // number of a connection or a capture
}

func (a *agent) answer(ctx context.Context, r *request) {
	if r.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Within)
		defer cancel()
	}
	answer := &response{Number: r.Number}
	answer.fail(a.do(ctx, r, answer))
	a.writing.Lock()
	defer a.writing.Unlock()
	_ = a.out.Encode(answer) // whoever asked is gone, which the reader sees too
}

func (a *agent) do(ctx context.Context, r *request, answer *response) error {
	switch {
	case r.Listen != nil:
		return a.listen(ctx, r.Listen)
	case r.Dial != nil:
		return a.dial(ctx, r.Dial, answer)
	case r.Talk != nil:
		c, err := a.conn(r.Talk.Conn)
		if err != nil {
			return err
		}
		if r.Talk.Size > 0 {
			return c.fill(ctx, r.Talk.Size, answer)
		}
		return c.talk(ctx, &said{Text: r.Talk.Message}, answer)
	case r.Close != nil:
		c, err := a.conn(*r.Close)
		if err != nil {
			return nil // forgotten already
		}
		return c.end()
	case r.Ping != nil:
		return ping(ctx, *r.Ping, r.Size)
	case r.Lookup != nil:
		return r.Lookup.do(ctx, answer)
	case r.Carry != nil:
		c, err := a.conn(r.Carry.Conn)
		if err != nil {
			return err
		}
		return c.carry(ctx, r.Carry, answer)
	case r.Rounds != nil:
		c, err := a.conn(r.Rounds.Conn)
		if err != nil {
			return err
		}
		return c.rounds(ctx, r.Rounds.Count, answer)
	case r.Capture != nil:
		return a.capture(*r.Capture, answer)
	case r.Captured != nil:
		return a.captured(*r.Captured, answer)
	case r.Forget:
		a.forget()
		return nil
	case r.Welcome:
		return nil
	}
	return errOtherVersion
}

var errOtherVersion = errors.New("the agent does not know what is asked of it: it is of another version")

// forget closes all that is open.
func (a *agent) forget() {
	a.mu.Lock()
	open := a.open
	a.open, a.conns, a.captures = map[io.Closer]struct{}{}, map[uint64]*dialled{}, map[uint64]*capture{}
	a.mu.Unlock()
	for c := range open {
		c.Close() // closed already, or never used again
	}
}

// keep makes forget close c, until release is called.
func (a *agent) keep(c io.Closer) (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[c] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.open, c)
	}
}

func (a *agent) conn(number uint64) (*dialled, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.conns[number]
	if !ok {
		return nil, fmt.Errorf("connection %d is not open here", number)
	}
	return c, nil
}

// interrupts ends what blocks on a socket when ctx ends.
func interrupts(ctx context.Context, s interface{ SetDeadline(time.Time) error }) (stop func() bool) {
	_ = s.SetDeadline(time.Time{}) // a closed one fails at its next use
	return context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
}
