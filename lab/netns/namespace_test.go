// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAWorldsHostsHaveTheirSettings(t *testing.T) {
	network := topology()
	network.Pods[0].Silent = true
	w, err := New(t.Context(), network, Options{Plain: true, Blind: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	for _, h := range w.hosts() {
		wanted := map[string]sysctl{}
		for _, s := range hostSysctls() {
			wanted[s.path] = s
		}
		var special []sysctl
		switch {
		case h == w.nodes[0].host:
			special = nodeSysctls()
		case h.silent:
			special = silentSysctls()
		}
		for _, s := range special {
			wanted[s.path] = s
		}
		var missing []string
		require.NoError(t, h.ns.run(func() error {
			for _, s := range wanted {
				if !s.optional && !s.holds() {
					missing = append(missing, s.path+" = "+s.value)
				}
			}
			return nil
		}))
		require.Empty(t, missing, h.name)
	}
}

func TestASettingThatIsNotThereDoesNotHold(t *testing.T) {
	require.False(t, sysctl{path: "ipv4/no_such_setting", value: ""}.holds())
}
