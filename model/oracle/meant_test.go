// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
)

// A warning of what is right is as bad as none of what is wrong: who is warned
// of everything reads nothing.
func TestWhatIsMeantIsNotWarnedOf(t *testing.T) {
	annotated := func(object, name, annotations string) string {
		return strings.Replace(object, "{name: "+name, "{name: "+name+", annotations: {"+annotations+"}", 1)
	}
	pod := "\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: node-b}\nstatus: {podIPs: [{ip: 10.0.1.9}]}\n"
	service := "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: "
	for name, tt := range map[string]struct {
		objects string
		uplinks []model.Uplink
	}{
		"no policy at all":                    {},
		"a block outside":                     {objects: networkPolicy(`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}`)},
		"Cilium's block outside":              {objects: cilium(`{endpointSelector: {}, egress: [{toCIDR: [192.0.2.0/24]}]}`)},
		"all addresses":                       {objects: cilium(`{endpointSelector: {}, egress: [{toCIDR: [0.0.0.0/0]}]}`)},
		"peers that are networks":             {objects: tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [192.0.2.0/24]}]}]}`)},
		"peers that are nodes":                {objects: tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: b}}}]}]}`)},
		"two rules that do the same":          {objects: tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`)},
		"a narrow rule before a wide one":     {objects: tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`)},
		"a denial of some that may come":      {objects: cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}], ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`)},
		"a name that a port has":              {objects: networkPolicy(`{podSelector: {}, ingress: [{ports: [{port: http}]}]}`)},
		"a name of a peer's port":             {objects: networkPolicy(`{podSelector: {matchLabels: {org: alliance}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {org: empire}}}], ports: [{port: dns, protocol: UDP}]}]}`)},
		"a pod's annotations":                 {objects: annotated(pod, "p", `weir.net/weight: "2", weir.net/policy-audit: "true", weir.net/config: x, example.org/audit: x`)},
		"a service's annotation":              {objects: annotated(service+"{clusterIP: 10.96.0.9, selector: {class: deathstar}, ports: [{port: 80}]}\n", "s", "weir.net/algorithm: maglev")},
		"a policy's annotation":               {objects: annotated(networkPolicy(`{podSelector: {}}`), "np", `weir.net/policy-audit: "true"`)},
		"a headless service of nobody":        {objects: service + "{clusterIP: None, selector: {class: falcon}, ports: [{port: 80}]}\n"},
		"a service whose slices others write": {objects: service + "{clusterIP: 10.96.0.9, ports: [{port: 80}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\nendpoints: [{addresses: [192.0.2.7]}]\nports: [{port: 80}]\n"},
		"a policy of a node with programs":    {objects: clusterwide(`{nodeSelector: {matchLabels: {zone: a}}, ingress: [{}]}`), uplinks: []model.Uplink{{Name: "eth0", Ifindex: 2}}},
		"a policy of another node":            {objects: clusterwide(`{nodeSelector: {matchLabels: {zone: b}}, ingress: [{}]}`)},
		"priorities in different tiers":       {objects: tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}`) + tiered("b", `{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}`)},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := compile.All(mustParse(t, galaxyYAML+tt.objects), "node-a", model.Local{Uplinks: tt.uplinks})
			require.NoError(t, err)
			for _, w := range warnings {
				if !strings.Contains(w.String(), "has no device on node") && !strings.Contains(w.String(), "Service default/kubernetes") {
					t.Error(w)
				}
			}
		})
	}
}

func TestPeersOfTheClustersPoliciesThatNobodyIsAreWarnedOf(t *testing.T) {
	objects := tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {side: dark}}}]}]}`)
	_, warnings, err := compile.All(mustParse(t, galaxyYAML+objects), "node-a", model.Local{})
	require.NoError(t, err)
	var texts []string
	for _, w := range warnings {
		texts = append(texts, w.String())
	}
	require.Contains(t, strings.Join(texts, "\n"), "ClusterNetworkPolicy a: spec.ingress[0].from[0]")
}
