// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// quote is the packet that an ICMP error is about, as the error quotes it.
type quote struct {
	tuple model.Tuple // as the quoted packet went
	tiny  bool        // the error claims an MTU that no link has
}

// Links of IPv4 carry 68 bytes (RFC 791), those of IPv6 1280 (RFC 8200).
const (
	leastMTU4 = 68
	leastMTU6 = 1280
)

// claimsTiny reads the MTU in an error's first 8 bytes, where it has one.
// Routers of before RFC 1191 leave it 0.
func (h *headers) claimsTiny(icmp []byte) bool {
	if h.src.Is6() {
		return icmp[0] == 2 && binary.BigEndian.Uint32(icmp[4:]) < leastMTU6
	}
	mtu := binary.BigEndian.Uint16(icmp[6:])
	return icmp[0] == 3 && icmp[1] == 4 && mtu != 0 && mtu < leastMTU4
}

// quotedLen is how much behind the quoted IP header has to be there: ports
// and identifiers stand in it (RFC 792).
const quotedLen = 8

// readQuote reads an error's first 8 bytes and what is behind them. Of a quote
// that belongs to no flow by its bytes alone nothing is kept.
func (h *headers) readQuote(icmp, b []byte) {
	before := len(h.wrong)
	q := &quote{tiny: h.claimsTiny(icmp)}
	if h.src.Is6() {
		h.readQuote6(q, b)
	} else {
		h.readQuote4(q, b)
	}
	if len(h.wrong) == before {
		h.quote = q
	}
}

func (h *headers) readQuote4(q *quote, b []byte) {
	headerLen := ipv4Len
	if len(b) > 0 {
		headerLen = max(ipv4Len, int(b[0]&0x0f)*4)
		if b[0]>>4 != 4 || b[0]&0x0f < 5 {
			h.condemn(model.ReasonICMPNoFlow)
		}
	}
	if len(b) >= ipv4Len && binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		h.condemn(model.ReasonICMPNoFlow) // a later fragment, without ports
	}
	if !h.needs(b, headerLen+quotedLen) {
		return
	}
	q.tuple = model.Tuple{
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
		Protocol: model.Protocol(b[9]),
	}
	h.readQuotedPorts(q, b[headerLen:], model.ProtocolICMP, 8)
}

// readQuote6 goes over extension headers to what flows are known by.
func (h *headers) readQuote6(q *quote, b []byte) {
	if len(b) > 0 && b[0]>>4 != 6 {
		h.condemn(model.ReasonICMPNoFlow)
	}
	if !h.needs(b, ipv6Len+quotedLen) {
		return
	}
	q.tuple = model.Tuple{Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40]))}
	next, rest := b[6], b[ipv6Len:]
	for range maxExtensions {
		if !extends(next) {
			break
		}
		if !h.needs(rest, quotedLen) {
			return
		}
		length := 8 + 8*int(rest[1])
		if next == fragmentation {
			length = 8
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				h.condemn(model.ReasonICMPNoFlow) // a later fragment, without ports
				return
			}
		}
		next = rest[0]
		rest = rest[min(length, len(rest)):]
	}
	if extends(next) {
		h.condemn(model.ReasonICMPNoFlow)
		return
	}
	if !h.needs(rest, quotedLen) {
		return
	}
	q.tuple.Protocol = model.Protocol(next)
	h.readQuotedPorts(q, rest, model.ProtocolICMPv6, 128)
}

// readQuotedPorts reads them where the protocol has any. Of ICMP, only an echo
// request opens a flow that an error may be about.
func (h *headers) readQuotedPorts(q *quote, b []byte, icmp model.Protocol, request uint8) {
	switch q.tuple.Protocol {
	case model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP:
		q.tuple.Sport, q.tuple.Dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case icmp:
		if b[0] != request || b[1] != 0 {
			h.condemn(model.ReasonICMPNoFlow)
		}
		q.tuple.Sport = binary.BigEndian.Uint16(b[4:])
	}
}
