// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatDiffersIsNamedAndReadable(t *testing.T) {
	is := flowValue{
		Src: encodeAddr(netip.MustParseAddr("10.0.0.1")), Dst: encodeAddr(netip.MustParseAddr("fd00::1")),
		Sport: encodePort(80), Flags: 0x12, OtherIfindex: 3, Smac: [6]uint8{2, 0, 0, 0, 0, 1}, Sent: 7,
	}
	want := is
	require.Empty(t, differing(is, want, "and has to be"))
	want.Src, want.Dst, want.Sport = encodeAddr(netip.MustParseAddr("10.0.0.2")), tableAddr{}, encodePort(8080)
	want.Flags, want.OtherIfindex, want.Smac = 2, 4, [6]uint8{}
	require.Equal(t, "src is 10.0.0.1, and has to be 10.0.0.2; dst is fd00::1, and has to be no address; sport is 80, and has to be 8080; "+
		"other_ifindex is 3, and has to be 4; flags is 0x12, and has to be 0x2; smac is 02:00:00:00:00:01, and has to be 00:00:00:00:00:00",
		differing(is, want, "and has to be"))

	one, other := flowKey{}, flowKey{Hook: 2}
	type packet struct {
		Key flowKey
		Len uint32
	}
	require.Equal(t, "key hook is 0, and was 2", differing(packet{one, 9}, packet{other, 9}, "and was"))
}
