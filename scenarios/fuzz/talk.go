// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// side is who sends a packet of a conversation.
type side bool

const (
	opener   side = false
	answerer side = true
)

// turn is one packet of a conversation.
type turn struct {
	by     side
	flags  uint64 // of TCP
	octets int    // of payload
}

// TCP flags, RFC 9293 3.1.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

var (
	handshake = []turn{{opener, syn, 0}, {answerer, syn | ack, 0}, {opener, ack, 0}}
	exchange  = []turn{{opener, psh | ack, 32}, {answerer, psh | ack, 64}, {opener, ack, 0}}
	farewell  = []turn{{opener, fin | ack, 0}, {answerer, ack, 0}, {answerer, fin | ack, 0}, {opener, ack, 0}}
	abort     = []turn{{answerer, rst | ack, 0}}
	giveUp    = []turn{{opener, rst, 0}}
	datagrams = []turn{{opener, 0, 20}, {answerer, 0, 40}, {opener, 0, 20}, {answerer, 0, 9}}
)

// conversation is an exchange of packets between two. Where the answers come
// from, and with which tuple, is known once a packet of the opener's was seen
// to leave.
type conversation struct {
	at      model.Where
	tuple   model.Tuple // as the opener sends
	script  []turn
	answers *origin
	through hop  // of the opener's packets, where they come in a tunnel
	leaves  bool // by a tunnel, as was seen
	stream  *stream
}

// origin is where packets begin: the hook that they meet first, and their tuple.
type origin struct {
	at    model.Where
	tuple model.Tuple
}

// end is one who may open a conversation or be reached.
type end struct {
	pod  string // of this node; empty for all others
	addr netip.Addr
}

// talk makes conversations, and their frames.
type talk struct {
	*network
	devices map[string]model.Device
	open    []*conversation
}

// localEnds are the addresses of this node's pods.
func (t *talk) localEnds() []end {
	var out []end
	for _, name := range t.pods {
		if p := t.objs.Pods[name]; p != nil {
			for _, a := range podAddresses(p) {
				out = append(out, end{name, a})
			}
		}
	}
	return out
}

// converse opens another conversation.
func (t *talk) converse() *conversation {
	if t.wide && t.chance(55) {
		return t.beyond()
	}
	locals := t.localEnds()
	if len(locals) == 0 {
		return nil
	}
	from := pick(t.rng, locals)
	c := &conversation{at: model.Where{Hook: model.FromContainer, Endpoint: from.pod}}
	c.tuple = model.Tuple{Src: from.addr, Sport: uint16(40000 + t.rng.IntN(8)), Dport: t.port(), Protocol: t.protocol(from.addr)}
	switch t.rng.IntN(10) {
	case 0, 1: // comes from the node or from beyond it
		c.at.Hook = model.ToContainer
		c.tuple.Src, c.tuple.Dst = t.elsewhere(from.addr), from.addr
	case 2, 3, 4, 5:
		if t.wide && t.chance(50) {
			t.toPlace(c)
			break
		}
		t.toService(c)
	case 6:
		c.tuple.Dst = t.elsewhere(from.addr)
	default:
		c.tuple.Dst = t.like(from.addr, addressesOf(locals))
	}
	if !c.tuple.Dst.IsValid() {
		c.tuple.Dst = t.like(from.addr, addressesOf(locals))
	}
	if c.tuple.Protocol == model.ProtocolICMP || c.tuple.Protocol == model.ProtocolICMPv6 {
		c.tuple.Dport = 0
	}
	c.script = t.script(c.tuple.Protocol)
	return c
}

func addressesOf(ends []end) []netip.Addr {
	var out []netip.Addr
	for _, e := range ends {
		out = append(out, e.addr)
	}
	return out
}

func (t *talk) protocol(a netip.Addr) model.Protocol {
	switch t.rng.IntN(20) {
	case 0, 1:
		if a.Is6() {
			return model.ProtocolICMPv6
		}
		return model.ProtocolICMP
	case 2:
		return model.ProtocolSCTP
	case 3:
		return model.Protocol(47) // GRE, of which the datapath knows nothing
	case 4, 5, 6, 7, 8:
		return model.ProtocolUDP
	}
	return model.ProtocolTCP
}

