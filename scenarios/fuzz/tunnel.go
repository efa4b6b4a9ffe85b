// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// tunnelPort is that of Geneve (RFC 8926).
const tunnelPort = 6081

// What networks have whose pods answer the clients of other nodes themselves:
// packets that nodes lead to each other by tunnels, well made and not, and from
// others than nodes.

// direct has pods of other nodes answer clients themselves, by chance.
func (n *network) direct(o *model.Options) {
	if !n.chance(40) {
		return
	}
	o.Return = pick(n.rng, []model.Return{model.ReturnDSR, model.ReturnDSR, model.ReturnHybrid})
	o.Tunnel = pick(n.rng, []model.Tunnel{model.TunnelIPIP, model.TunnelGeneve})
}

// tunnels is whether nodes lead packets to each other.
func (n *network) tunnels() bool { return n.operator.Tunnel != model.TunnelNone }

// hop is a tunnel's way: from a node to the pod that is to answer.
type hop struct{ from, to netip.Addr }

// lead has a conversation of an outsider's with a service come by another node:
// as if the client had come there.
func (t *talk) lead(c *conversation) {
	if t.chance(70) {
		switch c.tuple.Dst {
		case node4:
			c.tuple.Dst = other4
		case node6:
			c.tuple.Dst = other6
		}
	}
	from, to := []netip.Addr{other4, other6}, addressesOf(t.localEnds())
	if t.chance(8) {
		from = t.around()
	}
	if t.chance(8) {
		to = t.around()
	}
	c.through = hop{t.like(c.tuple.Src, from), t.like(c.tuple.Src, to)}
}

// pieces cuts a frame of a conversation into fragments. What comes in a tunnel
// may have been cut before that.
func (t *talk) pieces(c *conversation, by side, f *Frame) []*Frame {
	inner, ok := frame.Decode(f.Data).Carried()
	if by != opener || !c.isLed() || !ok || t.chance(20) {
		return t.parts(f)
	}
	out := t.parts(&Frame{f.At, inner.Alone()})
	for i := range out {
		out[i] = t.wrap(out[i], c.through)
	}
	return out
}

// beyondTunnel does what comes back of a packet that was led to another node:
// errors about what the pod there answered, and about the tunnel's packet. No
// answer does.
func (s *sequence) beyondTunnel(c *conversation, f *Frame, r *ran, n int) (*Finding, int) {
	c.leaves = true
	c.script = slices.DeleteFunc(slices.Clone(c.script), func(t turn) bool { return t.by == answerer })
	if !s.chance(15) {
		return nil, n
	}
	about := r.out
	if s.chance(80) {
		if about = s.answered(f.Data); about == nil {
			return nil, n
		}
	}
	e := s.complaint(about, model.Where{Hook: model.FromDevice, Endpoint: nodeName})
	if e == nil {
		return nil, n
	}
	found, frames := s.sendMaybeMutated(e, 25)
	return found, n + frames
}

// answered is an answer to a frame, as the client gets it; nil where there is
// none.
func (t *talk) answered(asked []byte) []byte {
	p := frame.Decode(asked)
	if inner, ok := p.Carried(); ok {
		p = frame.Decode(inner.Alone())
	}
	tuple, ok := p.Tuple()
	if !ok {
		return nil
	}
	o := origin{model.Where{Hook: model.ToDevice, Endpoint: nodeName}, tuple.Reversed()}
	data, err := frame.Build(t.layers(o, turn{by: answerer, flags: psh | ack, octets: 64}, t.anyNumbers())...)
	if err != nil {
		return nil
	}
	return data
}

// around are addresses of all kinds.
func (t *talk) around() []netip.Addr {
	return append(t.elsewhereOf(), addressesOf(t.localEnds())...)
}

// isLed is whether the opener's packets come in a tunnel.
func (c *conversation) isLed() bool { return c.through.from.IsValid() && c.through.to.IsValid() }

