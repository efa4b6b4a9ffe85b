// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

const defaultNamespace = `
apiVersion: v1
kind: Namespace
metadata: {name: default, uid: uid-of-default}
---
`

func TestAPolicyThatIsRefusedIsolatesWhatItSelectsUntilItIsMended(t *testing.T) {
	// The API server refuses it today; it may not have done so once.
	turnedRound := func(objs *manifest.Objects) {
		port, end := intstr.FromInt32(90), int32(80)
		objs.NetworkPolicies["default/narrow"] = &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "narrow", UID: "uid-of-narrow"},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
				Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &port, EndPort: &end}}}},
			},
		}
	}
	layer7 := manifest.Unread{
		Object: model.Ref{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "narrow"}, UID: "uid-of-narrow", Field: "spec.ingress[0].toPorts[0].rules", Problem: "is not supported yet",
		Raw: []byte(`{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "narrow", "namespace": "default", "uid": "uid-of-narrow"},
			"spec": {"endpointSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"toPorts": [{"ports": [{"port": "8080"}], "rules": {"http": [{"method": "GET"}]}}]}]}}`),
	}
	cluster := defaultNamespace + nodes + podObject("a") + podObject("b")
	for _, tt := range []struct {
		name, object string
		bad          func(*source)
	}{
		{"by the compiler", "NetworkPolicy default/narrow", func(s *source) { s.change(turnedRound) }},
		{"because it is not understood", "CiliumNetworkPolicy default/narrow", func(s *source) { s.change(nil, layer7) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			told := make(chan api.Refused, 10)
			n.options.Events = func(r api.Refused) { told <- r }
			n.source.set(cluster)
			n.start()
			a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
			ofA, ofB := a.add(), b.add()
			for _, at := range ofA {
				require.NoError(t, b.reach(a, at), at)
			}
			tt.bad(n.source)
			require.Eventually(t, func() bool { return len(n.status().Refused) == 1 }, patience, 10*time.Millisecond)
			refused := n.status().Refused[0]
			require.Equal(t, tt.object, refused.Object.String())
			require.Equal(t, "uid-of-narrow", refused.UID)
			require.Contains(t, refused.Problem, "the pods that it selects are isolated")
			require.Equal(t, refused.Problem, (<-told).Problem)
			for i := range ofA {
				require.ErrorContains(t, b.miss(a, ofA[i]), "timeout", "it selects this one")
				require.NoError(t, a.reach(b, ofB[i]), "and not this one")
			}
			require.Empty(t, told, "once")
			n.source.change(nil)
			require.Eventually(t, func() bool { return len(n.status().Refused) == 0 }, patience, 10*time.Millisecond)
			for _, at := range ofA {
				require.NoError(t, b.reach(a, at), at)
			}
		})
	}
}

func TestAnObjectThatIsNoPolicyIsLeftOutAlone(t *testing.T) {
	n := newNode(t)
	n.source.set(defaultNamespace + nodes + podObject("a") + podObject("b"))
	n.source.change(nil, manifest.Unread{Object: model.Ref{Kind: "Something", Namespace: "default", Name: "else"}, Problem: "is odd"})
	n.start()
	require.Equal(t, "is odd", n.status().Refused[0].Problem)
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	at := a.add()
	b.add()
	require.NoError(t, b.reach(a, at[0]))
}