// like picks an address of the same family, the zero Addr if there is none.
func (t *talk) like(a netip.Addr, from []netip.Addr) netip.Addr {
	same := slices.DeleteFunc(slices.Clone(from), func(b netip.Addr) bool { return a.Is4() != b.Is4() })
	if len(same) == 0 {
		return netip.Addr{}
	}
	return pick(t.rng, same)
}

// elsewhere picks an address that no pod of this node has.
func (t *talk) elsewhere(like netip.Addr) netip.Addr {
	return t.like(like, append(t.elsewhereOf(), gateways[0]))
}

func (t *talk) elsewhereOf() []netip.Addr {
	all := append(slices.Clone(outsiders), node4, node6, other4, other6)
	for _, name := range slices.Sorted(maps.Keys(t.objs.Pods)) {
		if p := t.objs.Pods[name]; p.Spec.NodeName != nodeName {
			all = append(all, podAddresses(p)...)
		}
	}
	return all
}

// toService aims a conversation at a service, if there is one of its family.
func (t *talk) toService(c *conversation) {
	names := slices.Sorted(maps.Keys(t.objs.Services))
	if len(names) == 0 {
		return
	}
	s := t.objs.Services[pick(t.rng, names)]
	for _, ip := range s.Spec.ClusterIPs {
		a := netip.MustParseAddr(ip)
		if a.Is4() != c.tuple.Src.Is4() {
			continue
		}
		p := pick(t.rng, s.Spec.Ports)
		c.tuple.Dst, c.tuple.Dport, c.tuple.Protocol = a, uint16(p.Port), model.ProtocolTCP
		if number, known := protocolNumbers[p.Protocol]; known {
			c.tuple.Protocol = number
		}
	}
}

func (t *talk) script(p model.Protocol) []turn {
	if p != model.ProtocolTCP {
		return datagrams[:1+t.rng.IntN(len(datagrams))]
	}
	switch t.rng.IntN(12) {
	case 0: // mid-stream
		return slices.Concat(exchange, farewell)
	case 1:
		return slices.Concat(handshake, abort, handshake)
	case 2:
		return slices.Concat(handshake, giveUp, handshake)
	case 3: // again on the same ports
		return slices.Concat(handshake, exchange, farewell, handshake, exchange)
	case 4:
		return slices.Concat(handshake[:1], abort)
	case 5:
		return handshake[:2]
	}
	return slices.Concat(handshake, exchange, farewell)
}

// next gives the next frame of a conversation, and whether there is one.
func (t *talk) next(c *conversation) (*Frame, side, bool) {
	if len(c.script) == 0 {
		return nil, opener, false
	}
	now := c.script[0]
	c.script = c.script[1:]
	o := origin{c.at, c.tuple}
	if now.by == answerer {
		o = t.answer(c)
	}
	if c.leaves && t.chance(30) {
		now.octets = t.brimful(o.tuple)
	}
	data, err := frame.Build(t.layers(o, now, t.number(c, now))...)
	if err != nil {
		return nil, opener, false // answers of the other family's: there are none
	}
	f := &Frame{o.at, data}
	if now.by == opener && c.isLed() {
		f = t.wrap(f, c.through)
	}
	return f, now.by, true
}

// answer is where an answer begins: as the opener's packet was seen to leave,
// or, when none was, as if it had left as it came.
func (t *talk) answer(c *conversation) origin {
	if c.answers != nil {
		return *c.answers
	}
	o := origin{model.Where{Hook: model.ToContainer, Endpoint: c.at.Endpoint}, c.tuple.Reversed()}
	switch {
	case c.at.Hook == model.ToContainer:
		o.at.Hook = model.FromContainer
	case c.at.Hook == model.FromDevice:
		o.at.Hook = model.ToDevice
	case t.wide:
		o.at = model.Where{Hook: model.FromDevice, Endpoint: nodeName}
	}
	for _, e := range t.localEnds() {
		if e.addr == c.tuple.Dst {
			o.at = model.Where{Hook: model.FromContainer, Endpoint: e.pod}
		}
	}
	return o
}

