// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

const keepable = `
apiVersion: v1
kind: Node
metadata: {name: node}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: node}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, externalIPs: [10.0.0.1], ports: [{port: 80}]}
---
`

// What cannot be kept is named, and the others are in force.
func TestKeepNamesWhatIsLeftOut(t *testing.T) {
	objs := mustParse(t, keepable+`
apiVersion: v1
kind: Service
metadata: {name: bad, uid: uid-of-bad}
spec: {clusterIP: 10.96.0.11, ports: [{port: 80, targetPort: 90, protocol: SCTP}]}
`)
	unread := []manifest.Unread{
		{Object: model.Ref{Kind: "Moon", Name: "x"}, UID: "uid-of-x", Field: "spec", Problem: "is odd"},
		{Object: model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "p"}, Problem: "is cut", Raw: []byte(`{"spec":{"podSelector":{},"policyTypes":["Ingress"]}}`)},
	}
	state, refusals, warnings, err := new(Incremental).Keep(objs, unread, "node", model.Local{})
	require.NoError(t, err)
	require.Equal(t, "default/good:80", state.Services.At(0).Name.String())
	require.Len(t, refusals, 3)
	require.Equal(t, Refusal{Object: model.Ref{Kind: "Moon", Name: "x"}, UID: "uid-of-x", Field: "spec", Problem: "is odd"}, refusals[0])
	require.Equal(t, "NetworkPolicy default/p: is cut (the pods that it selects are isolated for ingress until it is mended)", refusals[1].String())
	require.NotNil(t, objs.NetworkPolicies["default/p"], "what stands in for it")
	bad := refusals[2]
	require.Equal(t, model.Ref{Kind: "Service", Namespace: "default", Name: "bad"}, bad.Object)
	require.Equal(t, "uid-of-bad", string(bad.UID))
	require.Equal(t, "spec.ports[0].targetPort", bad.Field)
	require.Empty(t, bad.Table)
	require.Empty(t, bad.Follows, "it is no policy")
	lost := warnings[len(warnings)-1]
	for _, w := range warnings {
		if w.Lost {
			lost = w
		}
	}
	require.Equal(t, model.Ref{Kind: "Service", Namespace: "default", Name: "good"}, lost.Object)
	require.Equal(t, "spec.externalIPs[0]", lost.Field)
}

// A policy that stands in for another one goes too where it is refused, and
// nothing is said to hold then.
func TestWhatStandsInIsLeftOutLikeAnyOther(t *testing.T) {
	objs := mustParse(t, keepable)
	p := model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "p"}
	left := LeaveUnread(objs, []manifest.Unread{{Object: p, Problem: "is cut", Raw: []byte(`{"spec":{"podSelector":{}}}`)}})
	require.NotEmpty(t, left.Refusals()[0].Follows)
	tries := 0
	require.NoError(t, left.Until(nil, func() error {
		if tries++; tries == 1 {
			return &model.FieldError{Object: p, Field: "spec", Problem: "is refused"}
		}
		return nil
	}))
	require.Equal(t, 2, tries)
	require.Empty(t, objs.NetworkPolicies)
	require.Equal(t, []Refusal{{Object: p, Problem: "is cut"}}, left.Refusals())
}

func TestWhatNamesNobodyWhoMayGoIsAnError(t *testing.T) {
	objs := mustParse(t, keepable)
	good := model.Ref{Kind: "Service", Namespace: "default", Name: "good"}
	bad := &model.FieldError{Object: good, Field: "spec", Problem: "is refused"}
	left := LeaveUnread(objs, nil)
	require.ErrorIs(t, left.Until(func(ref model.Ref) bool { return ref == good }, func() error { return bad }), bad)
	require.NotNil(t, objs.Find(good), "it stays")
	require.ErrorIs(t, left.Until(nil, func() error { return bad }), bad)
	require.Nil(t, objs.Find(good), "it was there once")
	require.Len(t, left.Refusals(), 1)
	_, refusals, _, err := new(Incremental).Keep(objs, nil, "node", model.Local{Budgets: model.Budgets{"nonsense": 1}})
	require.ErrorContains(t, err, "Options: tables.nonsense")
	require.Empty(t, refusals, "it is about no object")
}
