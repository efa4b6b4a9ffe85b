// SPDX-License-Identifier: Apache-2.0

package record

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/scenarios/report"
)

// nearness is how far apart in time a frame and what was decided about it may
// be told: the datapath's clock has the grain of a kernel's tick.
const nearness = 500 * time.Millisecond

// Write writes what was recorded as pcapng. The world has been closed.
func (w *World) Write(out io.Writer, about string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.SortStableFunc(w.frames, func(a, b carried) int { return a.at.Compare(b.at) })
	slices.SortStableFunc(w.events, func(a, b event) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	w.place()
	file, err := pcap.NewWriter(out, about)
	if err != nil {
		return err
	}
	interfaces := map[string]int{}
	for i := range w.frames {
		c := &w.frames[i]
		number, ok := interfaces[c.host]
		if !ok {
			if number, err = file.AddInterface(c.host, fmt.Sprintf("%s of %s", hostInterface, c.host)); err != nil {
				return err
			}
			interfaces[c.host] = number
		}
		if err := file.Write(pcap.Packet{Interface: number, Time: c.at, Data: c.data, Direction: c.direction, Comments: c.notes}); err != nil {
			return err
		}
	}
	return nil
}

// place puts what was decided beside the frames that it was decided about.
func (w *World) place() {
	w.Unplaced = 0
	byTuple := map[model.Tuple][]*carried{}
	for i := range w.frames {
		c := &w.frames[i]
		c.notes = nil
		// A frame without a tuple, ARP for one, is found under the zero tuple.
		c.tuple, c.isFlow = frame.Decode(c.data).Tuple()
		if !c.isFlow {
			c.tuple = model.Tuple{}
		}
		byTuple[c.tuple] = append(byTuple[c.tuple], c)
	}
	for i := range w.events {
		e := &w.events[i]
		if c := w.frameOf(e, byTuple[e.Tuple]); c != nil {
			c.notes = append(c.notes, fmt.Sprintf("%s of %s: %s", e.Hook, e.Endpoint, report.Decision(e.Decision)))
		} else {
			w.Unplaced++
		}
	}
}

// frameOf finds the frame that a decision was about: at from-container one
// that the pod sent; at to-container one that it got, or where it got none
// one that somebody else sent; at from-device one that came to the node; at
// to-device one that the node sent, if it was not translated there.
func (w *World) frameOf(e *event, candidates []*carried) *carried {
	// An answer is told when it is made, with a length of its own.
	answered := e.Decision.Action == model.Reply
	fits := func(c *carried, direction pcap.Direction, own bool) bool {
		apart := c.at.Sub(e.at)
		return len(c.notes) == 0 && c.direction == direction && (c.host == e.Endpoint) == own &&
			(answered || len(c.data) == e.Length) && apart < nearness && apart > -nearness
	}
	find := func(direction pcap.Direction, own bool) *carried {
		for _, c := range candidates {
			if fits(c, direction, own) {
				return c
			}
		}
		return nil
	}
	switch {
	case e.Hook == model.FromContainer, e.Hook == model.ToDevice:
		return find(pcap.Out, true)
	case e.Hook == model.FromDevice:
		return find(pcap.In, true)
	case e.Decision.Action == model.Forward:
		if c := find(pcap.In, true); c != nil {
			return c
		}
	}
	return find(pcap.Out, false)
}