// layers describes a packet as it is sent at its origin.
func (t *talk) layers(o origin, now turn, n numbers) []frame.Layer {
	ip := layer("ipv4", "src", frame.Addr(o.tuple.Src), "dst", frame.Addr(o.tuple.Dst))
	if o.tuple.Src.Is6() {
		ip.Kind = "ipv6"
	}
	out := []frame.Layer{t.ethernet(o.at), ip}
	ports := func(kind string) frame.Layer {
		return layer(kind, "sport", frame.Num(o.tuple.Sport), "dport", frame.Num(o.tuple.Dport))
	}
	switch o.tuple.Protocol {
	case model.ProtocolTCP:
		out = append(out, t.segment(ports("tcp"), now.flags, n))
	case model.ProtocolUDP:
		out = append(out, ports("udp"))
	case model.ProtocolSCTP:
		out = append(out, ports("sctp"))
	case model.ProtocolICMP, model.ProtocolICMPv6:
		out = append(out, echo(o.tuple, now.by))
	default:
		out[1] = ip.With("proto", frame.Num(uint8(o.tuple.Protocol)))
	}
	if t.chance(10) {
		out[1] = out[1].With("tos", frame.Num(t.rng.IntN(256)))
	}
	if t.chance(3) {
		out = t.between(out)
	}
	switch {
	case t.wide && t.chance(2):
		now.octets = t.brimful(o.tuple)
	case t.chance(4): // about what answers quote
		now.octets = t.rng.IntN(24)
	}
	if now.octets > 0 {
		out = append(out, layer("payload", "size", frame.Num(now.octets)))
	}
	return out
}

// between puts options or an extension header behind IP's header: what is done to
// the transport has to find it there.
func (t *talk) between(layers []frame.Layer) []frame.Layer {
	if layers[1].Kind == "ipv4" {
		layers[1] = layers[1].With("options", frame.Data(bytes.Repeat([]byte{1}, 4*(1+t.rng.IntN(10)))))
		return layers
	}
	if _, fixed := layers[1].Get("proto"); fixed {
		return layers
	}
	return slices.Insert(layers, 2, layer(pick(t.rng, []string{"hopopts", "destopts"})))
}

// segment gives TCP what a datapath has to keep, or to answer by: numbers, seldom
// options and what hosts hardly set.
func (t *talk) segment(l frame.Layer, flags uint64, n numbers) frame.Layer {
	const urgent, reserved = 0x20, 0xc0
	if t.chance(10) {
		flags |= t.rng.Uint64() & (urgent | reserved | psh)
		l = l.With("window", frame.Num(t.rng.IntN(1<<16))).With("urgent", frame.Num(t.rng.IntN(1<<16)))
	}
	if t.chance(5) { // no operation
		l = l.With("options", frame.Data(bytes.Repeat([]byte{1}, 4*(1+t.rng.IntN(10)))))
	}
	return l.With("flags", frame.Num(flags)).With("seq", frame.Num(n.sequence)).With("ack", frame.Num(n.acknowledged))
}

// echo is a request of the opener's, or the answerer's reply.
func echo(tuple model.Tuple, by side) frame.Layer {
	l := layer("icmp", "type", frame.Num(8), "id", frame.Num(tuple.Sport|tuple.Dport), "seq", frame.Num(1))
	if by == answerer {
		l = l.With("type", frame.Num(0))
	}
	if tuple.Protocol == model.ProtocolICMPv6 {
		l.Kind = "icmpv6"
		l = l.With("type", frame.Num(128))
		if by == answerer {
			l = l.With("type", frame.Num(129))
		}
	}
	return l
}

func (t *talk) ethernet(at model.Where) frame.Layer {
	d := t.devices[at.Endpoint]
	if at.Hook == model.ToContainer || at.Hook == model.ToDevice {
		return layer("eth", "src", frame.MAC(d.MAC), "dst", frame.MAC(d.PodMAC))
	}
	from := d.PodMAC
	if at.Hook == model.FromDevice && t.chance(10) { // of several routers, or a neighbour
		from = []byte{0xa6, 0x91, 0x7c, 0x58, 0xe3, byte(t.rng.IntN(256))}
	}
	return layer("eth", "src", frame.MAC(from), "dst", frame.MAC(d.MAC))
}

