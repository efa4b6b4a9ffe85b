// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/ipam"
)

func pool(t *testing.T, blocks ...string) *ipam.Pool {
	t.Helper()
	var prefixes []netip.Prefix
	for _, block := range blocks {
		prefixes = append(prefixes, netip.MustParsePrefix(block))
	}
	p := new(ipam.Pool)
	require.NoError(t, p.SetPrefixes(prefixes))
	return p
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func take(t *testing.T, p *ipam.Pool, owner string) []netip.Addr {
	t.Helper()
	got, err := p.Take(owner)
	require.NoError(t, err)
	return got
}

func TestAnOwnerHasOneAddressOfEachFamilyAndKeepsThem(t *testing.T) {
	p := pool(t, "10.0.1.0/24", "fd00:1::/64")
	first := take(t, p, "a")
	require.Equal(t, addrs("10.0.1.1", "fd00:1::1"), first)
	require.Equal(t, addrs("10.0.1.2", "fd00:1::2"), take(t, p, "b"))
	require.Equal(t, first, take(t, p, "a"))
	require.Equal(t, 4, p.Used())
}

func TestAnExcludedAddressIsNotGiven(t *testing.T) {
	p := pool(t, "10.0.1.0/29") // .1 to .6
	p.Exclude(map[netip.Addr]bool{netip.MustParseAddr("10.0.1.1"): true, netip.MustParseAddr("10.0.1.3"): true, netip.MustParseAddr("192.0.2.1"): true})
	for i, want := range []string{"10.0.1.2", "10.0.1.4", "10.0.1.5", "10.0.1.6"} {
		require.Equal(t, addrs(want), take(t, p, fmt.Sprint(i)))
	}
	_, err := p.Take("one more")
	require.ErrorIs(t, err, ipam.ErrExhausted)
	p.Exclude(nil)
	require.Equal(t, addrs("10.0.1.1"), take(t, p, "one more"))
}

func TestAReleasedAddressIsGivenAgainLast(t *testing.T) {
	p := pool(t, "10.0.1.0/29") // .1 to .6
	for i := range 3 {
		take(t, p, fmt.Sprint(i))
	}
	p.Release("1")
	for i, want := range []string{"10.0.1.4", "10.0.1.5", "10.0.1.6", "10.0.1.2"} {
		require.Equal(t, addrs(want), take(t, p, fmt.Sprint("later", i)))
	}
	_, err := p.Take("one too many")
	require.ErrorIs(t, err, ipam.ErrExhausted)
	require.ErrorContains(t, err, "10.0.1.0/29")
	p.Release("nobody")
	p.Release("0")
	require.Equal(t, addrs("10.0.1.1"), take(t, p, "one too many"))
}

func TestEveryAddressOfABlockIsGivenButTheNetworkAndTheBroadcast(t *testing.T) {
	for _, tt := range []struct {
		block string
		room  int
	}{{"10.0.0.0/30", 2}, {"10.0.0.0/31", 2}, {"10.0.0.4/32", 1}, {"10.0.0.0/24", 254}, {"fd00::/126", 3}, {"fd00::/127", 2}, {"255.255.255.252/30", 2}} {
		t.Run(tt.block, func(t *testing.T) {
			p := pool(t, tt.block)
			seen := map[netip.Addr]bool{}
			for i := range tt.room {
				addr := take(t, p, fmt.Sprint(i))[0]
				require.False(t, seen[addr], addr)
				require.True(t, netip.MustParsePrefix(tt.block).Contains(addr), addr)
				seen[addr] = true
			}
			_, err := p.Take("one too many")
			require.ErrorIs(t, err, ipam.ErrExhausted)
		})
	}
}

func TestNothingIsGivenWhenOneFamilyHasNoRoom(t *testing.T) {
	p := pool(t, "10.0.0.0/24", "fd00::1/128")
	take(t, p, "a")
	_, err := p.Take("b")
	require.ErrorIs(t, err, ipam.ErrExhausted)
	require.Equal(t, 2, p.Used())
}

func TestWhatEarlierOwnersHoldIsNotGiven(t *testing.T) {
	p := pool(t, "10.0.0.0/29")
	require.NoError(t, p.Hold("old", addrs("10.0.0.1")))
	require.NoError(t, p.Hold("elsewhere", addrs("10.9.9.9")), "of an earlier podCIDR")
	require.NoError(t, p.Hold("old", addrs("10.0.0.1")), "again")
	require.Equal(t, addrs("10.0.0.2"), take(t, p, "new"))
	require.Equal(t, addrs("10.0.0.1"), take(t, p, "old"))
	require.ErrorContains(t, p.Hold("thief", addrs("10.0.0.1")), "old has it")
}

func TestAPoolWithoutBlocksSaysWhereTheyComeFrom(t *testing.T) {
	_, err := new(ipam.Pool).Take("a")
	require.ErrorIs(t, err, ipam.ErrNoPrefix)
	require.ErrorContains(t, err, "--allocate-node-cidrs")
}

func TestTwoBlocksOfAFamilyAreRefused(t *testing.T) {
	err := new(ipam.Pool).SetPrefixes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.1.0.0/24")})
	require.ErrorContains(t, err, "10.1.0.0/24")
	require.Error(t, new(ipam.Pool).SetPrefixes(make([]netip.Prefix, 1)))
}
