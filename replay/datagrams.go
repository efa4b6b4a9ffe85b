// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// datagrams know of later fragments, which have no ports, whose they are: of
// the flows of their first fragment.
type datagrams struct {
	first map[datagramID][]flowID
	buf   [2]flowID
}

// datagramID is what fragments are put together by, RFC 791 and RFC 8200: of
// IPv6 without the protocol.
type datagramID struct {
	src, dst netip.Addr
	id       uint32
	protocol model.Protocol
}

func (h *Header) datagram() datagramID {
	d := datagramID{src: h.Src, dst: h.Dst, id: h.Fragment.ID}
	if h.Src.Is4() {
		d.protocol = h.Protocol
	}
	return d
}

// flows are those that a packet belongs to: as it came, and as it left. The
// packets have to be told in their order. They are good until the next call.
func (d *datagrams) flows(o *Outcome) []flowID {
	h := &o.Header
	if h.Fragment.Later && !o.CutHeaders {
		if of, ok := d.first[h.datagram()]; ok {
			return of
		}
		alone := h.flow()
		alone.datagram = h.Fragment.ID
		return append(d.buf[:0], alone)
	}
	flows := append(d.buf[:0], h.flow())
	if o.Translated != nil {
		flows = append(flows, o.Translated.flow())
	}
	if h.Fragment.Is && o.Verdict != Refused && !o.CutHeaders {
		if d.first == nil || len(d.first) == maxDatagrams {
			d.first = map[datagramID][]flowID{}
		}
		d.first[h.datagram()] = slices.Clone(flows)
	}
	return flows
}

// maxDatagrams bounds those whose fragments are waited for.
const maxDatagrams = 1 << 16

// meet says whether two packets have a flow in common.
func meet(a, b []flowID) bool {
	return slices.ContainsFunc(a, func(f flowID) bool { return slices.Contains(b, f) })
}
