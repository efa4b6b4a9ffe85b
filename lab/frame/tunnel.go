// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/binary"
)

// Tunnels: IP in IP of one family (RFC 2003, RFC 2473), and IP in Geneve (RFC
// 8926).
const (
	protoIPv4  = 4
	protoIPv6  = 41
	genevePort = 6081
	geneveLen  = 8
)

func (p *Packet) isIPInIP() bool {
	return !p.Fragment && (p.Proto == protoIPv4 && p.Version == 4 || p.Proto == protoIPv6 && p.Version == 6)
}

// isGeneve goes by the port alone, as everybody does.
func (p *Packet) isGeneve() bool {
	b := p.Transport()
	return !p.Fragment && p.Proto == protoUDP && len(b) >= 8+geneveLen && binary.BigEndian.Uint16(b[2:]) == genevePort
}

// Carried gives the packet that is in a tunnel's packet; false where there is
// none, or none that can be read.
func (p *Packet) Carried() (*Packet, bool) {
	c := &Packet{Data: p.Data, EtherType: p.EtherType, L3: p.L4, L4: -1, End: p.End}
	switch {
	case p.isIPInIP():
	case p.isGeneve():
		c.EtherType = binary.BigEndian.Uint16(p.Transport()[8+2:])
		// Options are in units of 4 octets.
		c.L3 += 8 + geneveLen + 4*int(p.Transport()[8]&0x3f)
	default:
		return nil, false
	}
	if p.L4 < 0 || c.L3 > p.End {
		return nil, false
	}
	c.decodeIP(c.L3)
	return c, c.Version != 0
}

// TakenOut is the frame that the packet in a tunnel's makes when it is taken out,
// with what is behind it. Congestion that was met outside is told inside, to who
// can hear of it (RFC 6040); a checksum that was wrong stays wrong. It is nil
// where there is no such packet.
func (p *Packet) TakenOut() []byte {
	c, ok := p.Carried()
	if !ok {
		return nil
	}
	out := append(bytes.Clone(p.Data[:12]), byte(p.EtherType>>8), byte(p.EtherType))
	out = append(out, p.Data[c.L3:]...)
	const congested = 3
	service, shift := &out[14+1], 0
	if p.Version == 6 {
		shift = 4
	}
	before := *service
	if p.Data[p.L3+1]>>shift&congested != congested || before>>shift&congested == 0 {
		return out
	}
	*service |= congested << shift
	if p.Version == 4 {
		check := out[14+10 : 14+12]
		sum := uint32(binary.BigEndian.Uint16(check)) + uint32(before) + uint32(^uint16(*service))
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(check, uint16(sum+sum>>16))
	}
	return out
}

// Alone is the frame that a packet in a tunnel's is by itself.
func (p *Packet) Alone() []byte {
	out := append(bytes.Clone(p.Data[:12]), byte(p.EtherType>>8), byte(p.EtherType))
	return append(out, p.Data[p.L3:p.End]...)
}

// carriedLayers describes what is in a tunnel's packet; as instead where it is
// no packet.
func (p *Packet) carriedLayers(instead Layer) []Layer {
	if c, ok := p.Carried(); ok {
		return c.packetLayers()
	}
	return []Layer{instead}
}

func geneveLayer(b []byte) Layer {
	return Layer{"geneve", []Field{field("version", uint64(b[0]>>6)), field("options", uint64(b[0]&0x3f)),
		field("flags", uint64(b[1])), field("type", uint64(be16(b[2:]))), field("vni", uint64(be32(b[4:])>>8))}}
}