// wrap puts the packet of a frame into a tunnel's, mostly as a node does it.
func (t *talk) wrap(f *Frame, way hop) *Frame {
	p := frame.Decode(f.Data)
	if p.Version == 0 || p.L3 != ethernetLen {
		return f
	}
	outer := t.outer(way)
	kind := t.operator.Tunnel
	if t.chance(3) {
		kind = pick(t.rng, []model.Tunnel{model.TunnelIPIP, model.TunnelGeneve})
	}
	layers := []frame.Layer{p.Layers()[0], outer}
	if kind == model.TunnelGeneve {
		layers = append(layers, t.datagram(), t.geneve(p.EtherType))
	} else {
		layers[1] = outer.With("proto", frame.Num(map[int]int{4: 4, 6: 41}[p.Version]))
	}
	data, err := frame.Build(append(layers, layer("raw", "hex", frame.Data(f.Data[p.L3:])))...)
	if err != nil || len(data) < len(f.Data) {
		return f
	}
	return &Frame{f.At, data}
}

// outer is the header of a tunnel's packet. Somebody on its way may have told of
// congestion.
func (t *talk) outer(way hop) frame.Layer {
	ip := layer("ipv4", "src", frame.Addr(way.from), "dst", frame.Addr(way.to), "flags", frame.Num(2))
	if way.from.Is6() {
		ip = layer("ipv6", "src", frame.Addr(way.from), "dst", frame.Addr(way.to))
	}
	if t.chance(30) {
		ip = ip.With("tos", frame.Num(pick(t.rng, []int{0, 1, 2, 3, 3, 3, 0xb8, 0xbb, t.rng.IntN(256)})))
	}
	if t.chance(3) {
		ip = ip.With("ttl", frame.Num(pick(t.rng, ttls)))
	}
	if way.from.Is4() && t.chance(3) {
		ip = ip.With("flags", frame.Num(t.rng.IntN(4))).With("frag", frame.Num(t.rng.IntN(2)*t.rng.IntN(20)))
	}
	return ip
}

// datagram is Geneve's UDP: nodes leave out its checksum.
func (t *talk) datagram() frame.Layer {
	udp := layer("udp", "sport", frame.Num(0xc000+t.rng.IntN(0x4000)), "dport", frame.Num(tunnelPort))
	if t.chance(75) {
		udp = udp.With("checksum", frame.Num(0))
	}
	if t.chance(3) {
		udp = udp.With("dport", frame.Num(6080+t.rng.IntN(3)))
	}
	return udp
}

// geneve is a header that announces a packet of a family, or, seldom, anything.
func (t *talk) geneve(etherType uint16) frame.Layer {
	g := layer("geneve", "type", frame.Num(etherType))
	switch t.rng.IntN(40) {
	case 0:
		g = g.With("options", frame.Num(t.rng.IntN(4)))
	case 1:
		g = g.With("version", frame.Num(t.rng.IntN(4)))
	case 2:
		g = g.With("type", frame.Num(pick(t.rng, []int{0x0800, 0x86dd, 0x6558, 0x0806, t.rng.IntN(1 << 16)})))
	case 3: // nobody reads these
		g = g.With("vni", frame.Num(t.rng.IntN(1<<24))).With("flags", frame.Num(t.rng.IntN(256)))
	}
	return g
}

// brimful is how many octets a packet carries that fits into a link, or just into
// a tunnel, or just does not.
func (t *talk) brimful(tuple model.Tuple) int {
	const link, ipv4, ipv6, udp, geneve = 1500, 20, 40, 8, 8
	ip, l4 := ipv4, udp
	if tuple.Src.Is6() {
		ip = ipv6
	}
	if tuple.Protocol == model.ProtocolTCP {
		l4 = 20
	}
	room := link - ip - l4
	switch t.rng.IntN(4) {
	case 0:
	case 1:
		room -= ip
	default:
		room -= ip
		if t.operator.Tunnel == model.TunnelGeneve {
			room -= udp + geneve
		}
	}
	return room - 1 + t.rng.IntN(3)
}

const ethernetLen = 14

// inside changes the packet in a tunnel's, whose headers then say how long it
// has become.
func (m *mutator) inside(p, inner *frame.Packet, addresses []netip.Addr) []byte {
	alone := m.once(inner.Alone(), addresses)
	if len(alone) < ethernetLen {
		return p.Data
	}
	out := slices.Concat(p.Data[:inner.L3], alone[ethernetLen:])
	grown := len(out) - p.End
	relength := func(at int) {
		binary.BigEndian.PutUint16(out[at:], uint16(int(binary.BigEndian.Uint16(out[at:]))+grown))
	}
	if p.Version == 6 {
		relength(p.L3 + 4)
	} else {
		relength(p.L3 + 2)
		recheck(out[p.L3:])
	}
	if inner.L3 > p.L4 { // Geneve
		relength(p.L4 + 4)
	}
	return out
}
