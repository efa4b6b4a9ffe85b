// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"math/bits"
	"slices"

	"github.com/weirnet/weir/model"
)

// PortRange is an entry of a rule's ports. A name stands for other numbers on
// other pods.
type portRange struct {
	protocol    model.Protocol // ProtocolAny: any, of which a name may be
	first, last uint16         // 0, 0: any port
	name        string
	field       string // its path in the object, for people
}

// portMatch is as much of a table's key as a protocol and its port are.
type portMatch struct {
	protocol model.Protocol
	portPrefix
}

// portPrefix is the block of ports that share their leading bits with port.
type portPrefix struct {
	port uint16
	bits uint8
}

// portPrefixes covers first…last with the fewest blocks; 0, 0 is every port.
func portPrefixes(first, last uint16) []portPrefix {
	if first == 0 && last == 0 {
		return []portPrefix{{}}
	}
	var prefixes []portPrefix
	for at, end := uint32(first), uint32(last); at <= end; {
		// The largest block that begins here and does not end too late.
		size := uint32(1) << bits.TrailingZeros32(at|1<<16)
		for at+size-1 > end {
			size >>= 1
		}
		prefixes = append(prefixes, portPrefix{port: uint16(at), bits: uint8(17 - bits.Len32(size))})
		at += size
	}
	return prefixes
}

// intersect gives what both match; of two blocks of ports one holds the other,
// or they have nothing in common.
func (m portMatch) intersect(n portMatch) (portMatch, bool) {
	if m.protocol == model.ProtocolAny {
		return n, true
	}
	if n.protocol == model.ProtocolAny {
		return m, true
	}
	if m.bits < n.bits {
		m, n = n, m
	}
	same := n.bits == 0 || (m.port^n.port)>>(16-n.bits) == 0
	return m, m.protocol == n.protocol && same
}

// named gives the ports of a pod that a name stands for.
func (id *identity) named(port portRange) []portMatch {
	var found []portMatch
	for named, number := range id.ports {
		if named.name == port.name && (port.protocol == model.ProtocolAny || named.protocol == port.protocol) {
			found = append(found, portMatch{named.protocol, portPrefix{port: number, bits: 16}})
		}
	}
	slices.SortFunc(found, func(a, b portMatch) int { return int(a.protocol) - int(b.protocol) })
	return found
}

// matches gives the ports of a range, whose names are those of target.
func (r portRange) matches(target *identity) []portMatch {
	if r.name != "" {
		return target.named(r)
	}
	var found []portMatch
	for _, prefix := range portPrefixes(r.first, r.last) {
		found = append(found, portMatch{r.protocol, prefix})
	}
	return found
}
