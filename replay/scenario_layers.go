// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// told are the fields that a script always names of a layer.
var told = map[string][]string{
	"vlan": {"id"}, "arp": {"op", "spa", "tpa"}, "ipv4": {"src", "dst"}, "ipv6": {"src", "dst"},
	"routing": {"type", "left"}, "fragment": {"offset", "more", "id"},
	"tcp": {"sport", "dport", "flags"}, "udp": {"sport", "dport"}, "sctp": {"sport", "dport"},
	"icmp": {"type", "code", "id"}, "icmpv6": {"type", "code", "id"}, "ns": {"target"}, "na": {"target", "flags"},
	"raw": {"hex"},
}

// untold are the fields that no program reads, or few, see isRead: they are left as
// a sender of the lab makes them, whatever they were.
var untold = []string{"checksum", "seq", "ack", "window", "urgent", "tos", "label", "rest", "mtu", "tag", "sha", "tha"}

// derived are the fields that a sender makes of what is behind them.
var derived = []string{"length", "offset", "ihl", "len", "next", "proto"}

// longPayload is from when on a payload is described by its size.
const longPayload = 32

// layers describes a frame in the words of a script: with the fewest fields
// that make the same headers.
func (s *script) layers(p *step) string {
	wanted := frame.Decode(p.frame).Layers()
	eth := wanted[0]
	described := describe(wanted, s.ends())
	if described == nil { // what cannot be said in layers is said in bytes
		described = []frame.Layer{{Kind: "eth", Fields: fields(eth, "type")}, {Kind: "raw", Fields: []frame.Field{{Name: "hex", Value: frame.Data(p.frame[etherLen:])}}}}
	}
	var parts []string
	for _, l := range described {
		if text := s.layer(l); text != "eth()" {
			parts = append(parts, text)
		}
	}
	if s.options.At == model.ToContainer {
		parts = s.toward(parts, s.hostOf(p.endpoint))
	}
	return strings.Join(parts, " ")
}

// toward gives the Ethernet layer the pod's address, so that the node sends
// the frame to that pod whatever its destination.
func (s *script) toward(parts []string, pod string) []string {
	if len(parts) > 0 && strings.HasPrefix(parts[0], "eth(") {
		parts[0] = "eth(dst=" + pod + " " + strings.TrimPrefix(parts[0], "eth(")
		return parts
	}
	return append([]string{"eth(dst=" + pod + ")"}, parts...)
}

// fields picks fields of a layer by name.
func fields(l frame.Layer, names ...string) []frame.Field {
	var out []frame.Field
	for _, name := range names {
		if v, ok := l.Get(name); ok {
			out = append(out, frame.Field{Name: name, Value: v})
		}
	}
	return out
}

// describe finds layers that build to the headers of wanted; nil when there
// are none. Ethernet's addresses are the sender's to fill in. The numbers of TCP
// are told where its flow ends.
func describe(wanted []frame.Layer, ends bool) []frame.Layer {
	said := make([]frame.Layer, len(wanted))
	for i, l := range wanted {
		said[i] = frame.Layer{Kind: l.Kind, Fields: fields(l, told[l.Kind]...)}
		switch l.Kind {
		case "ipv4":
			if isFragment(l) { // by its identification the datagram is known
				said[i].Fields = fields(l, append(told[l.Kind], "id")...)
			}
		case "payload":
			said[i].Fields = payloadFields(l)
		case "padding":
			said[i] = frame.Layer{Kind: "pad", Fields: fields(l, "size")}
		case "hopopts", "destopts":
			said[i].Fields = fields(l, "data")
		}
	}
	// What is derived from other fields is named only where these do not make
	// it right.
	for _, skipped := range [][]string{derived, nil, nil} {
		built, err := frame.Build(withAddresses(said, wanted[0])...)
		if err != nil {
			return nil
		}
		got := frame.Decode(built).Layers()
		if len(got) != len(wanted) {
			return nil
		}
		same := true
		for i := range wanted {
			if wanted[i].Kind != got[i].Kind {
				return nil
			}
			same = correct(&said[i], wanted[i], got[i], skipped, ends) && same
		}
		if same && skipped == nil {
			return said
		}
	}
	return nil
}

func isFragment(ipv4 frame.Layer) bool {
	const more = 1
	flags, _ := ipv4.Get("flags")
	place, _ := ipv4.Get("frag")
	return flags.Num()&more != 0 || place.Num() != 0
}

// withAddresses completes the Ethernet layer as the sender of a script does.
func withAddresses(said []frame.Layer, eth frame.Layer) []frame.Layer {
	out := slices.Clone(said)
	out[0].Fields = append(fields(eth, "src", "dst"), out[0].Fields...)
	return out
}

// correct names the fields that came out otherwise than wanted, but for those
// that are skipped. True: none.
func correct(said *frame.Layer, wanted, got frame.Layer, skipped []string, ends bool) bool {
	same := true
	for _, f := range wanted.Fields {
		v, ok := got.Get(f.Name)
		skip := wanted.Kind == "eth" && f.Name != "type" || wanted.Kind == "payload" || wanted.Kind == "padding" ||
			slices.Contains(untold, f.Name) && !isRead(wanted, f, ends) || slices.Contains(skipped, f.Name) || f.Name == "id" && wanted.Kind == "ipv4"
		if skip || ok && v.Equal(f.Value) {
			continue
		}
		if _, named := said.Get(f.Name); named {
			return false // and naming it did not help: the rounds end it
		}
		*said = said.With(f.Name, f.Value)
		same = false
	}
	return same
}

// isRead is whether some program reads one of those that are untold: whether UDP has
// a checksum, what fits through a link, who an ARP reply says that has an address,
// and where both ends of TCP are, when it ends.
func isRead(l frame.Layer, f frame.Field, ends bool) bool {
	is := func(name string, n int) bool {
		v, _ := l.Get(name)
		return int(v.Num()) == n
	}
	switch l.Kind + " " + f.Name {
	case "udp checksum":
		return f.Value.Num() == 0
	case "icmp mtu":
		return is("type", 3) && is("code", 4)
	case "icmpv6 mtu":
		return is("type", 2)
	case "arp sha":
		return !is("op", arpRequest)
	case "tcp seq", "tcp ack":
		return ends
	}
	return false
}

// arpRequest asks, RFC 826.
const arpRequest = 1

// ends is whether a segment of the script may end its flow: by the numbers of both
// sides it is judged whether it does.
func (s *script) ends() bool {
	const fin, rst = 1, 4
	return slices.ContainsFunc(s.steps, func(p step) bool { return p.header.TCPFlags&(fin|rst) != 0 })
}

// payloadFields describes a payload: what no program reads, by its size.
func payloadFields(l frame.Layer) []frame.Field {
	v, _ := l.Get("text")
	data := v.Bytes()
	if len(data) > longPayload {
		return []frame.Field{{Name: "size", Value: frame.Num(len(data))}}
	}
	return []frame.Field{{Name: "hex", Value: frame.Data(data)}}
}

// layer writes a layer, with the hosts' names in place of their addresses.
func (s *script) layer(l frame.Layer) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s(", l.Kind)
	for i, f := range l.Fields {
		if i > 0 {
			b.WriteByte(' ')
		}
		value := f.Value.String()
		if a := f.Value.Addr(); a.IsValid() && s.names[a] != "" {
			value = s.names[a]
		}
		fmt.Fprintf(&b, "%s=%s", f.Name, value)
	}
	b.WriteByte(')')
	return b.String()
}
