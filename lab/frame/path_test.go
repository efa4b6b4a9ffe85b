// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func pathFrame(t *testing.T, v6 bool, kind, dst string, ports ...uint16) []byte {
	t.Helper()
	mac, src := MAC([]byte{2, 0, 0, 0, 0, 1}), netip.MustParseAddr("203.0.113.10")
	if v6 {
		src = netip.MustParseAddr("2001:db8::10")
	}
	transport := Layer{Kind: kind}
	if len(ports) == 2 {
		transport = transport.With("sport", Num(ports[0])).With("dport", Num(ports[1]))
	}
	ip := Lower(Layer{Kind: "ip"}, v6).With("src", Addr(src)).With("dst", Addr(netip.MustParseAddr(dst)))
	data, err := Build(Layer{Kind: "eth"}.With("src", mac).With("dst", mac), ip, transport)
	require.NoError(t, err)
	return data
}

func TestPathSpreadsFlowsAndKeepsEachTogether(t *testing.T) {
	const flows = 3000
	for _, dst := range []string{"198.51.100.10", "2001:db8:51::c8"} {
		v6 := netip.MustParseAddr(dst).Is6()
		for _, n := range []int{2, 3, 8} {
			t.Run(fmt.Sprintf("to %s by %d", dst, n), func(t *testing.T) {
				counts := make([]int, n)
				for i := range flows {
					data := pathFrame(t, v6, "tcp", dst, uint16(20000+i), 80)
					path := Path(data, n)
					counts[path]++
					data[len(data)-1] ^= 0xff // of the same flow: another segment
					data[14+8]--              // TTL, or of IPv6 an octet of the source
					if v6 {
						data[14+8]++
						data[14+7]--
					}
					require.Equal(t, path, Path(data, n))
				}
				for path, count := range counts {
					require.InDelta(t, flows/n, count, flows/float64(n)/4, "path %d", path)
				}
			})
		}
	}
}

func TestPathKnowsPortsOfWholePacketsOnly(t *testing.T) {
	differ := func(v6 bool, kind, dst string, harm func([]byte)) bool {
		seen := map[int]bool{}
		for sport := range uint16(64) {
			data := pathFrame(t, v6, kind, dst, 1000+sport, 80)
			harm(data)
			seen[Path(data, 8)] = true
		}
		return len(seen) > 1
	}
	nothing := func([]byte) {}
	require.True(t, differ(false, "udp", "198.51.100.10", nothing))
	require.True(t, differ(true, "udp", "2001:db8::c8", nothing))
	require.False(t, differ(false, "sctp", "198.51.100.10", nothing), "not a protocol whose ports are known")
	require.False(t, differ(false, "udp", "198.51.100.10", func(d []byte) { d[14+6] = 0x20 }), "a first fragment")
	require.False(t, differ(false, "udp", "198.51.100.10", func(d []byte) { d[14+7] = 9 }), "a later fragment")
	require.True(t, differ(false, "udp", "198.51.100.10", func(d []byte) { d[14+6] = 0x40 }), "one that may not be fragmented")
	require.False(t, differ(true, "udp", "2001:db8::c8", func(d []byte) { d[14+6] = 44 }), "behind another header")
}

func TestPathTakesAnyBytes(t *testing.T) {
	for _, dst := range []string{"198.51.100.10", "2001:db8::c8"} {
		whole := pathFrame(t, netip.MustParseAddr(dst).Is6(), "tcp", dst, 1, 2)
		for n := range len(whole) + 1 {
			require.Less(t, Path(whole[:n], 8), 8)
			require.Zero(t, Path(whole[:n], 1))
		}
	}
}
