// SPDX-License-Identifier: Apache-2.0

package frame

import "strings"

// FieldSpec says what a field of a kind of layer is.
type FieldSpec struct {
	Name string
	Type Type
	Bits int // of a Number
}

func (f FieldSpec) max() uint64 {
	if f.Bits == 0 || f.Bits > 63 {
		return 1<<63 - 1
	}
	return 1<<f.Bits - 1
}

// Kind describes a kind of layer.
type Kind struct {
	Name   string
	Help   string
	Fields []FieldSpec
	// Bare is the field that a value without a name is for: payload("text").
	Bare string
	// OnlyBuild kinds shape a frame, and are not found in one.
	OnlyBuild bool
}

// Field finds a field by name.
func (k Kind) Field(name string) (FieldSpec, bool) {
	for _, f := range k.Fields {
		if f.Name == name {
			return f, true
		}
	}
	return FieldSpec{}, false
}

// FieldNames lists the fields, for a message.
func (k Kind) FieldNames() string {
	names := make([]string, len(k.Fields))
	for i, f := range k.Fields {
		names[i] = f.Name
	}
	return strings.Join(names, ", ")
}

// KindNames lists all kinds, for a message.
func KindNames() string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	return strings.Join(names, ", ")
}

// Kinds gives all kinds of layers, in the order of a person's interest.
func Kinds() []Kind { return append([]Kind(nil), kinds...) }

