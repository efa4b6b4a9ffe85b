// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
)

// segment is a SYN from 10.0.0.1:256 to 10.0.0.2:80, with an octet behind the packet.
var segment = append(append(make([]byte, 12), 0x08, 0x00,
	0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
	1, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0), 0)

func TestWhatIsReadOfAFrameIsWhatIsInIt(t *testing.T) {
	right := func() *bpf.ContainerScratch {
		var s bpf.ContainerScratch
		p := &s.Pkt
		p.Key = flowKey{
			Src: encodeAddr(netip.MustParseAddr("10.0.0.1")), Dst: encodeAddr(netip.MustParseAddr("10.0.0.2")),
			Sport: encodePort(256), Dport: encodePort(80), Proto: 6, Family: 4, Hook: 1, Ifindex: 7,
		}
		p.Len, p.L4Off, p.L4Len, p.Ttl, p.TcpFlags, p.Plain = 40, 34, 20, 64, 2, 1
		return &s
	}
	require.Empty(t, parsed(segment, right()))
	for name, wrong := range map[string]func(*bpf.ContainerScratch){
		"the length with padding":    func(s *bpf.ContainerScratch) { s.Pkt.Len++ },
		"another place of the ports": func(s *bpf.ContainerScratch) { s.Pkt.L4Off += 4 },
		"the time to live":           func(s *bpf.ContainerScratch) { s.Pkt.Ttl-- },
		"no flags":                   func(s *bpf.ContainerScratch) { s.Pkt.TcpFlags = 0 },
		"options that are not there": func(s *bpf.ContainerScratch) { s.Pkt.Plain = 0 },
		"source as destination":      func(s *bpf.ContainerScratch) { s.Pkt.Key.Dst = s.Pkt.Key.Src },
		"ports that are swapped":     func(s *bpf.ContainerScratch) { s.Pkt.Key.Sport = s.Pkt.Key.Dport },
	} {
		s := right()
		wrong(s)
		require.Len(t, parsed(segment, s), 1, name)
	}
}

func TestOfAPartNothingIsCompared(t *testing.T) {
	part := append([]byte{}, segment...)
	part[20] = 0x20
	require.Empty(t, parsed(part, &bpf.ContainerScratch{}))
}
