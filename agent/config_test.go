// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAConfigurationIsReadStrictly(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"an unknown field", "masqurade: true", "masqurade"},
		{"an unknown algorithm", "algorithm: dice", "algorithm"},
		{"a block with bits beyond its length", "masqueradeExcluded: [10.0.0.1/8]", "10.0.0.0/8"},
		{"a size that is no prime", "maglevSize: 100", "maglevSize"},
		{"an MTU that IPv6 does not allow", "mtu: 500", "between 1280 and 65535"},
		{"text that is no YAML", "{", "config.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(path, []byte(tt.text), 0o600))
			_, err := ReadConfig(path)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "config.yaml")
		})
	}
}

func TestAConfigurationThatIsNotThereMasquerades(t *testing.T) {
	c, err := ReadConfig(filepath.Join(t.TempDir(), "none"))
	require.NoError(t, err)
	options := c.options()
	require.True(t, options.Masquerade)
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte("masquerade: false\ndevices: [eth1]\n"), 0o600))
	c, err = ReadConfig(path)
	require.NoError(t, err)
	options = c.options()
	require.False(t, options.Masquerade)
	require.Equal(t, []string{"eth1"}, c.Devices)
}
