// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

func layer(kind string, fields ...frame.Field) frame.Layer {
	return frame.Layer{Kind: kind, Fields: fields}
}

func TestFragmentsShowProtocolAndPorts(t *testing.T) {
	first4, later4 := datagram(t, "10.0.0.1", "10.0.0.2", 7)
	first6, later6 := datagram(t, "fd00::1", "fd00::2", 7)
	ports := layer("udp", num("sport", 1000), num("dport", 2000))
	v6 := ip("fd00::1", "fd00::2")
	options := layer("destopts", frame.Field{Name: "data", Value: frame.Data(make([]byte, 6))})
	for name, c := range map[string]struct {
		frame    []byte
		protocol model.Protocol
		ports    bool
		fragment Fragment
	}{
		"first, IPv4":          {first4, model.ProtocolUDP, true, Fragment{true, false, 7}},
		"later, IPv4":          {later4, model.ProtocolUDP, false, Fragment{true, true, 7}},
		"first, IPv6":          {first6, model.ProtocolUDP, true, Fragment{true, false, 7}},
		"later, IPv6":          {later6, model.ProtocolUDP, false, Fragment{true, true, 7}},
		"atomic":               {build(t, v6, layer("fragment", num("id", 9)), ports), model.ProtocolUDP, true, Fragment{}},
		"atomic, with options": {build(t, v6, layer("fragment", num("id", 9)), options, ports), model.ProtocolUDP, true, Fragment{}},
		"first, behind options": {build(t, v6, options, layer("fragment", num("id", 9), num("more", 1)), ports),
			model.ProtocolUDP, true, Fragment{true, false, 9}},
		"later, of one with options behind": {build(t, v6, layer("fragment", num("id", 9), num("offset", 3), num("next", 60)), layer("payload", num("size", 16))),
			nextFragment, false, Fragment{true, true, 9}},
		"no fragment": {udp(t, "10.0.0.1", "10.0.0.2", 1000, 2000, 8), model.ProtocolUDP, true, Fragment{}},
	} {
		h := readHeader(c.frame)
		require.Equal(t, c.protocol, h.Protocol, name)
		require.Equal(t, c.ports, h.HasPorts, name)
		require.Equal(t, c.fragment, h.Fragment, name)
		if c.ports {
			require.Equal(t, []uint16{1000, 2000}, []uint16{h.Sport, h.Dport}, name)
		}
	}
}

// Each length at which a capture may cut: before the headers' end nothing is
// judged, from there on the packet meets what it meets whole.
func TestCutHeadersAreTruncated(t *testing.T) {
	needRoot(t)
	first4, later4 := datagram(t, "10.1.0.1", "10.1.0.2", 7)
	first6, later6 := datagram(t, "fd01::1", "fd01::2", 7)
	addr := func(name, a string) frame.Field {
		return frame.Field{Name: name, Value: frame.Addr(netip.MustParseAddr(a))}
	}
	rest := layer("payload", num("size", 60))
	ports := layer("udp", num("sport", 1000), num("dport", 2000))
	v4, v6 := ip("10.1.0.1", "10.1.0.2"), ip("fd01::1", "fd01::2")
	for name, c := range map[string]struct {
		frame   []byte
		headers int // bytes
	}{
		"TCP":            {build(t, v4, layer("tcp", num("sport", 1), num("dport", 2), num("flags", syn)), rest), 54},
		"TCP of IPv6":    {build(t, v6, layer("tcp", num("sport", 1), num("dport", 2), num("flags", syn)), rest), 74},
		"UDP":            {build(t, v4, ports, rest), 42},
		"UDP of IPv6":    {build(t, v6, ports, rest), 62},
		"UDP, options":   {build(t, v6, layer("destopts", frame.Field{Name: "data", Value: frame.Data(make([]byte, 14))}), ports, rest), 78},
		"SCTP":           {build(t, v4, layer("sctp", num("sport", 1), num("dport", 2)), rest), 46},
		"echo":           {build(t, v4, layer("icmp", num("type", 8)), rest), 42},
		"error":          {build(t, v4, layer("icmp", num("type", 3), num("code", 1)), ip("10.1.0.2", "10.1.0.1"), ports, rest), 70},
		"error of IPv6":  {build(t, v6, layer("icmpv6", num("type", 1)), ip("fd01::2", "fd01::1"), ports, rest), 110},
		"solicitation":   {build(t, v6, layer("ns", addr("target", "fd01::2")), rest), 78},
		"ARP":            {append(build(t, layer("arp", num("op", 1), addr("spa", "10.1.0.1"), addr("tpa", "169.254.1.1"))), make([]byte, 18)...), 42},
		"first":          {first4, 42},
		"later":          {later4, 34},
		"first of IPv6":  {first6, 70},
		"later of IPv6":  {later6, 62},
		"atomic":         {build(t, v6, layer("fragment", num("id", 9)), ports, rest), 70},
		"unknown":        {build(t, v4, rest), 34},
		"no IP":          {build(t, layer("raw", frame.Field{Name: "hex", Value: frame.Data(make([]byte, 60))})), 14},
		"a longer quote": {build(t, v4, layer("icmp", num("type", 11)), frame.Layer{Kind: "ipv4", Fields: append(ip("10.1.0.2", "10.1.0.1").Fields, frame.Field{Name: "options", Value: frame.Data(make([]byte, 8))})}, ports, rest), 78},
	} {
		packets := []sent{{0, c.frame, 0}}
		for n := 14; n < len(c.frame); n++ {
			// Beyond all patience, so that no packet meets what another left.
			packets = append(packets, sent{float64(n) * 1e6, c.frame[:n], len(c.frame)})
		}
		got, _, err := replayed(t, captureOf(t, packets...), Options{Objects: objects(t)})
		require.NoError(t, err)
		whole := got[0]
		for i, o := range got[1:] {
			n := i + 14
			require.True(t, o.Truncated, name)
			require.Equal(t, n < c.headers, o.CutHeaders, "%s, %d bytes", name, n)
			if n < c.headers {
				require.Equal(t, []string{string(Drop), string(model.ReasonTruncated)}, []string{string(o.Verdict), o.Reason}, "%s, %d bytes", name, n)
				require.Empty(t, o.Flow)
				continue
			}
			require.Equal(t, []string{string(whole.Verdict), whole.Reason}, []string{string(o.Verdict), o.Reason}, "%s, %d bytes", name, n)
		}
	}
}

func TestACutPacketOpensNoFlow(t *testing.T) {
	needRoot(t)
	whole := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 100)
	got, _, err := replayed(t, captureOf(t, sent{0, whole[:40], len(whole)}, sent{1, whole, 0}), Options{})
	require.NoError(t, err)
	require.Equal(t, datapath.FlowNew, got[1].Flow)
}
