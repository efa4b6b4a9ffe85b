// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// What is told of a policy that isolates nobody, or not all whom it may mean.
const (
	toldHarmless   = "it is not in force, and would have stopped nothing"
	toldUnreadable = "it is not in force and isolates nobody until it is mended, since whom it selects cannot be read and may be everybody"
	toldNode       = "it is not in force on nodes until it is mended, since a node that is cut off could not be mended"
	toldNowhere    = "it is not in force, and its namespace is not there"
	toldNameless   = "it is not in force and isolates nobody until it is mended, since nothing can be kept under its name"
)

// A galaxy without policies allows everything, so that a denial is by what was
// put in.
func TestARefusedPolicyIsolatesWhomItSelects(t *testing.T) {
	var (
		np   = model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "p"}
		cnp  = model.Ref{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "p"}
		ccnp = model.Ref{Kind: "CiliumClusterwideNetworkPolicy", Name: "p"}
		anp  = model.Ref{Kind: "ClusterNetworkPolicy", Name: "p"}
	)
	for name, c := range map[string]struct {
		object model.Ref
		raw    string
		told   string
		closed []string // of "in TO" and "out FROM", for the deathstar, the tiefighter and the droid
	}{
		"a NetworkPolicy with a range turned round": {
			np, "spec: {podSelector: {matchLabels: {class: deathstar}}, ingress: [{ports: [{port: 9, endPort: 2}]}]}",
			"the pods that it selects are isolated for ingress until it is mended", []string{"in star"},
		},
		"a NetworkPolicy with rules for egress": {
			np, "spec: {podSelector: {matchLabels: {class: deathstar}}, egress: [{to: [{ipBlock: {cidr: nonsense}}]}]}",
			"the pods that it selects are isolated for ingress and egress until it is mended", []string{"in star", "out star"},
		},
		"a NetworkPolicy for egress alone": {
			np, "spec: {podSelector: {matchLabels: {class: deathstar}}, policyTypes: [Egress], egress: 7}",
			"the pods that it selects are isolated for egress until it is mended", []string{"out star"},
		},
		"policy types that cannot be read": {
			np, "spec: {podSelector: {matchLabels: {class: deathstar}}, policyTypes: [ingress]}",
			"the pods that it selects are isolated for ingress and egress until it is mended", []string{"in star", "out star"},
		},
		"a field that may be a direction": {
			np, "spec: {podSelector: {matchLabels: {class: deathstar}}, policyTypes: [Ingress], exgress: []}",
			"the pods that it selects are isolated for ingress and egress until it is mended", []string{"in star", "out star"},
		},
		"a NetworkPolicy whose selector cannot be read": {
			np, "spec: {podSelector: {matchLabels: {class: [deathstar]}}, policyTypes: [Ingress]}",
			"all pods of namespace default are isolated for ingress until it is mended, since whom it selects cannot be read", []string{"in star", "in tie"},
		},
		"a NetworkPolicy whose selector nobody would take": {
			np, "spec: {podSelector: {matchExpressions: [{key: class, operator: Is, values: [deathstar]}]}, policyTypes: [Ingress]}",
			"all pods of namespace default are isolated for ingress until it is mended, since whom it selects cannot be read", []string{"in star", "in tie"},
		},
		"a NetworkPolicy without a spec, which selects all": {
			np, "metadata: {name: p}",
			"the pods that it selects are isolated for ingress until it is mended", []string{"in star", "in tie"},
		},
		"a NetworkPolicy of which nothing can be read": {
			np, `"{"`,
			"all pods of namespace default are isolated for ingress and egress until it is mended, since whom it selects cannot be read", []string{"in star", "in tie", "out star", "out tie"},
		},
		"a NetworkPolicy in audit mode, which stops nothing": {
			np, "metadata: {annotations: {weir.net/policy-audit: 'true'}}\nspec: {podSelector: {}, ingress: [{ports: [{port: 9, endPort: 2}]}]}",
			"the pods that it selects are isolated for ingress until it is mended", nil,
		},
		"an audit mode that cannot be read": {
			np, "metadata: {annotations: {weir.net/policy-audit: 'yes'}}\nspec: {podSelector: {}}",
			"the pods that it selects are isolated for ingress until it is mended", []string{"in star", "in tie"},
		},
		"a policy of a namespace that is not there": {
			model.Ref{Kind: "NetworkPolicy", Namespace: "nowhere", Name: "p"}, "spec: {podSelector: {}}", toldNowhere, nil,
		},
		"a name that nothing can have": {
			model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "P_"}, "spec: {podSelector: {}}", toldNameless, nil,
		},
		"a policy of Cilium's with rules for HTTP": {
			cnp, "spec: {endpointSelector: {matchLabels: {'k8s:class': deathstar}}, ingress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]}",
			"the pods that it selects are isolated for ingress until it is mended", []string{"in star"},
		},
		"a policy of Cilium's with names of hosts": {
			cnp, "spec: {endpointSelector: {matchLabels: {class: deathstar}}, egress: [{toFQDNs: [{matchName: x.org}]}]}",
			"the pods that it selects are isolated for egress until it is mended", []string{"out star"},
		},
		"an entry that is no list": {
			cnp, "spec: {endpointSelector: {matchLabels: {class: deathstar}}, egress: {}}",
			"the pods that it selects are isolated for egress until it is mended", []string{"out star"},
		},
		"a denial among what others allow": {
			cnp, "spec: {endpointSelector: {matchLabels: {class: deathstar}}, enableDefaultDeny: {ingress: false}, ingressDeny: [{fromNodes: [{}]}]}",
			"the pods that it selects are isolated for ingress until it is mended", []string{"in star"},
		},
		"permissions that isolate nobody": {
			cnp, "spec: {endpointSelector: {}, enableDefaultDeny: {egress: false}, egress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{}]}}]}]}",
			toldHarmless, nil,
		},
		"isolation that is asked for without a rule": {
			cnp, "spec: {endpointSelector: {}, enableDefaultDeny: {egress: true}, log: {}}",
			"the pods that it selects are isolated for egress until it is mended", []string{"out star", "out tie"},
		},
		"two specs": {
			cnp, "specs: [{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromNodes: []}]}, {endpointSelector: {matchLabels: {class: tiefighter}}, egress: [{}]}]",
			"the pods that it selects are isolated for ingress and egress until it is mended", []string{"in star", "out tie"},
		},
		"a policy of Cilium's without a subject": {
			cnp, "spec: {ingress: [{}]}",
			"all pods of namespace default are isolated for ingress until it is mended, since whom it selects cannot be read", []string{"in star", "in tie"},
		},
		"a policy of Cilium's without a spec": {
			cnp, "metadata: {name: p}",
			"all pods of namespace default are isolated for ingress and egress until it is mended, since whom it selects cannot be read", []string{"in star", "in tie", "out star", "out tie"},
		},
		"a policy for the whole cluster": {
			ccnp, "spec: {endpointSelector: {matchLabels: {org: alliance}}, ingress: [{fromGroups: []}]}",
			"the pods that it selects are isolated for ingress until it is mended", []string{"in droid"},
		},
		"a policy for the whole cluster whose subject cannot be read": {
			ccnp, "spec: {endpointSelector: {matchLabels: 7}, ingress: [{}]}", toldUnreadable, nil,
		},
		"a policy for nodes": {
			ccnp, "spec: {nodeSelector: {}, ingress: [{fromGroups: []}]}", toldNode, nil,
		},
		"a policy for nodes and pods": {
			ccnp, "specs: [{nodeSelector: {}, ingress: [{fromGroups: []}]}, {endpointSelector: {matchLabels: {org: alliance}}, egress: [{}]}]",
			"the pods that it selects are isolated for egress until it is mended; " + toldNode, []string{"out droid"},
		},
		"a policy of a tier": {
			anp, "spec: {tier: Admin, priority: 7, subject: {namespaces: {matchLabels: {side: none}}}, egress: [{action: Pass, to: [{domainNames: [x.org]}]}]}",
			"the pods that it selects are isolated for egress until it is mended", []string{"out droid"},
		},
		"a policy of a tier in both directions": {
			anp, "spec: {tier: Last, priority: -7, subject: {pods: {podSelector: {matchLabels: {class: deathstar}}}}, ingress: [{action: Deny}], egress: [{action: Accept}, {action: deny}]}",
			"the pods that it selects are isolated for ingress and egress until it is mended", []string{"in star", "out star"},
		},
		"a policy of a tier that only accepts": {
			anp, "spec: {tier: Admin, priority: 7, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [x.org]}]}]}",
			toldHarmless, nil,
		},
		"a policy of a tier whose subject cannot be read": {
			anp, "spec: {tier: Admin, priority: 7, subject: {}, egress: [{action: Deny}]}", toldUnreadable, nil,
		},
		"what is no policy": {model.Ref{Kind: "Service", Namespace: "default", Name: "p"}, "spec: {}", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := yaml.YAMLToJSON([]byte(c.raw))
			require.NoError(t, err)
			objs := mustParse(t, galaxyYAML)
			before := objs.Len()
			require.Equal(t, c.told, objs.Isolate(c.object, raw))
			if c.told == "" || objs.Len() == before {
				require.Empty(t, c.closed)
				return
			}
			require.Contains(t, objs.Refs(), c.object)
			var closed []string
			for who, short := range map[string]string{star: "star", tie: "tie", droid: "droid"} {
				for _, flow := range [][3]string{{xwing, who, "in "}, {who, farOff, "out "}} {
					ask(t, objs, flow[0], flow[1], 80, model.ProtocolTCP)
					d, err := Explain(objs, flow[0], flow[1], 80, model.ProtocolTCP)
					require.NoError(t, err)
					if slices.ContainsFunc(d.Rulings, func(r Ruling) bool { return r.Subject.String() == who && !r.Allowed() }) {
						closed = append(closed, flow[2]+short)
					}
				}
			}
			require.ElementsMatch(t, c.closed, closed)
		})
	}
}

