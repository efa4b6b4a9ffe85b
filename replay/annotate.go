// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"io"
	"strings"

	"github.com/weirnet/weir/pcap"
)

// Annotator writes captures again, as they were, with each packet's outcome
// beside it as a comment.
type Annotator struct {
	out        *pcap.Writer
	interfaces map[source]int
}

// source is an interface of a capture.
type source struct {
	capture string
	number  int
	about   pcap.Interface
}

// NewAnnotator begins a pcapng capture.
func NewAnnotator(out io.Writer, captures *Captures, o Options) (*Annotator, error) {
	w, err := pcap.NewWriter(out, strings.Join(captures.Paths, ", ")+" replayed at "+string(o.At))
	return &Annotator{w, map[source]int{}}, err
}

// Write adds a packet with its outcome.
func (a *Annotator) Write(o *Outcome) error {
	from := source{o.Capture, o.Packet.Interface, o.Interface}
	number, ok := a.interfaces[from]
	if !ok {
		about := from.about.About
		if about == "" {
			about = "of " + from.capture
		}
		var err error
		if number, err = a.out.AddLink(from.about.Link, from.about.Name, about); err != nil {
			return err
		}
		a.interfaces[from] = number
	}
	p := *o.Packet
	p.Interface = number
	p.Comments = append(p.Comments[:len(p.Comments):len(p.Comments)], Note(o))
	return a.out.Write(p)
}
