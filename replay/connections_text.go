// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weirnet/weir/model"
)

// ConnectionsHeader is the first line of a table of connections.
const ConnectionsHeader = "   FIRST  VERDICT  PROTO   PACKETS      BYTES  FROM > TO\n"

// Columns of that table, behind the verdict's.
const (
	connVerdictColumn = 10
	connProtoColumn   = 19
	connPacketsEnd    = 35
	connBytesEnd      = 46
)

// AppendConnection appends a connection as a line of a table for people, with its
// newline.
func AppendConnection(b []byte, c *Connection, paint func(Verdict) (before, after string)) []byte {
	start := len(b)
	b = appendRight(b, start+connVerdictColumn-2, strconv.Itoa(c.First))
	b = pad(b, start+connVerdictColumn)
	verdict := c.Verdict()
	before, after := paint(verdict)
	b = append(b, before...)
	b = append(append(b, verdict...), after...)
	start += len(before) + len(after)
	b = appendProtocol(pad(b, start+connProtoColumn), &c.Header)
	b = appendRight(b, start+connPacketsEnd, fmt.Sprintf("%d+%d", c.There.Packets, c.Back.Packets))
	b = appendRight(b, start+connBytesEnd, bytesText(c.Bytes()))
	b = appendNamed(append(b, "  "...), &c.Header, c.From, c.To)
	return append(c.appendWhy(b), '\n')
}

// appendRight appends a text that ends at a column, one space behind what is there
// at least.
func appendRight(b []byte, column int, text string) []byte {
	return append(pad(b, column-len(text)), text...)
}

// bytesText is a number of bytes in three digits.
func bytesText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, u := float64(n), 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	if u == 0 || v >= 99.95 {
		return fmt.Sprintf("%.0f %s", v, units[u])
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

func (c *Connection) appendWhy(b []byte) []byte {
	if c.Translated != nil {
		b = appendPair(append(b, " as "...), c.Translated)
	}
	if c.Reason != "" {
		b = append(append(b, "  "...), c.Reason...)
	}
	b = appendOrigin(b, c.Origin, c.Isolating)
	if counts := c.counts(); counts != "" {
		b = append(append(append(b, "  ("...), counts...), ')')
	}
	return b
}

// counts tells how many packets met what, where that is more than the verdict
// says.
func (c *Connection) counts() string {
	var parts []string
	kinds := 0
	for _, k := range []struct {
		count int
		what  string
	}{{c.Forward, "forward"}, {c.Drop, "drop"}, {c.Refused, "refused"}, {c.Broken, "broken"}, {c.CutHeaders, "with cut headers"}, {c.NeverSent, "never sent"}} {
		if k.count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", k.count, k.what))
			kinds++
		}
	}
	if kinds == 1 && c.CutHeaders == 0 {
		parts = nil
	}
	if c.Dead() {
		parts = append(parts, "dead")
	}
	return strings.Join(parts, ", ")
}

// connectionJSON is a Connection as JSON.
type connectionJSON struct {
	Event      string     `json:"event,omitempty"`
	Connection int        `json:"connection"` // its first packet
	Began      *time.Time `json:"began,omitempty"`
	Last       *time.Time `json:"last,omitempty"`
	Protocol   string     `json:"proto"`
	Src        netip.Addr `json:"src,omitzero"`
	Dst        netip.Addr `json:"dst,omitzero"`
	Sport      uint16     `json:"sport,omitempty"`
	Dport      uint16     `json:"dport,omitempty"`
	SrcName    string     `json:"src_name,omitempty"`
	DstName    string     `json:"dst_name,omitempty"`
	Xlate      *Ends      `json:"xlate,omitempty"`
	Out        model.Out  `json:"out,omitempty"`
	Packets    wayCounts  `json:"packets"`
	Bytes      wayCounts  `json:"bytes"`
	Verdict    Verdict    `json:"verdict"`
	Forward    int        `json:"forward"`
	Drop       int        `json:"drop"`
	Refused    int        `json:"refused"`
	Broken     int        `json:"broken,omitempty"`
	CutHeaders int        `json:"cut_headers"`
	NeverSent  int        `json:"never_sent"`
	Dead       bool       `json:"dead"`
	Packet     int        `json:"packet,omitempty"` // the first that did not go on
	Reason     string     `json:"reason,omitempty"` // and why
	File       string     `json:"file,omitempty"`
	Line       int        `json:"line,omitempty"`
	Policy     string     `json:"policy,omitempty"`
	Rule       *int       `json:"rule,omitempty"`
	List       string     `json:"list,omitempty"`
	Isolating  []string   `json:"isolating,omitempty"`
}

// wayCounts count both ways of a connection.
type wayCounts struct {
	There int64 `json:"there"`
	Back  int64 `json:"back"`
}

// AppendConnectionJSON appends a Connection as one object, without a newline. The
// event is left out where it is empty.
func AppendConnectionJSON(b []byte, c *Connection, event string) ([]byte, error) {
	h := &c.Header
	out := connectionJSON{
		Event: event, Connection: c.First, Began: timeOrNil(c.Began), Last: timeOrNil(c.Last),
		Protocol: string(appendProtocol(nil, h)), Src: h.Src, Dst: h.Dst, Sport: h.Sport, Dport: h.Dport,
		SrcName: c.From, DstName: c.To, Out: c.Out,
		Packets: wayCounts{int64(c.There.Packets), int64(c.Back.Packets)}, Bytes: wayCounts{c.There.Bytes, c.Back.Bytes},
		Verdict: c.Verdict(), Forward: c.Forward, Drop: c.Drop, Refused: c.Refused, Broken: c.Broken, CutHeaders: c.CutHeaders,
		NeverSent: c.NeverSent, Dead: c.Dead(), Packet: c.Told, Reason: c.Reason, File: c.File, Line: c.Line,
	}
	if t := c.Translated; t != nil {
		out.Xlate = &Ends{t.Src, t.Dst, t.Sport, t.Dport}
	}
	if !c.Origin.Policy.IsZero() {
		out.Policy, out.Rule, out.List = c.Origin.Policy.String(), &c.Origin.Rule, c.Origin.List
	}
	for _, policy := range c.Isolating {
		out.Isolating = append(out.Isolating, policy.String())
	}
	text, err := json.Marshal(&out)
	if err != nil {
		return b, fmt.Errorf("write connection: %w", err)
	}
	return append(b, text...), nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
