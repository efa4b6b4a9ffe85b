// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzReleases(f *testing.F) {
	f.Add("5.10.0-30-amd64", "6.6", "6.18.44-fc")
	f.Add("7.2-rc1", "", "6")
	f.Add("99999999999999999999.1", "-1.-1", "5.x")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		require.False(t, older(a, a))
		require.False(t, older(a, b) && older(b, a))
		if older(a, b) && older(b, c) {
			require.True(t, older(a, c))
		}
		_, minor := majorMinor(a)
		require.GreaterOrEqual(t, minor, 0)
	})
}
