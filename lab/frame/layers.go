// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

func field(name string, n uint64) Field { return Field{name, Value{num: n}} }
func typed(name string, t Type, n uint64) Field {
	return Field{name, Value{kind: t, num: n}}
}
func hw(name string, b []byte) Field { return Field{name, Value{kind: Hardware, data: string(b)}} }
func ipField(name string, a netip.Addr) Field {
	return Field{name, Value{kind: Address, addr: a}}
}
func raw(b []byte) Layer {
	return Layer{"raw", []Field{{"hex", Value{kind: Bytes, data: string(b)}}}}
}

// Layers describes all of a frame, the outermost first. Padding comes last.
func (p *Packet) Layers() []Layer {
	d := p.Data
	if len(d) < 14 {
		return []Layer{raw(d)}
	}
	out := []Layer{{"eth", []Field{hw("dst", d[:6]), hw("src", d[6:12]), field("type", uint64(be16(d[12:])))}}}
	for i := range p.tags {
		tag := d[14+4*i:]
		out = append(out, Layer{"vlan", []Field{field("tpid", uint64(be16(d[12+4*i:]))), field("id", uint64(be16(tag)&0xfff)),
			field("prio", uint64(be16(tag)>>13)), field("type", uint64(be16(tag[2:])))}})
	}
	switch {
	case p.EtherType == etherARP && len(d) >= p.L3+28:
		out = append(out, arpLayer(d[p.L3:]))
		return out
	case p.Version == 0:
		return append(out, raw(d[p.L3:]))
	}
	out = append(out, p.packetLayers()...)
	if p.End < len(d) {
		out = append(out, Layer{"padding", []Field{field("size", uint64(len(d)-p.End))}})
	}
	return out
}

// packetLayers describes the packet from its IP header to its end.
func (p *Packet) packetLayers() []Layer {
	out := []Layer{p.ipLayer()}
	for _, e := range p.extensions {
		out = append(out, p.extensionLayer(e))
	}
	at := p.L4
	if at < 0 {
		at = p.L3 + p.headerLen
		for _, e := range p.extensions {
			at = e.at + e.bytes
		}
		if at < p.End {
			out = append(out, raw(p.Data[at:p.End]))
		}
		return out
	}
	return append(out, p.transportLayers(p.Transport())...)
}

func (p *Packet) ipLayer() Layer {
	h := p.Data[p.L3:]
	l := Layer{Fields: []Field{ipField("src", p.Src), ipField("dst", p.Dst), field("ttl", uint64(p.TTL))}}
	if p.Version == 4 {
		l.Kind = "ipv4"
		l.Fields = append(l.Fields, field("proto", uint64(p.Proto)), field("tos", uint64(h[1])),
			field("length", uint64(be16(h[2:]))), field("id", uint64(be16(h[4:]))),
			typed("flags", IPFlags, uint64(h[6]>>5)), field("frag", uint64(be16(h[6:])&0x1fff)),
			field("ihl", uint64(h[0]&15)), field("version", 4), field("checksum", uint64(be16(h[10:]))),
			Field{"options", Value{kind: Bytes, data: string(h[20:p.headerLen])}})
		return l
	}
	l.Kind = "ipv6"
	l.Fields = append(l.Fields, field("proto", uint64(h[6])), field("tos", uint64(be16(h)>>4&0xff)),
		field("length", uint64(be16(h[4:]))), field("label", uint64(be32(h)&0xfffff)), field("version", 6))
	return l
}

func (p *Packet) extensionLayer(e extension) Layer {
	h := p.Data[e.at : e.at+e.bytes]
	next := field("next", uint64(h[0]))
	length := field("len", uint64(h[1]))
	switch e.proto {
	case protoHopByHop:
		return Layer{"hopopts", []Field{next, length, {"data", Data(h[2:])}}}
	case protoDestOpts:
		return Layer{"destopts", []Field{next, length, {"data", Data(h[2:])}}}
	case protoRouting:
		return Layer{"routing", []Field{next, length, field("type", uint64(h[2])), field("left", uint64(h[3])), {"data", Data(h[4:])}}}
	}
	return Layer{"fragment", []Field{next, field("offset", uint64(be16(h[2:])>>3)), field("more", uint64(h[3]&1)), field("id", uint64(be32(h[4:])))}}
}

