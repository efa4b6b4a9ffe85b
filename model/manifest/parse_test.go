// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func mustParse(t testing.TB, text string) *Objects {
	t.Helper()
	objs, err := Parse("test.yaml", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}

const webYAML = `# what a team writes
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports:
  - port: 80
    targetPort: http
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec:
  containers:
  - name: web
    ports: [{name: http, containerPort: 8080}]
status:
  podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]
`

func TestParseReadsDocumentsListsAndJSON(t *testing.T) {
	tests := []struct {
		name, text         string
		pods, svcs, spaces []string
	}{
		{"documents of YAML", webYAML, []string{"default/web-0"}, []string{"default/web"}, nil},
		{"nothing", "", nil, nil, nil},
		{"comments alone", "# one\n---\n# two\n", nil, nil, nil},
		{"a separator with a comment", "--- # first\n" + webYAML, []string{"default/web-0"}, []string{"default/web"}, nil},
		{"JSON values one after the other", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}`, nil, nil, []string{"a", "b"}},
		{"a list, as kubectl prints it", `
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}}
`, []string{"a/p"}, nil, []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objs := mustParse(t, tt.text)
			require.ElementsMatch(t, tt.pods, keys(objs.Pods))
			require.ElementsMatch(t, tt.svcs, keys(objs.Services))
			require.ElementsMatch(t, tt.spaces, keys(objs.Namespaces))
		})
	}
}

func keys[T any](m map[string]T) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	return names
}

func TestParseNamesPlaceFieldAndRemedy(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"an unknown field", `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  prots: []
  ports: [{port: 80}]
`, `test.yaml:7: document 1: Service default/web: spec.prots: is not a field of this kind: correct its spelling or remove it`},
		{"an unknown kind", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
`, `test.yaml:3: document 1: Deployment default/web: kind: "Deployment" is not one of Pod, Namespace, Node, Service, EndpointSlice, NetworkPolicy, ClusterNetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy: leave the object out`},
		{"an unknown version", "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\nmetadata: {name: web}\n",
			`test.yaml:2: document 1: NetworkPolicy default/web: apiVersion: "networking.k8s.io/v1beta1" is not known for kind NetworkPolicy: use networking.k8s.io/v1`},
		{"no kind", "metadata: {name: web}\n", `test.yaml:1: document 1: kind: is missing: use one of Pod, Namespace, Node, Service, EndpointSlice, NetworkPolicy, ClusterNetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy`},
		{"a key twice, in the second document", "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nkind: Namespace\nmetadata: {name: b}\n",
			`test.yaml:8: document 2: is not valid YAML: key "kind" already set in map`},
		{"a value of another type", `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports: [{port: http}]
`, `test.yaml:7: document 1: Service default/web: spec.ports.port: has a string where the API wants a whole number`},
		{"an object twice", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
			`test.yaml:5: document 2: Namespace a: is there twice, first in document 1: remove one or give it another metadata.name`},
		{"a port out of range", `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {}
  ingress:
  - ports: [{port: 70000}]
`, `test.yaml:8: document 1: NetworkPolicy default/web: spec.ingress[0].ports[0].port: 70000 is not in 1–65535`},
		{"broken YAML", "a: [", `test.yaml:1: document 1: is not valid YAML: did not find expected node content`},
		{"a plain text", "hello", `test.yaml:1: document 1: is not an object of Kubernetes: it needs apiVersion, kind and metadata (it is a string)`},
		{"a name that YAML takes for no", "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}", `test.yaml:1: document 1: is not an object of Kubernetes: it needs apiVersion, kind and metadata (metadata.name is true or false: put it in quotes)`},
		{"no name", "apiVersion: v1\nkind: Namespace\n", `test.yaml:1: document 1: Namespace: metadata.name: is missing: give the object a name`},
		{"a namespace in a namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n",
			`test.yaml:3: document 1: Namespace a: metadata.namespace: a Namespace belongs to no namespace: remove the field`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("test.yaml", strings.NewReader(tt.text))
			require.EqualError(t, err, tt.want)
			var place *ParseError
			require.ErrorAs(t, err, &place)
		})
	}
}

func TestParseTellsAllErrorsOfAFile(t *testing.T) {
	_, err := Parse("test.yaml", strings.NewReader("kind: A\n---\nkind: B\n"))
	require.ErrorContains(t, err, "document 1: A: kind")
	require.ErrorContains(t, err, "document 2: B: kind")
}

