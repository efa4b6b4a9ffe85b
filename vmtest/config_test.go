// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAConfigHasWhatIsSet(t *testing.T) {
	c := ParseConfig([]byte("# comment\nCONFIG_BPF=y\nCONFIG_VETH=m\n# CONFIG_VXLAN is not set\nCONFIG_TUN=n\nCONFIG_HZ=250\nCONFIG_LOCALVERSION=\"-weir\"\n"))
	require.Equal(t, Config{"BPF": "y", "VETH": "m", "HZ": "250", "LOCALVERSION": "-weir"}, c)
	require.True(t, c.Has("CONFIG_BPF"))
	require.Equal(t, []string{"CONFIG_VXLAN", "CONFIG_TUN"}, c.Missing("BPF", "VXLAN", "CONFIG_TUN"))
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("CONFIG_BPF=y\n# CONFIG_VETH is not set\nCONFIG_LOCALVERSION=\"\"\n"))
	f.Add([]byte("CONFIG_=\nCONFIG_A==\r\nCONFIG_B\n=y"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, value := range ParseConfig(text) {
			require.NotContains(t, name, "=")
			require.NotContains(t, name, "\n")
			require.NotEqual(t, "n", value)
			require.Contains(t, string(text), "CONFIG_"+name)
			require.Contains(t, string(text), strings.TrimSpace(value))
		}
	})
}
