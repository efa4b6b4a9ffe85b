// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"slices"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
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
	c := &capture{w: w, interfaces: map[string]int{}}
	for _, walk := range slices.Concat(r.Failure.Before, r.Failure.Walks) {
		if err := c.walk(walk); err != nil {
			return err
		}
	}
	for _, f := range r.Failure.Frames {
		if err := c.packet(f.Host, pcap.Packet{Time: f.Time, Data: f.Data}); err != nil {
			return err
		}
	}
	return nil
}

type capture struct {
	w          *pcap.Writer
	interfaces map[string]int
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
		return nil
	}
	var notes []string
	for _, s := range w.Steps {
		notes = append(notes, fmt.Sprintf("%s of %s: %s", s.Hook, s.Endpoint, Decision(s.Decision)))
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