// parts cuts a packet into fragments, of which some are lost or swapped.
func (t *talk) parts(f *Frame) []*Frame {
	p := frame.Decode(f.Data)
	body := p.Behind()
	if len(body) < 24 || p.Fragment {
		return []*Frame{f}
	}
	id := uint32(t.rng.IntN(4))
	var out []*Frame
	for at := 0; at < len(body); {
		n := min(len(body)-at, 8*(1+t.rng.IntN(5)))
		more := uint64(1)
		if at+n == len(body) {
			more = 0
		}
		out = append(out, &Frame{f.At, fragment(p, at, n, more, id)})
		at += n
	}
	if t.chance(20) {
		t.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	if t.chance(10) {
		out = out[1:]
	}
	return out
}

// fragment is n octets of a packet's body.
func fragment(p *frame.Packet, at, n int, more uint64, id uint32) []byte {
	ip := frame.Decode(p.Data).Layers()[1]
	for _, name := range []string{"length", "checksum", "ihl", "options"} {
		ip.Fields = slices.DeleteFunc(ip.Fields, func(f frame.Field) bool { return f.Name == name })
	}
	layers := []frame.Layer{p.Layers()[0], ip}
	if p.Version == 4 {
		layers[1] = ip.With("frag", frame.Num(at/8)).With("flags", frame.Num(more)).With("id", frame.Num(id))
	} else {
		next, _ := ip.Get("proto")
		layers[1] = ip.With("proto", frame.Num(44))
		layers = append(layers, layer("fragment", "next", next, "offset", frame.Num(at/8), "more", frame.Num(more), "id", frame.Num(id)))
	}
	layers = append(layers, layer("raw", "hex", frame.Data(p.Behind()[at:at+n])))
	data, err := frame.Build(layers...)
	if err != nil {
		return p.Data
	}
	return data
}

// complaint is an ICMP error about a packet that left, from who got it or from
// a router on its way.
func (t *talk) complaint(out []byte, at model.Where) *Frame {
	p := frame.Decode(out)
	t4, t6 := []int{3, 3, 3, 11, 12, 4, 5, 13, 10}, []int{1, 2, 2, 3, 4, 5}
	if p.Version == 0 || p.L3 != 14 {
		return nil
	}
	quote := p.Data[p.L3:p.End]
	header := max(20, p.L4-p.L3)
	quote = quote[:min(len(quote), pick(t.rng, []int{28, 48, 60, 20, 8, 200, header + 7, header + 8}))]
	if t.chance(15) {
		quote = t.misquote(p.Version, quote)
	}
	from := p.Dst
	if t.chance(30) {
		from = t.like(p.Src, append(t.addresses(), outsiders...))
	}
	to := p.Src
	if t.chance(10) {
		to = t.wordOff(to)
	}
	if len(quote) > 0 && t.chance(20) {
		quote = t.quoteOff(quote)
	}
	ip := layer("ipv4", "src", frame.Addr(from), "dst", frame.Addr(to))
	icmp := layer("icmp", "type", frame.Num(pick(t.rng, t4)), "code", frame.Num(t.rng.IntN(5)), "rest", frame.Num(t.told()))
	if p.Version == 6 {
		ip.Kind, icmp.Kind = "ipv6", "icmpv6"
		icmp = icmp.With("type", frame.Num(pick(t.rng, t6)))
	}
	data, err := frame.Build(t.ethernet(at), ip, icmp, layer("raw", "hex", frame.Data(quote)))
	if err != nil {
		return nil
	}
	return &Frame{at, data}
}

// wordOff is an address that differs from another in one word of 32 bits.
func (n *network) wordOff(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[4*n.rng.IntN(len(b)/4)+3] ^= 1 << n.rng.IntN(8)
	off, _ := netip.AddrFromSlice(b)
	return off
}

// quoteOff changes a word of an address that a quoted packet has, as far as it
// is quoted.
func (n *network) quoteOff(quote []byte) []byte {
	from, words := 12, 2
	if quote[0]>>4 == 6 {
		from, words = 8, 8
	}
	out := slices.Clone(quote)
	at := from + 4*n.rng.IntN(words) + 3
	if at >= len(out) {
		return out
	}
	out[at] ^= 1 << n.rng.IntN(8)
	if words == 2 && len(out) >= 20 {
		recheck(out)
	}
	return out
}

// told is what an error says besides, mostly of an MTU: about what links have to
// carry, and anything.
func (t *talk) told() uint32 {
	return pick(t.rng, []uint32{0, 1, 67, 68, 1279, 1280, 1400, 67 << 16, t.rng.Uint32()})
}

// misquote is a quote of something else than was sent, by little; of the same
// addresses.
func (t *talk) misquote(version int, quote []byte) []byte {
	out := slices.Clone(quote)
	protocol, l4 := 9, 20
	if version == 6 {
		protocol, l4 = 6, 40
	}
	if len(out) < l4 {
		return out
	}
	switch t.rng.IntN(4) {
	case 0:
		out[protocol] = pick(t.rng, []byte{out[protocol] + 1, 1, 6, 17, 58, 132, 133})
	case 1:
		out[0] ^= 0x10 << t.rng.IntN(2)
	case 2: // a later fragment's, in IPv4
		out[7] ^= byte(1 + t.rng.IntN(8))
	case 3: // ports, or the type and code of an echo
		if at := l4 + t.rng.IntN(4); at < len(out) {
			out[at] ^= 1 << t.rng.IntN(8)
		}
	}
	return out
}

// layer makes a layer of names and values in turn.
func layer(kind string, fields ...any) frame.Layer {
	l := frame.Layer{Kind: kind, Fields: make([]frame.Field, 0, len(fields)/2+2)}
	for i := 0; i+1 < len(fields); i += 2 {
		l.Fields = append(l.Fields, frame.Field{Name: fields[i].(string), Value: fields[i+1].(frame.Value)})
	}
	return l
}

// neighbours makes a frame of the protocols between neighbours: ARP, and
// neighbour discovery.
func (t *talk) neighbours() *Frame {
	pod := pick(t.rng, t.pods)
	at := model.Where{Hook: pick(t.rng, []model.Hook{model.FromContainer, model.FromContainer, model.ToContainer}), Endpoint: pod}
	own4, own6 := netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd10:a:0:b:0:c:0:20")
	if p := t.objs.Pods[pod]; p != nil {
		for _, a := range podAddresses(p) {
			if a.Is4() {
				own4 = a
			} else {
				own6 = a
			}
		}
	}
	d := t.devices[pod]
	eth := t.ethernet(at)
	targets4 := []netip.Addr{gateways[0], gateways[0], own4, node4, outsiders[0]}
	targets6 := []netip.Addr{gateways[1], gateways[1], own6, node6, outsiders[4], t.wordOff(own6), t.wordOff(gateways[1])}
	sources6 := []netip.Addr{own6, own6, netip.MustParseAddr("fe80::99"), netip.IPv6Unspecified(), node6, gateways[1], t.wordOff(own6)}
	var layers []frame.Layer
	if t.chance(50) {
		op := pick(t.rng, []int{1, 1, 2, 3})
		mac := pick(t.rng, []frame.Value{frame.MAC(d.PodMAC), frame.MAC(d.PodMAC), frame.MAC(d.MAC)})
		layers = []frame.Layer{eth, layer("arp", "op", frame.Num(op), "sha", mac,
			"spa", frame.Addr(pick(t.rng, []netip.Addr{own4, own4, node4, gateways[0]})), "tpa", frame.Addr(pick(t.rng, targets4)))}
	} else {
		kind := pick(t.rng, []string{"ns", "ns", "na"})
		nd := layer(kind, "target", frame.Addr(pick(t.rng, targets6)), "lladdr", frame.MAC(d.PodMAC))
		if t.chance(15) {
			nd = nd.With("type", frame.Num(133+t.rng.IntN(5)))
		}
		hops := 255
		if t.chance(10) {
			hops = t.rng.IntN(256)
		}
		dst := pick(t.rng, []netip.Addr{netip.MustParseAddr("ff02::1:ff00:1"), gateways[1], own6})
		layers = []frame.Layer{eth, layer("ipv6", "src", frame.Addr(pick(t.rng, sources6)), "dst", frame.Addr(dst), "ttl", frame.Num(hops)), nd}
	}
	data, err := frame.Build(layers...)
	if err != nil {
		panic(fmt.Sprintf("build neighbour's frame: %v", err)) // all of it is written here
	}
	return &Frame{at, data}
}
