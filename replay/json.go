// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/weirnet/weir/model"
)

// AppendJSON appends an Outcome as one object, without a newline. Fields that
// a packet does not have are left out. Millions are written, so it is not left
// to reflection.
func AppendJSON(b []byte, o *Outcome, withCapture bool) []byte {
	b = append(b, `{"n":`...)
	b = strconv.AppendInt(b, int64(o.Number), 10)
	if withCapture {
		b = appendText(append(b, `,"capture":`...), o.Capture)
	}
	if !o.Time.IsZero() {
		b = append(b, `,"time":"`...)
		b = append(o.Time.AppendFormat(b, time.RFC3339Nano), '"')
	}
	b = strconv.AppendInt(append(b, `,"caplen":`...), int64(o.Captured), 10)
	b = strconv.AppendInt(append(b, `,"len":`...), int64(o.Length), 10)
	b = strconv.AppendBool(append(b, `,"truncated":`...), o.Truncated)
	if o.CutHeaders {
		b = append(b, `,"cut_headers":true`...)
	}
	b = appendSegments(b, o)
	b = append(append(append(b, `,"verdict":"`...), o.Verdict...), '"')
	if o.Reason != "" {
		b = appendText(append(b, `,"reason":`...), o.Reason)
	}
	if o.NeverSent {
		b = append(b, `,"never_sent":true`...)
	}
	b = append(append(append(b, `,"hook":"`...), o.Hook...), '"')
	if o.File != "" {
		b = append(append(append(b, `,"file":"`...), o.File...), `","line":`...)
		b = strconv.AppendInt(b, int64(o.Line), 10)
	}
	b = appendHeader(b, &o.Header)
	for _, name := range [...][2]string{{"src_name", o.SrcName}, {"dst_name", o.DstName}, {"endpoint", o.Endpoint}} {
		if name[1] != "" {
			b = appendText(append(append(append(b, `,"`...), name[0]...), `":`...), name[1])
		}
	}
	if t := o.Translated; t != nil {
		b = append(b, `,"xlate":{`...)
		b = append(appendEnds(b, t), '}')
	}
	if o.Out != "" {
		b = append(append(append(b, `,"out":"`...), o.Out...), '"')
	}
	if o.To != "" {
		b = appendText(append(b, `,"to":`...), o.To)
	}
	if o.Flow != "" {
		b = append(append(append(b, `,"flow":"`...), o.Flow...), '"')
	}
	if !o.Origin.Policy.IsZero() {
		b = appendText(append(b, `,"policy":`...), o.Origin.Policy.String())
		b = strconv.AppendInt(append(b, `,"rule":`...), int64(o.Origin.Rule), 10)
		if o.Origin.List != "" {
			b = appendText(append(b, `,"list":`...), o.Origin.List)
		}
	}
	for i, policy := range o.Isolating {
		b = append(b, isolatingBegins[min(i, 1)]...)
		b = appendText(b, policy.String())
	}
	if len(o.Isolating) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

// isolatingBegins stand before the first of those that isolate, and the others.
var isolatingBegins = [...]string{`,"isolating":[`, `,`}

func appendSegments(b []byte, o *Outcome) []byte {
	if o.Shortened {
		b = append(b, `,"shortened":true`...)
	}
	if o.Segments == 0 {
		return b
	}
	b = strconv.AppendInt(append(b, `,"segments":`...), int64(o.Segments), 10)
	b = strconv.AppendInt(append(b, `,"segment_size":`...), int64(o.SegmentSize), 10)
	if o.Judged == 0 {
		return b
	}
	b = strconv.AppendInt(append(b, `,"segments_judged":`...), int64(o.Judged), 10)
	return strconv.AppendInt(append(b, `,"segments_dropped":`...), int64(o.SegmentsDropped), 10)
}

func appendHeader(b []byte, h *Header) []byte {
	if h.IP || h.ARP {
		b = appendEnds(append(b, ','), h)
	}
	if h.EtherType == 0 && !h.IP {
		return b
	}
	b = append(b, `,"proto":"`...)
	return append(appendProtocol(b, h), '"')
}

// appendProtocol appends the protocol's name: of IP, or the Ethernet type's.
func appendProtocol(b []byte, h *Header) []byte {
	switch {
	case h.IP:
		return append(b, h.Protocol.String()...)
	case h.EtherType == etherARP:
		return append(b, "arp"...)
	}
	return append(b, fmt.Sprintf("ethertype-%#04x", h.EtherType)...)
}

// appendEnds appends addresses and ports.
func appendEnds(b []byte, h *Header) []byte {
	b = append(h.Src.AppendTo(append(b, `"src":"`...)), `","dst":"`...)
	b = append(h.Dst.AppendTo(b), '"')
	if h.HasPorts {
		b = strconv.AppendUint(append(b, `,"sport":`...), uint64(h.Sport), 10)
		b = strconv.AppendUint(append(b, `,"dport":`...), uint64(h.Dport), 10)
	}
	return b
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	plain := utf8.ValidString(s)
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] >= ' ' && s[i] != '"' && s[i] != '\\'
	}
	if plain {
		return append(append(append(b, '"'), s...), '"')
	}
	quoted, err := json.Marshal(s)
	if err != nil { // a string always has a form
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// Result is an Outcome as AppendJSON has written it, or a summary.
type Result struct {
	Number    int        `json:"n"`
	Capture   string     `json:"capture"`
	Time      *time.Time `json:"time"`
	Captured  int        `json:"caplen"`
	Length    int        `json:"len"`
	Verdict   Verdict    `json:"verdict"`
	Reason    string     `json:"reason"`
	Hook      model.Hook `json:"hook"`
	File      string     `json:"file"`
	Line      int        `json:"line"`
	Src       netip.Addr `json:"src"`
	Dst       netip.Addr `json:"dst"`
	Protocol  string     `json:"proto"`
	Sport     uint16     `json:"sport"`
	Dport     uint16     `json:"dport"`
	Xlate     *Ends      `json:"xlate"`
	Out       model.Out  `json:"out"`
	To        string     `json:"to"`
	Policy    string     `json:"policy"`
	Isolating []string   `json:"isolating"`
	Rule      int        `json:"rule"`
	// NeverSent and CutHeaders are as those of an Outcome.
	NeverSent  bool `json:"never_sent"`
	CutHeaders bool `json:"cut_headers"`

	Summary *Summary `json:"summary"`
}

// Ends are two addresses, and ports where the protocol has them.
type Ends struct {
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Sport uint16     `json:"sport,omitempty"`
	Dport uint16     `json:"dport,omitempty"`
}
