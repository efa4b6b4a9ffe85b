// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// What is no service is no small change, and what a node has is none either.
func TestWhatIsMadeAgainAlone(t *testing.T) {
	base := manifest.DeriveEndpointSlices(mustParse(t, keepable))
	more := mustParse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: more}\nspec: {clusterIP: 10.96.0.12, ports: [{port: 80}]}\n")
	pod := mustParse(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec: {nodeName: node}\nstatus: {podIP: 10.0.0.2}\n")
	twin := mustParse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: twin}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n")
	cilium := mustParse(t, "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: {endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: good}}]}]}\n")
	numbers := model.NewAllocator()
	local := model.Local{Identities: numbers}
	with := func(others ...*manifest.Objects) *manifest.Objects {
		all := base.Clone()
		for _, other := range others {
			all.Merge(other)
		}
		return all
	}
	for name, tt := range map[string]struct {
		objs  *manifest.Objects
		local model.Local
		share bool
		alone bool
	}{
		"nothing":                        {objs: with(), local: local, alone: true},
		"another copy of the same pod":   {objs: with(mustParse(t, keepable)), local: local, alone: true},
		"a service":                      {objs: with(more), local: local, alone: true},
		"a pod":                          {objs: with(pod), local: local},
		"a service of another's address": {objs: with(twin), local: local},
		"a policy that names a service":  {objs: with(cilium), local: local},
		"an option":                      {objs: with(), local: model.Local{Identities: numbers, Options: model.Options{Algorithm: model.AlgorithmMaglev}}},
		"another allocator":              {objs: with(), local: model.Local{Identities: model.NewAllocator()}},
		"shared numbers":                 {objs: with(), local: local, share: true},
	} {
		t.Run(name, func(t *testing.T) {
			var again Incremental
			_, _, err := again.All(with(), "node", local)
			require.NoError(t, err)
			if tt.share {
				numbers.Share(map[string]model.Identity{"": model.FirstLabelIdentity})
			}
			state, warnings, err := again.All(tt.objs, "node", tt.local)
			require.NoError(t, err)
			want, wanted, err := All(tt.objs, "node", tt.local)
			require.NoError(t, err)
			require.Equal(t, want, state)
			require.Equal(t, wanted, warnings)
			require.Equal(t, tt.alone, again.Whole() == 1)
		})
	}
}