func (p *Packet) transportLayers(b []byte) []Layer {
	ports := func() []Field {
		return []Field{field("sport", uint64(be16(b))), field("dport", uint64(be16(b[2:])))}
	}
	var l Layer
	size := 8
	switch {
	case p.Proto == protoTCP && len(b) >= 20:
		l = Layer{"tcp", append(ports(), typed("flags", TCPFlags, uint64(b[13])), field("seq", uint64(be32(b[4:]))),
			field("ack", uint64(be32(b[8:]))), field("window", uint64(be16(b[14:]))), field("offset", uint64(b[12]>>4)),
			field("urgent", uint64(be16(b[18:]))), field("checksum", uint64(be16(b[16:]))))}
		size = max(20, int(b[12]>>4)*4)
		if size > len(b) {
			size = 20
		}
		l.Fields = append(l.Fields, Field{"options", Data(b[20:size])})
	case p.Proto == protoUDP && len(b) >= 8:
		l = Layer{"udp", append(ports(), field("length", uint64(be16(b[4:]))), field("checksum", uint64(be16(b[6:]))))}
	case p.Proto == protoSCTP && len(b) >= 12:
		l = Layer{"sctp", append(ports(), field("tag", uint64(be32(b[4:]))), field("checksum", uint64(be32(b[8:]))))}
		size = 12
	case (p.Proto == protoICMP || p.Proto == protoICMPv6) && len(b) >= 8:
		l, size = icmpLayer(p.Proto, b)
		if q, ok := p.Quoted(); ok {
			return append([]Layer{l}, q.packetLayers()...)
		}
	case len(b) == 0:
		return nil
	case p.isIPInIP():
		return p.carriedLayers(raw(b))
	default:
		return []Layer{raw(b)}
	}
	out := []Layer{l}
	if p.isGeneve() {
		out = append(out, geneveLayer(b[size:]))
		return append(out, p.carriedLayers(raw(b[size+geneveLen:]))...)
	}
	if size < len(b) {
		out = append(out, Layer{"payload", []Field{{"text", Value{kind: Text, data: string(b[size:])}}}})
	}
	return out
}

func icmpLayer(proto uint8, b []byte) (Layer, int) {
	first := []Field{field("type", uint64(b[0])), field("code", uint64(b[1])), field("checksum", uint64(be16(b[2:])))}
	if proto == protoICMPv6 && (b[0] == 135 || b[0] == 136) && len(b) >= 24 {
		l := Layer{"ns", []Field{ipField("target", netip.AddrFrom16([16]byte(b[8:24]))), typed("flags", NDPFlags, uint64(b[4]>>5))}}
		if b[0] == 136 {
			l.Kind = "na"
		}
		l.Fields = append(l.Fields, first...)
		if len(b) >= 32 && (b[24] == 1 || b[24] == 2) && b[25] == 1 {
			l.Fields = append(l.Fields, hw("lladdr", b[26:32]))
			return l, 32
		}
		return l, 24
	}
	l := Layer{"icmp", first}
	if proto == protoICMPv6 {
		l.Kind = "icmpv6"
	}
	l.Fields = append(l.Fields, field("id", uint64(be16(b[4:]))), field("seq", uint64(be16(b[6:]))), field("rest", uint64(be32(b[4:]))))
	if proto == protoICMP {
		l.Fields = append(l.Fields, field("mtu", uint64(be16(b[6:]))))
	} else {
		l.Fields = append(l.Fields, field("mtu", uint64(be32(b[4:]))))
	}
	return l, 8
}

func arpLayer(h []byte) Layer {
	return Layer{"arp", []Field{typed("op", ARPOp, uint64(be16(h[6:]))), hw("sha", h[8:14]),
		ipField("spa", netip.AddrFrom4([4]byte(h[14:18]))), hw("tha", h[18:24]), ipField("tpa", netip.AddrFrom4([4]byte(h[24:28]))),
		field("htype", uint64(be16(h))), field("ptype", uint64(be16(h[2:]))), field("hlen", uint64(h[4])), field("plen", uint64(h[5]))}}
}

// shown are the fields that a line for a person has; others only when they
// differ between two frames.
var shown = map[string]string{
	"eth": "", "vlan": "id", "arp": "op spa tpa sha", "ipv4": "src dst ttl", "ipv6": "src dst ttl", "fragment": "offset more",
	"routing": "type left", "tcp": "sport dport flags seq ack", "udp": "sport dport length", "sctp": "sport dport",
	"icmp": "type code id", "icmpv6": "type code id", "ns": "target", "na": "target lladdr", "payload": "text", "padding": "size", "raw": "hex",
}

// Line describes a frame in one line, for a person.
func Line(data []byte) string { return strings.Join(lineOf(Decode(data).Layers(), nil), " ") }

// Changes describes a frame in one line, where what differs from the frame
// before is marked as field=old→new.
func Changes(before, after []byte) string {
	return strings.Join(lineOf(Decode(after).Layers(), Decode(before).Layers()), " ")
}

func lineOf(layers, before []Layer) []string {
	var out []string
	for i, l := range layers {
		if l.Kind == "eth" && before == nil {
			continue
		}
		var fields []string
		changed := false
		names := " " + shown[l.Kind] + " "
		for _, f := range l.Fields {
			show := strings.Contains(names, " "+f.Name+" ")
			text := f.Name + "=" + brief(f.Value)
			if i < len(before) && before[i].Kind == l.Kind {
				if old, ok := before[i].Get(f.Name); ok && !old.Equal(f.Value) {
					text = fmt.Sprintf("%s=%s→%s", f.Name, brief(old), brief(f.Value))
					show, changed = true, true
				}
			}
			if show {
				fields = append(fields, text)
			}
		}
		if l.Kind == "eth" && !changed {
			continue
		}
		out = append(out, l.Kind+"("+strings.Join(fields, " ")+")")
	}
	return out
}

// brief cuts long values, which a capture shows whole.
func brief(v Value) string {
	s := v.String()
	if len(s) <= 48 {
		return s
	}
	return fmt.Sprintf("%s… %d octets", s[:40], len(v.data))
}
