// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// What others have nothing to do with is a small change; what a node is configured by
// is none.
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
		"a pod":                          {objs: with(pod), local: local, alone: true},
		"a pod's device":                 {objs: with(pod), local: model.Local{Identities: numbers, Devices: map[model.Key]model.Device{model.ParseKey("default/other"): {Name: "veth0"}}}, alone: true},
		"a service of another's address": {objs: with(twin), local: local, alone: true},
		"a policy that names a service":  {objs: with(cilium), local: local, alone: true},
		"an option":                      {objs: with(), local: model.Local{Identities: numbers, Options: model.Options{Algorithm: model.AlgorithmMaglev}}},
		"another allocator":              {objs: with(), local: model.Local{Identities: model.NewAllocator()}},
		"shared numbers":                 {objs: with(), local: local, share: true, alone: true},
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
			require.Equal(t, tt.alone, again.Whole() == 1, again.Why())
		})
	}
}

// Who names what has changed keeps one set of objects, of which refused ones stay a
// part: they are left out until they are others.
func TestWhoNamesChangesIsGivenTheSame(t *testing.T) {
	objs := manifest.DeriveEndpointSlices(mustParse(t, keepable))
	local := model.Local{Identities: model.NewAllocator()}
	var again Incremental
	good, bad := model.Ref{Kind: "Service", Namespace: "default", Name: "good"}, model.Ref{Kind: "Service", Namespace: "default", Name: "bad"}
	policy := model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "p"}
	for _, step := range []struct {
		name    string
		more    string
		changed []model.Ref
		refused int
		whole   uint64
	}{
		{"the first time", "", nil, 0, 1},
		{"nothing, though something is named", "", []model.Ref{good, {Kind: "Pod", Namespace: "default", Name: "nobody"}, {Kind: "Moon", Name: "x"}}, 0, 1},
		{"a service that is wrong comes", "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.0.11, ports: [{port: 80, targetPort: 90, protocol: SCTP}]}\n", []model.Ref{bad}, 1, 1},
		{"a policy that is wrong comes", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n", []model.Ref{policy}, 2, 1},
		{"the service is mended", "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}\n", []model.Ref{bad}, 1, 1},
	} {
		objs.Merge(mustParse(t, step.more))
		if p := objs.NetworkPolicies[policy.Key()]; p != nil {
			p.Annotations = map[string]string{manifest.AnnotationAudit: "perhaps"} // no parser lets it in
		}
		state, refusals, warnings, err := again.KeepAfter(objs, nil, step.changed, "node", local)
		require.NoError(t, err, step.name)
		require.Equal(t, step.whole, again.Whole(), "%s: %s", step.name, again.Why())
		require.Len(t, refusals, step.refused, step.name)
		want, wanted, told, err := new(Incremental).Keep(objs.Clone(), nil, "node", local)
		require.NoError(t, err, step.name)
		require.Equal(t, want, state, step.name)
		require.Equal(t, wanted, refusals, step.name)
		require.Equal(t, told, warnings, step.name)
	}
	require.NotNil(t, objs.Find(policy), "objects are the caller's")
}
