// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model/manifest"
)

// Compiler and oracle read blocks each in their own way, and find the same
// addresses in them.
func FuzzBlock(f *testing.F) {
	for _, text := range []string{
		"10.1.2.3/8", "010.0.0.0/08", "::ffff:10.0.0.0/104", "::ffff:a00:1/128", "64:ff9b::1.2.3.4/96", "fd00::/0", "0.0.0.0/0",
		"10.0.0.0/33", "10.0.0/8", "::ffff:10.0.0.0/90", "1.2.3.4", "/8", "1.2.3.4/", "fe80::1%eth0/64", "1..2.3/8", "::1.2.3/64",
	} {
		f.Add(text, uint32(0x0a010203))
	}
	f.Fuzz(func(t *testing.T, text string, number uint32) {
		prefix, err := manifest.ParseLegacyBlock(text)
		if err != nil {
			return
		}
		low := [4]byte{byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)}
		asked := []netip.Addr{netip.AddrFrom4(low), prefix.Addr(), prefix.Addr().Prev(), prefix.Addr().Next()}
		if at := prefix.Addr().As16(); prefix.Addr().Is6() {
			copy(at[12:], low[:])
			asked = append(asked, netip.AddrFrom16(at))
		}
		for _, addr := range asked {
			if addr.IsValid() {
				require.Equal(t, prefix.Contains(addr), inLooseBlock(text, addr), "%q as %s, %s", text, prefix, addr)
			}
		}
	})
}