func TestValidateRefusesWhatTheAPIRefuses(t *testing.T) {
	policy := func(spec string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: " + spec
	}
	service := func(spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: " + spec
	}
	pod := func(rest string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n" + rest
	}
	tests := []struct{ name, text, want string }{
		{"a range that ends before it begins", policy(`{podSelector: {}, egress: [{ports: [{port: 90, endPort: 80}]}]}`), "spec.egress[0].ports[0].endPort: 80 is less than port 90: swap them"},
		{"a range without a beginning", policy(`{podSelector: {}, egress: [{ports: [{endPort: 80}]}]}`), "spec.egress[0].ports[0].endPort: 80 has no port to begin at"},
		{"a range that begins at a name", policy(`{podSelector: {}, egress: [{ports: [{port: http, endPort: 80}]}]}`), "cannot end a range that begins at a name"},
		{"an end out of range", policy(`{podSelector: {}, egress: [{ports: [{port: 1, endPort: 65536}]}]}`), "spec.egress[0].ports[0].endPort: 65536 is not in 1–65535"},
		{"a protocol in lower case", policy(`{podSelector: {}, egress: [{ports: [{protocol: tcp}]}]}`), `"tcp" is not one of TCP, UDP, SCTP: write TCP`},
		{"an unknown direction", policy(`{podSelector: {}, policyTypes: [Both]}`), `spec.policyTypes[0]: "Both" is not one of Ingress, Egress`},
		{"a peer that names nobody", policy(`{podSelector: {}, ingress: [{from: [{}]}]}`), "spec.ingress[0].from[0]: is empty: give a podSelector"},
		{"a block beside a selector", policy(`{podSelector: {}, ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}`), "spec.ingress[0].from[0].ipBlock: cannot stand beside a selector"},
		{"a block that is none", policy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: ten}}]}]}`), `"ten" is not an address block`},
		{"a block of IPv4 and more in IPv6", policy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/90'}}]}]}`), "is not an address block"},
		{"a block without a length", policy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}`), `"10.0.0.1" is not an address block`},
		{"an exception that only looks smaller", policy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.9.9.9/8]}}]}]}`), "except[0]: 10.9.9.9/8 is not strictly within 10.1.2.3/8"},
		{"a direction too many", policy(`{podSelector: {}, policyTypes: [Ingress, Egress, Ingress]}`), "spec.policyTypes: has 3 entries, and the API takes two"},
		{"an exception outside its block", policy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}`), "except[0]: 11.0.0.0/9 is not strictly within 10.0.0.0/8"},
		{"an operator without values", policy(`{podSelector: {matchExpressions: [{key: a, operator: In}]}}`), "spec.podSelector.matchExpressions[0].values: is empty: operator In needs a value"},
		{"an operator with values", policy(`{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}`), "must be empty with operator Exists"},
		{"an unknown operator", policy(`{podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}`), `operator: "Like" is not one of In, NotIn, Exists, DoesNotExist`},
		{"a service without ports", service(`{clusterIP: 10.96.0.1}`), "spec.ports: is empty: give the service a port"},
		{"ports without names", service(`{clusterIP: 10.96.0.1, ports: [{port: 1}, {name: b, port: 2}]}`), "spec.ports[0].name: is missing"},
		{"a port twice", service(`{clusterIP: 10.96.0.1, ports: [{name: a, port: 1}, {name: b, port: 1}]}`), "spec.ports[1].port: 1/TCP is spec.ports[0] too: remove one"},
		{"a target port out of range", service(`{clusterIP: 10.96.0.1, ports: [{port: 1, targetPort: 66000}]}`), "spec.ports[0].targetPort: 66000 is not in 1–65535"},
		{"addresses that differ", service(`{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2], ports: [{port: 1}]}`), "spec.clusterIP: 10.96.0.1 is not the first of spec.clusterIPs"},
		{"two addresses of one family", service(`{clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{port: 1}]}`), "10.96.0.2 is of the same family as 10.96.0.1"},
		{"an address that is none", pod(`status: {podIP: 10.0.0.256}`), `status.podIP[0]: "10.0.0.256" is not an IP address`},
		{"a loopback address", pod(`status: {podIPs: [{ip: 127.0.0.1}]}`), "status.podIPs[0]: 127.0.0.1 is not the address of a host that others reach"},
		{"a container port out of range", pod(`spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}`), "spec.containers[0].ports[0].containerPort: 0 is not in 1–65535"},
		{"a label that is none", "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: 'b c'}}\n", `metadata.labels[a]: "b c"`},
		{"a slice of the other family", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]\nports: []\n", "endpoints[0].addresses[0]: fd00::1 does not belong into a slice of addressType IPv4"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("test.yaml", strings.NewReader(tt.text))
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestObjectsAreReplacedAndDeletedByName(t *testing.T) {
	objs := mustParse(t, webYAML)
	before := objs.Clone()
	objs.Merge(mustParse(t, strings.ReplaceAll(webYAML, "10.96.0.10", "10.96.0.11")))
	require.Equal(t, "10.96.0.11", objs.Services["default/web"].Spec.ClusterIP)
	require.Equal(t, 2, objs.Len())

	require.NoError(t, objs.Delete("svc", "", "web"))
	require.NoError(t, objs.Delete("Pod", "default", "web-0"))
	require.ErrorIs(t, objs.Delete("pod", "", "web-0"), ErrNotFound)
	require.ErrorContains(t, objs.Delete("deploy", "", "web"), `unknown kind "deploy"`)
	require.Zero(t, objs.Len())
	require.Equal(t, "10.96.0.10", before.Services["default/web"].Spec.ClusterIP, "a clone stays as it was")
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse("bench.yaml", strings.NewReader(webYAML)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAStatusIsNotAskedFor(t *testing.T) {
	for kind, version := range map[string]string{
		"Pod": "v1", "Namespace": "v1", "Node": "v1", "Service": "v1", "NetworkPolicy": "networking.k8s.io/v1",
		"ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2", "CiliumNetworkPolicy": "cilium.io/v2", "CiliumClusterwideNetworkPolicy": "cilium.io/v2",
	} {
		spec := ""
		switch kind {
		case "Service":
			spec = "spec: {ports: [{port: 80}]}\n"
		case "NetworkPolicy":
			spec = "spec: {podSelector: {}}\n"
		case "ClusterNetworkPolicy":
			spec = "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n"
		case "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy":
			spec = "spec: {endpointSelector: {}, ingress: [{}]}\n"
		}
		objs, err := Parse("test.yaml", strings.NewReader("apiVersion: "+version+"\nkind: "+kind+"\nmetadata: {name: web}\n"+spec+"status: {}\n"))
		require.NoError(t, err, kind)
		require.Len(t, objs.Refs(), 1, kind)
	}
	const policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\n"
	_, err := Parse("test.yaml", strings.NewReader(policy+"spec: {podSelector: {}}\nstatus: {conditions: [{type: Accepted, status: \"True\"}]}\n"))
	require.NoError(t, err, "as a server wrote it")
	_, err = Parse("test.yaml", strings.NewReader(policy+"spec: {podSelector: {}, status: {}}\n"))
	require.ErrorContains(t, err, "spec.status: is not a field of this kind")
}

func texts(refs []model.Ref) (all []string) {
	for _, ref := range refs {
		all = append(all, ref.String())
	}
	return all
}

func TestAGeneratedNameIsTheFirstThatIsFree(t *testing.T) {
	const unnamed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {generateName: web-}\nspec: {podSelector: {}}\n---\n"
	const taken = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web-00002}\nspec: {podSelector: {}}\n---\n"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {generateName: web-, namespace: shop}\n"
	objs, err := Parse("test.yaml", strings.NewReader(unnamed+unnamed+taken+pod))
	require.NoError(t, err)
	require.Equal(t, []string{
		"NetworkPolicy default/web-00001", "NetworkPolicy default/web-00002", "NetworkPolicy default/web-00003", "Pod shop/web-00001"}, texts(objs.Refs()))
	beside, err := ParseBeside("other.yaml", strings.NewReader(unnamed), objs)
	require.NoError(t, err)
	require.Equal(t, []string{"NetworkPolicy default/web-00004"}, texts(beside.Refs()))
	long, err := Parse("test.yaml", strings.NewReader(strings.Replace(pod, "web-", strings.Repeat("x", 70), 1)))
	require.NoError(t, err)
	require.Equal(t, []string{"Pod shop/" + strings.Repeat("x", 58) + "00001"}, texts(long.Refs()))
	named, err := Parse("test.yaml", strings.NewReader(strings.Replace(pod, "generateName: web-", "generateName: web-, name: web-x7f2k", 1)))
	require.NoError(t, err)
	require.Equal(t, []string{"Pod shop/web-x7f2k"}, texts(named.Refs()))
	for _, neither := range []string{"generateName: \"\"", "labels: {}"} {
		_, err = Parse("test.yaml", strings.NewReader(strings.Replace(pod, "generateName: web-", neither, 1)))
		require.ErrorContains(t, err, "metadata.name: is missing")
	}
	_, err = Parse("test.yaml", strings.NewReader(strings.Replace(pod, "web-", "Web_", 1)))
	require.ErrorContains(t, err, `metadata.name: "Web_00001"`)
}
