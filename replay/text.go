// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"strconv"
)

// TextHeader is the first line of a table of outcomes.
const TextHeader = "       N  TIME                         VERDICT  PROTO   FROM > TO\n"

// Columns where the table's fields begin.
const (
	timeColumn    = 10
	verdictColumn = 39
	protoColumn   = 48
	endsColumn    = 56
)

// AppendText appends an outcome as a line of a table for people, with its
// newline.
func AppendText(b []byte, o *Outcome, paint func(Verdict) (before, after string)) []byte {
	start := len(b)
	number := strconv.Itoa(o.Number)
	b = append(pad(b, start+timeColumn-2-len(number)), number...)
	b = pad(b, start+timeColumn)
	if !o.Time.IsZero() {
		b = o.Time.AppendFormat(b, "2006-01-02T15:04:05.000000")
		b = append(b, 'Z')
	}
	b = pad(b, start+verdictColumn)
	before, after := paint(o.Verdict)
	b = append(b, before...)
	start += len(before)
	b = append(append(b, o.Verdict...), after...)
	start += len(after)
	b = pad(b, start+protoColumn)
	b = appendProtocol(b, &o.Header)
	b = appendNamed(pad(b, start+endsColumn), &o.Header, o.SrcName, o.DstName)
	return append(appendWhy(b, o), '\n')
}

// pad fills up to a column, with one space at least.
func pad(b []byte, column int) []byte {
	b = append(b, ' ')
	for len(b) < column {
		b = append(b, ' ')
	}
	return b
}

func appendPair(b []byte, h *Header) []byte {
	if !h.IP && !h.ARP {
		return b
	}
	b = appendEnd(b, h, true)
	return appendEnd(append(b, " > "...), h, false)
}

// appendNamed is appendPair, with names before the addresses that have one.
func appendNamed(b []byte, h *Header, src, dst string) []byte {
	if !h.IP && !h.ARP {
		return b
	}
	if src != "" {
		b = append(append(b, src...), ' ')
	}
	b = append(appendEnd(b, h, true), " > "...)
	if dst != "" {
		b = append(append(b, dst...), ' ')
	}
	return appendEnd(b, h, false)
}

func appendEnd(b []byte, h *Header, source bool) []byte {
	addr, port := h.Dst, h.Dport
	if source {
		addr, port = h.Src, h.Sport
	}
	if !h.HasPorts {
		return addr.AppendTo(b)
	}
	if addr.Is6() {
		b = append(addr.AppendTo(append(b, '[')), ']')
	} else {
		b = addr.AppendTo(b)
	}
	return strconv.AppendUint(append(b, ':'), uint64(port), 10)
}

// appendWhy appends what became of a packet, and why.
func appendWhy(b []byte, o *Outcome) []byte {
	if o.Reason != "" {
		b = append(append(b, "  "...), o.Reason...)
	}
	if o.Out != "" {
		b = append(append(b, "  out "...), o.Out...)
	}
	if o.To != "" {
		b = append(append(b, " to "...), o.To...)
	}
	if o.Translated != nil {
		b = appendPair(append(b, " as "...), o.Translated)
	}
	if o.Flow != "" {
		b = append(append(b, "  flow "...), o.Flow...)
	}
	b = appendOrigin(b, o.Origin, o.Isolating)
	if o.File != "" {
		b = append(append(append(b, "  at "...), o.File...), ':')
		b = strconv.AppendInt(b, int64(o.Line), 10)
	}
	switch {
	case o.Judged > 0:
		b = fmt.Appendf(b, "  (%d segments, %d dropped)", o.Judged, o.SegmentsDropped)
	case o.Segments > 0:
		b = fmt.Appendf(b, "  (for %d segments)", o.Segments)
	}
	if o.NeverSent {
		b = append(b, "  (never sent)"...)
	}
	switch {
	case o.CutHeaders:
		b = append(b, "  (the capture has cut its headers)"...)
	case o.Truncated:
		b = append(b, "  (cut)"...)
	}
	return b
}

// Note tells an outcome as a comment for a capture.
func Note(o *Outcome) string {
	return string(o.Verdict) + string(appendWhy(nil, o))
}
