// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlainAddressesAreReadAsAllOthersAre(t *testing.T) {
	parts := []string{"", "0", "00", "01", "9", "10", "255", "256", "1000", "a", "-1"}
	read := 0
	var try func(text []string)
	try = func(text []string) {
		all := strings.Join(text, ".")
		want, err := netip.ParseAddr(all)
		addr, ok := plainIPv4(all)
		require.Equal(t, err == nil, ok, "%q", all)
		if ok {
			require.Equal(t, want, addr)
			read++
		}
		if len(text) == 5 {
			return
		}
		for _, part := range parts {
			try(append(text[:len(text):len(text)], part))
		}
	}
	for _, part := range parts {
		try([]string{part})
	}
	require.Equal(t, 4*4*4*4, read)
	for _, text := range []string{"::1", "::ffff:10.0.0.1", "10.0.0.1%eth0", "10.0.0.1 ", "10.0.0.0/8"} {
		_, ok := plainIPv4(text)
		require.False(t, ok, text)
	}
}
