// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
)

// stages are where a replay works on packets at the same time: one goroutine reads
// them, the one that has the Network judges them in their order, and one tells what
// they met. Batches go round between them: free, read, judged, free.
type stages struct {
	free, read, judged chan *batch
	told               chan struct{} // closed when all has been told

	stop     func() // tells the reader that nobody wants more
	stopped  <-chan struct{}
	readErr  error // until read is closed, the reader's
	tellErr  error // until told is closed, the teller's
	telling  func(*Outcome) error
	atRest   func()
	captures Captures
}

const (
	batchPackets = 128
	batchBytes   = 1 << 18 // from how many bytes of packets on a batch is full
	maxBatches   = 4
)

// batch is packets that are handed on at once, with memory that is used again.
type batch struct {
	packets  []packet
	data     []byte // that of the packets
	outcomes []Outcome
	frames   []byte   // those of outcomes that are not the packet's own bytes
	after    []Header // what outcomes were translated to
	atRest   bool     // all that has come of a pipe is in it and in those before
}

func newBatch() *batch {
	return &batch{
		packets: make([]packet, 0, batchPackets), outcomes: make([]Outcome, 0, batchPackets), after: make([]Header, batchPackets),
	}
}

func (b *batch) empty() {
	b.packets, b.data, b.outcomes, b.frames, b.atRest = b.packets[:0], b.data[:0], b.outcomes[:0], b.frames[:0], false
}

// add takes a copy of a packet, and says whether that was the last one.
func (b *batch) add(p *packet) (full bool) {
	b.packets = append(b.packets, *p)
	at := len(b.data)
	b.data = append(b.data, p.Data...)
	b.packets[len(b.packets)-1].Data = b.data[at:len(b.data):len(b.data)]
	return len(b.packets) == batchPackets || len(b.data) >= batchBytes
}

// judge passes the packets through the program, as far as it comes.
func (b *batch) judge(ctx context.Context, r *Replay) error {
	for i := range b.packets {
		p := &b.packets[i]
		if p.number%heedEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.outcomes = b.outcomes[:i+1]
		o := &b.outcomes[i]
		if err := r.packet(p, o); err != nil {
			b.outcomes = b.outcomes[:i]
			return err
		}
		b.keep(i, o)
	}
	return nil
}

// keep copies what the next packet's run would write over.
func (b *batch) keep(i int, o *Outcome) {
	if o.Translated != nil {
		b.after[i] = *o.Translated
		o.Translated = &b.after[i]
	}
	own := b.packets[i].Data
	if len(o.Frame) == 0 || len(own) > 0 && &o.Frame[0] == &own[0] {
		return
	}
	at := len(b.frames)
	b.frames = append(b.frames, o.Frame...)
	o.Frame = b.frames[at:len(b.frames):len(b.frames)]
}

// Run replays captures, and gives each packet's Outcome to a function, which
// may end the run by an error. It is called by another goroutine, for one packet
// at a time and in their order; the Outcome is good until it returns. What cannot
// be read of the captures is an error at the end.
func (r *Replay) Run(ctx context.Context, captures *Captures, tell func(*Outcome) error) error {
	reading, wake := context.WithCancel(ctx) // of a reader that waits for more of a pipe
	defer wake()
	// Not of the context: what has been read when a signal comes is handed on.
	unwanted, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	s := &stages{
		free: make(chan *batch, maxBatches), read: make(chan *batch, maxBatches), judged: make(chan *batch, maxBatches),
		told: make(chan struct{}), captures: *captures, telling: tell, atRest: captures.Idle,
		stopped: unwanted.Done(), stop: func() { stop(); wake() },
	}
	for range maxBatches {
		s.free <- newBatch()
	}
	go s.readAll(reading)
	go s.tellAll()
	judgeErr := s.judgeAll(ctx, r)
	close(s.judged)
	<-s.told
	s.stop()
	for range s.read { // until the reader has ended
	}
	switch {
	case s.tellErr != nil:
		return s.tellErr
	case judgeErr != nil:
		return judgeErr
	}
	return s.readErr
}

// errUnwanted ends the reading when nobody wants more.
var errUnwanted = errors.New("nobody wants more packets")

// readAll hands on what it has when a batch is full, and before it waits for more.
func (s *stages) readAll(ctx context.Context) {
	defer close(s.read)
	b := <-s.free
	handOn := func() (err error) {
		s.read <- b // there is room for all batches
		b, err = s.another()
		return err
	}
	s.captures.Idle = func() {
		if b != nil {
			b.atRest = true
			_ = handOn() // without another batch, the next packet ends it
		}
	}
	s.readErr = s.captures.each(ctx, func(p *packet) error {
		if b == nil {
			return errUnwanted
		}
		if b.add(p) {
			return handOn()
		}
		return nil
	})
	if b != nil {
		s.read <- b
	}
}

// another waits for a batch that has been told. When nobody wants more, there is none.
func (s *stages) another() (*batch, error) {
	select {
	case b := <-s.free:
		b.empty()
		return b, nil
	case <-s.stopped:
		return nil, errUnwanted
	}
}

func (s *stages) judgeAll(ctx context.Context, r *Replay) error {
	for b := range s.read {
		err := b.judge(ctx, r)
		s.judged <- b
		if err != nil {
			return err
		}
		select {
		case <-s.stopped:
			return nil
		default:
		}
	}
	return nil
}

// tellAll goes on to take batches when telling has failed, and tells of none then.
func (s *stages) tellAll() {
	defer close(s.told)
	for b := range s.judged {
		if s.tellErr == nil {
			if s.tellErr = s.tell(b); s.tellErr != nil {
				s.stop()
			}
		}
		s.free <- b
	}
}

func (s *stages) tell(b *batch) error {
	for i := range b.outcomes {
		if err := s.telling(&b.outcomes[i]); err != nil {
			return err
		}
	}
	if b.atRest && s.atRest != nil {
		s.atRest()
	}
	return nil
}