func TestWhatIsLeftOutIsIsolatedIfItIsAPolicy(t *testing.T) {
	objs := mustParse(t, galaxyYAML+servedByAPod+cilium("{endpointSelector: {}, egressDeny: [{toEntities: [kube-apiserver]}]}"))
	_, _, err := compile.All(objs, "node-a", testLocal())
	refused, ok := errors.AsType[*model.FieldError](err)
	require.True(t, ok, "%v", err)

	told, found := objs.LeaveOut(refused.Object)
	require.True(t, found)
	require.Equal(t, "the pods that it selects are isolated for egress until it is mended", told)
	_, _, err = compile.All(objs, "node-a", testLocal())
	require.NoError(t, err)
	require.Contains(t, ask(t, objs, tie, farOff, 80, model.ProtocolTCP), "denied by CiliumNetworkPolicy/default/p")

	told, found = objs.LeaveOut(model.Ref{Kind: "Service", Namespace: "default", Name: "star"})
	require.True(t, found)
	require.Empty(t, told)
	require.NotContains(t, objs.Services, "default/star")
	for _, gone := range []model.Ref{{Kind: "Service", Namespace: "default", Name: "star"}, {Kind: "NetworkPolicy", Namespace: "default", Name: "none"}, {Kind: "Moon", Namespace: "default", Name: "x"}, {}} {
		_, found = objs.LeaveOut(gone)
		require.False(t, found, gone)
	}
}

