// SPDX-License-Identifier: Apache-2.0

package model

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIdentitiesAreReusedOnlyWhenAllWereGiven(t *testing.T) {
	p := &pool{next: 256, last: 258, known: map[string]*allocation{}}
	give := func(keys ...string) map[string]Identity {
		numbers, err := p.allocate(keys)
		require.NoError(t, err)
		return numbers
	}
	require.Equal(t, map[string]Identity{"a": 256, "b": 257}, give("b", "a", "a"))
	require.Equal(t, map[string]Identity{"b": 257, "c": 258}, give("b", "c"))
	require.Equal(t, map[string]Identity{"c": 258, "d": 256}, give("c", "d"), "a was unused the longest")
	require.Equal(t, map[string]Identity{"b": 257, "c": 258, "d": 256}, give("b", "c", "d"), "b was not forgotten")
	_, err := p.allocate([]string{"b", "c", "d", "e"})
	require.ErrorIs(t, err, ErrIdentitiesExhausted)
}
