// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// rolloutYAML has two pods that differ in a controller's labels alone.
const rolloutYAML = `
apiVersion: v1
kind: Pod
metadata: {name: before, labels: {app: web, pod-template-hash: a, statefulset.kubernetes.io/pod-name: web-0}}
spec: {nodeName: node-a}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: after, labels: {app: web, pod-template-hash: b, statefulset.kubernetes.io/pod-name: web-1}}
spec: {nodeName: node-a}
status: {podIP: 10.0.1.1}
---
`

func TestLabelsOfControllersTellPodsApartOnlyWherePoliciesNameThem(t *testing.T) {
	const networkPolicy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: "
	const cilium = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: "
	const cluster = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: "
	const service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.96.0.1, selector: {pod-template-hash: a}, ports: [{port: 80}]}\n"
	for name, c := range map[string]struct {
		policy string
		apart  bool
	}{
		"no policy":                {"", false},
		"a policy of other labels": {networkPolicy + `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}]}]}`, false},
		"its subject":              {networkPolicy + `{podSelector: {matchLabels: {pod-template-hash: a}}}`, true},
		"that it is there":         {networkPolicy + `{podSelector: {matchExpressions: [{key: pod-template-hash, operator: Exists}]}}`, true},
		"a peer":                   {networkPolicy + `{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod-template-hash, operator: NotIn, values: [a]}]}}]}]}`, true},
		"of a StatefulSet":         {networkPolicy + `{podSelector: {}, egress: [{to: [{podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: web-0}}}]}]}`, true},
		"Cilium's, with a source":  {cilium + `{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {"k8s:pod-template-hash": a}}]}]}`, true},
		"Cilium's, without":        {cilium + `{endpointSelector: {matchLabels: {pod-template-hash: a}}, ingress: [{}]}`, true},
		"Cilium's, of a service":   {cilium + `{endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: s, namespace: default}}]}]}` + "\n" + service, true},
		"Cilium's, of the cluster": {strings.Replace(cilium, "CiliumN", "CiliumClusterwideN", 1) + `{endpointSelector: {matchLabels: {pod-template-hash: a}}, ingress: [{}]}`, true},
		"a service alone":          {service, false},
		"the cluster's":            {cluster + `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod-template-hash: a}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			identities := model.NewAllocator()
			numbersOf(t, mustParse(t, nodesYAML+rolloutYAML+c.policy), identities)
			want := 1
			if c.apart {
				want = 2
			}
			require.Len(t, identities.Wanted(), want)
		})
	}
}

func TestPodsKeepLabelsThatTheirIdentityLacks(t *testing.T) {
	objs := mustParse(t, nodesYAML+rolloutYAML)
	numbersOf(t, objs, model.NewAllocator())
	require.Equal(t, "a", objs.Pods["default/before"].Labels["pod-template-hash"])
}
