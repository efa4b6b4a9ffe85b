// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

const nodesYAML = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
---
`

const sharedYAML = nodesYAML + `
apiVersion: v1
kind: Pod
metadata: {name: here, labels: {app: web}}
spec: {nodeName: node-a, serviceAccountName: web, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: there, labels: {app: db}}
spec: {nodeName: node-b}
status: {podIP: 10.0.1.1}
---
apiVersion: v1
kind: Pod
metadata: {name: coming, labels: {app: new}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {name: unscheduled, labels: {app: none}}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec: {nodeName: node-a, hostNetwork: true}
---
apiVersion: v1
kind: Pod
metadata: {name: done, labels: {app: done}}
spec: {nodeName: node-a}
status: {phase: Succeeded}
`

// numbersOf gives the numbers of addresses that pods have in sharedYAML.
func numbersOf(t *testing.T, objs *manifest.Objects, identities *model.Allocator) map[string]model.Identity {
	t.Helper()
	local := testLocal()
	local.Identities = identities
	state, _, err := All(objs, "node-a", local)
	require.NoError(t, err)
	found := map[string]model.Identity{}
	for a := range state.Addresses.All() {
		found[a.Prefix.Addr().String()] = a.Identity
	}
	return map[string]model.Identity{"here": found["10.0.0.1"], "there": found["10.0.1.1"]}
}

func TestSharedNumbersAreUsedAndOthersAreLocal(t *testing.T) {
	objs := mustParse(t, sharedYAML)
	identities := model.NewAllocator()
	identities.Share(nil)
	alone := numbersOf(t, objs, identities)
	require.ElementsMatch(t, []model.Identity{model.FirstLocalIdentity, model.FirstLocalIdentity + 1}, slices.Collect(maps.Values(alone)))

	wanted := identities.Wanted()
	shared := map[string]model.Identity{}
	for key, w := range wanted {
		if w.Labels.PodLabels["app"] == "web" {
			shared[key] = 4711
		}
	}
	identities.Share(shared)
	require.Equal(t, map[string]model.Identity{"here": 4711, "there": alone["there"]}, numbersOf(t, objs, identities))
	require.True(t, model.Identity(4711).IsShared())
	require.False(t, alone["there"].IsShared())

	// It is known by the same local number when the shared one is lost.
	identities.Share(nil)
	require.Equal(t, alone, numbersOf(t, objs, identities))
}

func TestWantedIdentitiesAreOfPodsThatHaveOrGetAnAddress(t *testing.T) {
	identities := model.NewAllocator()
	numbersOf(t, mustParse(t, sharedYAML), identities)
	type row struct{ known, here bool }
	found := map[string]row{}
	for key, w := range identities.Wanted() {
		require.Equal(t, key, w.Labels.Key())
		require.Equal(t, "default", w.Labels.Namespace)
		require.Equal(t, map[string]string{"kubernetes.io/metadata.name": "default"}, w.Labels.NamespaceLabels)
		found[w.Labels.PodLabels["app"]] = row{w.Number != model.IdentityUnknown, w.Here}
		if w.Labels.PodLabels["app"] == "web" {
			require.Equal(t, "web", w.Labels.Account)
			require.Equal(t, []model.NamedPort{{Name: "http", Protocol: model.ProtocolTCP, Port: 8080}}, w.Labels.Ports)
		}
	}
	require.Equal(t, map[string]row{"web": {true, true}, "db": {true, false}, "new": {false, true}}, found)
}

func TestAPodThatGetsItsAddressIsKnownByTheExpectedLabels(t *testing.T) {
	identities := model.NewAllocator()
	objs := mustParse(t, sharedYAML)
	numbersOf(t, objs, identities)
	before := slices.Sorted(maps.Keys(identities.Wanted()))
	objs.Merge(mustParse(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: coming, labels: {app: new}}\nspec: {nodeName: node-a}\nstatus: {podIP: 10.0.0.2}"))
	numbersOf(t, objs, identities)
	require.Equal(t, before, slices.Sorted(maps.Keys(identities.Wanted())))
}

func TestLabelSetsThatPoliciesTellApartHaveOtherKeys(t *testing.T) {
	base := func() *model.LabelSet {
		return &model.LabelSet{Namespace: "a", NamespaceLabels: map[string]string{"n": "1"}, PodLabels: map[string]string{"p": "1"}, Account: "default"}
	}
	keys := map[string]string{base().Key(): "base"}
	for name, change := range map[string]func(*model.LabelSet){
		"another namespace":       func(s *model.LabelSet) { s.Namespace = "b" },
		"another namespace label": func(s *model.LabelSet) { s.NamespaceLabels["n"] = "2" },
		"another label":           func(s *model.LabelSet) { s.PodLabels["p"] = "2" },
		"labels that swapped":     func(s *model.LabelSet) { s.NamespaceLabels, s.PodLabels = s.PodLabels, s.NamespaceLabels },
		"a port": func(s *model.LabelSet) {
			s.Ports = []model.NamedPort{{Name: "http", Protocol: model.ProtocolTCP, Port: 80}}
		},
		"another port": func(s *model.LabelSet) {
			s.Ports = []model.NamedPort{{Name: "http", Protocol: model.ProtocolTCP, Port: 81}}
		},
		"another protocol": func(s *model.LabelSet) {
			s.Ports = []model.NamedPort{{Name: "http", Protocol: model.ProtocolUDP, Port: 80}}
		},
		"another account": func(s *model.LabelSet) { s.Account = "b" },
	} {
		set := base()
		change(set)
		require.NotContains(t, keys, set.Key(), name)
		keys[set.Key()] = name
	}
	a, b := base(), base()
	a.Ports = []model.NamedPort{{Name: "x", Protocol: model.ProtocolTCP, Port: 1}, {Name: "y", Protocol: model.ProtocolTCP, Port: 2}}
	b.Ports = []model.NamedPort{{Name: "y", Protocol: model.ProtocolTCP, Port: 2}, {Name: "x", Protocol: model.ProtocolTCP, Port: 1}}
	require.Equal(t, a.Key(), b.Key(), "the order of ports says nothing")
}
