// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatKindOfICMPMessageATypeIs(t *testing.T) {
	for _, tt := range []struct {
		isV6        bool
		first, last uint8
		want        message
	}{
		{false, 0, 2, otherMessage},
		{false, 3, 3, errorMessage}, // destination unreachable
		{false, 4, 5, unrelatedError},
		{false, 6, 10, otherMessage},
		{false, 11, 12, errorMessage}, // time exceeded, parameter problem
		{false, 13, 255, otherMessage},
		{true, 0, 0, otherMessage},
		{true, 1, 4, errorMessage},
		{true, 5, 132, otherMessage},
		{true, 133, 137, discovery},
		{true, 138, 255, otherMessage},
	} {
		for kind := int(tt.first); kind <= int(tt.last); kind++ {
			require.Equal(t, tt.want, messageOf(uint8(kind), tt.isV6), "type %d, IPv6 %t", kind, tt.isV6)
		}
	}
}