// What other policies allow is not allowed to get past a denial that cannot be
// read.
func TestARefusedDenialStaysOneBesideThePermissionsOfOthers(t *testing.T) {
	objs := mustParse(t, galaxyYAML+cilium("{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromEntities: [all]}]}"))
	require.Equal(t, byP, ask(t, objs, xwing, star, 80, model.ProtocolTCP))
	for name, refused := range map[string]string{
		"a denial":      `{"spec":{"endpointSelector":{},"ingressDeny":[{"fromGroups":[{}]}]}}`,
		"a requirement": `{"spec":{"endpointSelector":{},"ingress":[{"fromRequires":[{"matchLabels":{"org":"empire"}}],"fromGroups":[{}]}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			objs := objs.Clone()
			objs.Isolate(model.Ref{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "other"}, []byte(refused))
			require.Contains(t, ask(t, objs, xwing, star, 80, model.ProtocolTCP), "CiliumNetworkPolicy/default/other")
		})
	}
}

// Whatever a refused object looks like, what is put in its place compiles.
func FuzzIsolate(f *testing.F) {
	for _, raw := range []string{
		`{"spec":{"podSelector":{"matchLabels":{"org":"empire"}},"policyTypes":["Egress"],"egress":[{"to":[{}]}]}}`,
		`{"spec":{"endpointSelector":{"matchLabels":{"k8s:org":"empire"}},"ingressDeny":[{"fromGroups":[{}]}],"enableDefaultDeny":{"ingress":false}}}`,
		`{"specs":[null,7,{"nodeSelector":{},"ingress":[{}]},{"endpointSelector":{},"egress":[{"toRequires":[]}]}]}`,
		`{"metadata":{"annotations":{"weir.net/policy-audit":"true"}},"spec":{"tier":"Baseline","priority":3,"subject":{"pods":{}},"ingress":[{"action":"Deny"}]}}`,
		`{"spec":{"subject":{"namespaces":{"matchExpressions":[{"key":"side","operator":"Exists"}]}},"egress":[{"action":"Accept"},{}]}}`,
		`null`, `[]`, `{`, `"x"`, `{"spec":[]}`, `{"specs":{}}`,
	} {
		f.Add(raw)
	}
	galaxy, err := manifest.Parse("galaxy.yaml", strings.NewReader(galaxyYAML))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw string) {
		for _, refused := range []model.Ref{
			{Kind: "NetworkPolicy", Namespace: "default", Name: "p"}, {Kind: "ClusterNetworkPolicy", Name: "p"},
			{Kind: "CiliumNetworkPolicy", Namespace: "droids", Name: "p"}, {Kind: "CiliumClusterwideNetworkPolicy", Name: "p"},
		} {
			objs := galaxy.Clone()
			told := objs.Isolate(refused, []byte(raw))
			require.NotEmpty(t, told)
			require.NotContains(t, told, "\n")
			_, _, err := compile.All(objs, "node-a", testLocal())
			require.NoError(t, err, "%s: %s", refused, told)
			again := galaxy.Clone()
			require.Equal(t, told, again.Isolate(refused, []byte(raw)))
			require.Equal(t, objs, again)
		}
	})
}