// KindOf finds a kind by name.
func KindOf(name string) (Kind, bool) {
	for _, k := range kinds {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}

func num(name string, bits int) FieldSpec { return FieldSpec{name, Number, bits} }

// Field names shared by both families mean the same in both: ttl is the hop
// limit, tos the traffic class, proto the first next header that is read.
var (
	addresses = []FieldSpec{{"src", Address, 0}, {"dst", Address, 0}, num("ttl", 8), num("proto", 8),
		num("tos", 8), num("length", 16), num("version", 4)}
	ipv4Only = []FieldSpec{num("ihl", 4), num("id", 16), {"flags", IPFlags, 0}, num("frag", 13),
		num("checksum", 16), {"options", Bytes, 0}}
	ports     = []FieldSpec{num("sport", 16), num("dport", 16)}
	icmpFirst = []FieldSpec{num("type", 8), num("code", 8), num("checksum", 16), num("rest", 32)}
	echo      = []FieldSpec{num("id", 16), num("seq", 16), num("code", 8), num("checksum", 16)}
	neighbour = []FieldSpec{{"target", Address, 0}, {"lladdr", Hardware, 0}, {"flags", NDPFlags, 0},
		num("type", 8), num("code", 8), num("checksum", 16)}
)

func with(fields []FieldSpec, more ...FieldSpec) []FieldSpec {
	return append(append([]FieldSpec(nil), fields...), more...)
}

var kinds = []Kind{
	{Name: "eth", Help: "Ethernet; the addresses are the sender's and its gateway's when left out",
		Fields: []FieldSpec{{"src", Hardware, 0}, {"dst", Hardware, 0}, num("type", 16)}},
	{Name: "vlan", Help: "802.1Q tag; tpid 0x88a8 makes it 802.1ad",
		Fields: []FieldSpec{num("id", 12), num("prio", 3), num("tpid", 16), num("type", 16)}},
	{Name: "arp", Help: "ARP for IPv4 over Ethernet",
		Fields: []FieldSpec{{"op", ARPOp, 0}, {"sha", Hardware, 0}, {"spa", Address, 0}, {"tha", Hardware, 0},
			{"tpa", Address, 0}, num("htype", 16), num("ptype", 16), num("hlen", 8), num("plen", 8)}},
	{Name: "ip", Help: "IPv4 or IPv6, whichever family the scenario runs in", Fields: addresses},
	{Name: "ipv4", Fields: with(addresses, ipv4Only...)},
	{Name: "ipv6", Fields: with(addresses, num("label", 20))},
	{Name: "hopopts", Help: "IPv6 hop-by-hop options; data is what follows the two first octets",
		Fields: []FieldSpec{num("next", 8), num("len", 8), {"data", Bytes, 0}}},
	{Name: "destopts", Help: "IPv6 destination options",
		Fields: []FieldSpec{num("next", 8), num("len", 8), {"data", Bytes, 0}}},
	{Name: "routing", Help: "IPv6 routing header",
		Fields: []FieldSpec{num("next", 8), num("len", 8), num("type", 8), num("left", 8), {"data", Bytes, 0}}},
	{Name: "fragment", Help: "IPv6 fragment header; offset is in units of 8 octets",
		Fields: []FieldSpec{num("next", 8), num("offset", 13), num("more", 1), num("id", 32)}},
	{Name: "tcp", Fields: with(ports, FieldSpec{"flags", TCPFlags, 0}, num("seq", 32), num("ack", 32),
		num("window", 16), num("offset", 4), num("urgent", 16), num("checksum", 16), FieldSpec{"options", Bytes, 0})},
	{Name: "udp", Fields: with(ports, num("length", 16), num("checksum", 16))},
	{Name: "geneve", Help: "header of a tunnel in UDP; options is their length in units of 4 octets",
		Fields: []FieldSpec{num("version", 2), num("options", 6), num("flags", 8), num("type", 16), num("vni", 24)}},
	{Name: "sctp", Fields: with(ports, num("tag", 32), num("checksum", 32))},
	{Name: "icmp", Help: "ICMP for IPv4", Fields: with(icmpFirst, num("id", 16), num("seq", 16), num("mtu", 16))},
	{Name: "icmpv6", Help: "ICMP for IPv6", Fields: with(icmpFirst, num("id", 16), num("seq", 16), num("mtu", 32))},
	{Name: "echo", Help: "ICMP echo request of the family", Fields: echo},
	{Name: "echo-reply", Help: "ICMP echo reply of the family", Fields: echo},
	{Name: "port-unreachable", Help: "ICMP destination port unreachable of the family; the layers behind it are quoted"},
	{Name: "time-exceeded", Help: "ICMP time exceeded in transit of the family; the layers behind it are quoted"},
	{Name: "too-big", Help: "ICMP fragmentation needed, or packet too big; the layers behind it are quoted",
		Fields: []FieldSpec{num("mtu", 32)}},
	{Name: "ns", Help: "IPv6 neighbour solicitation", Fields: neighbour},
	{Name: "na", Help: "IPv6 neighbour advertisement", Fields: neighbour},
	{Name: "payload", Help: `what the last header carries: payload("text"), payload(hex=00ff), payload(size=100)`, Bare: "text",
		Fields: []FieldSpec{{"text", Text, 0}, {"hex", Bytes, 0}, num("size", 16)}},
	{Name: "raw", Help: "bytes as they are, in place of a header: raw(4500)", Bare: "hex", Fields: []FieldSpec{{"hex", Bytes, 0}}},
	{Name: "pad", Help: "octets behind the packet that no length counts: pad(6)", Bare: "size",
		Fields: []FieldSpec{num("size", 12)}, OnlyBuild: true},
	{Name: "truncate", Help: "cuts the whole frame to so many octets: truncate(40)", Bare: "size",
		Fields: []FieldSpec{num("size", 12)}, OnlyBuild: true},
}

// Neutral says that a kind stands for another one in each family.
func Neutral(kind string) bool {
	switch kind {
	case "ip", "echo", "echo-reply", "port-unreachable", "time-exceeded", "too-big":
		return true
	}
	return false
}

// Lower gives a layer of a neutral kind as that of a family; others as they are.
func Lower(l Layer, v6 bool) Layer {
	fixed := func(v4Type, v4Code, v6Type, v6Code int) Layer {
		out, typ, code := Layer{Kind: "icmp"}, v4Type, v4Code
		if v6 {
			out.Kind, typ, code = "icmpv6", v6Type, v6Code
		}
		out.Fields = append(out.Fields, Field{"type", Num(typ)})
		if _, named := l.Get("code"); !named {
			out.Fields = append(out.Fields, Field{"code", Num(code)})
		}
		out.Fields = append(out.Fields, l.Fields...)
		return out
	}
	switch l.Kind {
	case "ip":
		if v6 {
			return Layer{"ipv6", l.Fields}
		}
		return Layer{"ipv4", l.Fields}
	case "echo":
		return fixed(8, 0, 128, 0)
	case "echo-reply":
		return fixed(0, 0, 129, 0)
	case "port-unreachable":
		return fixed(3, 3, 1, 4)
	case "time-exceeded":
		return fixed(11, 0, 3, 0)
	case "too-big":
		return fixed(3, 4, 2, 0)
	}
	return l
}
