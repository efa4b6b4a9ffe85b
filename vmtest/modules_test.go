// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	index := newModuleIndex("", []module{
		{Name: "vxlan", Depends: []string{"udp_tunnel", "ip6_udp_tunnel"}, Aliases: []string{"rtnl-link-vxlan"}},
		{Name: "ip6_udp_tunnel", Depends: []string{"udp_tunnel"}},
		{Name: "udp_tunnel"},
		{Name: "conntrack", Depends: []string{"crc32c_lib"}},
		{Name: "crc32c_lib", Before: []string{"crc32c", "not-there"}},
		{Name: "crc32c_intel", Aliases: []string{"crc32c", "cpu:type:x86,ven*fam*"}},
		{Name: "crc32c_generic", Aliases: []string{"crc32c"}},
		{Name: "left", Depends: []string{"right"}},
		{Name: "right", Depends: []string{"left"}},
	})
	for _, test := range []struct {
		name    string
		wanted  []string
		order   []string
		missing []string
	}{
		{"by name", []string{"vxlan"}, []string{"udp_tunnel", "ip6_udp_tunnel", "vxlan"}, nil},
		{"by alias", []string{"rtnl-link-vxlan"}, []string{"udp_tunnel", "ip6_udp_tunnel", "vxlan"}, nil},
		{"with a dash", []string{"udp-tunnel"}, []string{"udp_tunnel"}, nil},
		{"by a pattern", []string{"cpu:type:x86,ven0002fam0017mod0001"}, []string{"crc32c_intel"}, nil},
		{"all that claim an alias, as what should come before", []string{"conntrack"}, []string{"crc32c_intel", "crc32c_generic", "crc32c_lib", "conntrack"}, nil},
		{"two that need each other do not end in a loop", []string{"left"}, []string{"right", "left"}, nil},
		{"what there is not", []string{"virtio_pci", "vxlan"}, []string{"udp_tunnel", "ip6_udp_tunnel", "vxlan"}, []string{"virtio_pci"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ordered, missing := index.order(test.wanted...)
			var names []string
			for _, m := range ordered {
				names = append(names, m.Name)
			}
			require.Equal(t, test.order, names)
			require.Equal(t, test.missing, missing)
		})
	}
}

func TestSoftDependenciesAreRead(t *testing.T) {
	require.Equal(t, []string{"a", "b"}, softBefore("pre: a b post: c"))
	require.Equal(t, []string{"b"}, softBefore("post: a pre: b"))
	require.Empty(t, softBefore("post: a"))
}

func FuzzModule(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, image []byte) {
		m, err := describeModule(image)
		if err == nil {
			newModuleIndex("", []module{m}).order(m.Name)
		}
	})
}

func TestAConfigIsRead(t *testing.T) {
	c := ParseConfig([]byte("# comment\nCONFIG_BPF=y\nCONFIG_VETH=m\nCONFIG_NAME=\"x y\"\n# CONFIG_NETKIT is not set\nCONFIG_OFF=n\nnonsense\n"))
	require.Equal(t, Config{"BPF": "y", "VETH": "m", "NAME": "x y"}, c)
	require.Equal(t, []string{"CONFIG_NETKIT"}, c.Missing("BPF", "CONFIG_VETH", "CONFIG_NETKIT"))
}
