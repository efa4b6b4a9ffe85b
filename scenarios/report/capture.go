// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"slices"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/scenarios"
)

// Capture writes what a failed run's hosts sent and got as pcapng, with the
// datapath's decisions beside the packets.
func Capture(out io.Writer, r scenarios.Result) error {
	w, err := pcap.NewWriter(out, r.Scenario+" in world "+string(r.World), r.Failure.Pos.String()+": "+r.Failure.Step, r.Failure.Problem)
	if err != nil {
		return err
	}
	c := &capture{w: w, interfaces: map[string]int{}, told: map[model.Tuple][]lab.Step{}}
	for _, walk := range slices.Concat(r.Failure.Before, r.Failure.Walks) {
		if err := c.walk(walk); err != nil {
			return err
		}
	}
	for _, f := range r.Failure.Frames {
		notes := c.notesOf(f)
		if err := c.packet(f.Host, pcap.Packet{Time: f.Time, Data: f.Data, Comments: notes}); err != nil {
			return err
		}
	}
	return nil
}

type capture struct {
	w          *pcap.Writer
	interfaces map[string]int
	told       map[model.Tuple][]lab.Step // of frames that nothing else is known of
}

// notesOf takes the decisions about a frame's tuple for the first frame that
// has it. Of a frame that was translated on its way the last hook's alone are
// found, since the hooks before it saw another tuple.
func (c *capture) notesOf(f lab.Frame) (notes []string) {
	tuple, ok := frame.Decode(f.Data).Tuple()
	if !ok {
		return nil
	}
	for _, s := range c.told[tuple] {
		notes = append(notes, note(s))
	}
	delete(c.told, tuple)
	return notes
}

func note(s lab.Step) string {
	return fmt.Sprintf("%s of %s: %s", s.Hook, s.Endpoint, Decision(s.Decision))
}

func (c *capture) packet(host string, p pcap.Packet) error {
	n, known := c.interfaces[host]
	if !known {
		var err error
		if n, err = c.w.AddInterface(host, "interface of "+host); err != nil {
			return err
		}
		c.interfaces[host] = n
	}
	p.Interface = n
	return c.w.Write(p)
}

func (c *capture) walk(w lab.Walk) error {
	if w.Sent == nil {
		for _, s := range w.Steps {
			if s.Tuple != (model.Tuple{}) {
				c.told[s.Tuple] = append(c.told[s.Tuple], s)
			}
		}
		return nil
	}
	var notes []string
	for _, s := range w.Steps {
		notes = append(notes, note(s))
	}
	switch {
	case w.To != "":
		notes = append(notes, "delivered to "+w.To)
	case w.Nobody != "":
		notes = append(notes, "delivered to nobody: "+w.Nobody)
	}
	for _, f := range w.Faults {
		notes = append(notes, "fault: "+f)
	}
	if err := c.packet(w.From, pcap.Packet{Time: w.Time, Data: w.Sent, Direction: pcap.Out, Comments: notes}); err != nil {
		return err
	}
	if w.Delivered == nil {
		return nil
	}
	note := fmt.Sprintf("from %s: %s", w.From, frame.Changes(w.Sent, w.Delivered))
	return c.packet(w.To, pcap.Packet{Time: w.Time, Data: w.Delivered, Direction: pcap.In, Comments: []string{note}})
}
