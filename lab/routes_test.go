// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLeadsFollowWhatWasToldAndThenWhoHasTheAddress(t *testing.T) {
	shared, moved := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::7")
	l := NewLeads([]Route{{To: shared, Node: "b"}, {To: shared, Node: "a"}})
	require.Equal(t, []string{"b", "a"}, l.Towards(shared), "in the order of the routes")
	require.Empty(t, l.Towards(moved))
	require.Equal(t, []netip.Addr{shared}, l.All())

	l.Assign("b", moved, true)
	one := l.Towards(moved)
	l.Assign("a", moved, true)
	require.Equal(t, []string{"b"}, one, "who was given a list keeps it")
	require.Equal(t, []string{"a", "b"}, l.Towards(moved))
	require.True(t, l.Has("a", moved))
	require.False(t, l.Has("a", shared), "it is only led there")
	require.Equal(t, []netip.Addr{shared, moved}, l.All())

	l.Lead(moved, "c")
	require.Equal(t, []string{"c"}, l.Towards(moved))
	require.Equal(t, []string{"a", "b"}, l.Holders(moved))
	l.Lead(moved)
	require.Equal(t, []string{"a", "b"}, l.Towards(moved))
	l.Assign("a", moved, false)
	l.Assign("b", moved, false)
	require.Empty(t, l.Towards(moved))
	require.Equal(t, []netip.Addr{shared}, l.All())

	var none Leads
	require.Empty(t, none.Towards(shared))
	none.Lead(shared, "a")
	require.Equal(t, []string{"a"}, none.Towards(shared))
}
