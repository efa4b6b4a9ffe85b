// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestAnAddressThatSlicesListTwice(t *testing.T) {
	at, other := netip.MustParseAddrPort("10.0.0.9:8080"), netip.MustParseAddrPort("10.0.0.8:8080")
	serving := model.Backend{Address: at.Addr(), Port: 8080}
	old := model.Backend{Address: at.Addr(), Port: 8080, Terminating: true}
	for name, tt := range map[string]struct {
		entries        []compiledBackend
		anywhere, here []model.Backend
	}{
		"ready elsewhere, and an old entry of here": {
			[]compiledBackend{{at: at, local: true}, {at: at, ready: true}},
			[]model.Backend{serving}, []model.Backend{old},
		},
		"ready here, and ending elsewhere": {
			[]compiledBackend{{at: at, ready: true, local: true}, {at: at, retiring: true}},
			[]model.Backend{serving}, []model.Backend{serving},
		},
		"ending here, and not ready elsewhere": {
			[]compiledBackend{{at: at}, {at: at, retiring: true, local: true}},
			[]model.Backend{serving}, []model.Backend{serving},
		},
		"for this zone by an entry that is not used": {
			[]compiledBackend{{at: at, zones: []string{"east"}}, {at: at, ready: true, zones: []string{"west"}}, {at: other, ready: true, zones: []string{"east"}}},
			[]model.Backend{{Address: other.Addr(), Port: 8080}, old}, []model.Backend{{Address: other.Addr(), Port: 8080, Terminating: true}, old},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // in any order
				c := &compiler{zone: "east"}
				require.Equal(t, tt.anywhere, c.clusterBackends(tt.entries))
				require.Equal(t, tt.here, localBackends(tt.entries))
				slices.Reverse(tt.entries)
			}
		})
	}
}
