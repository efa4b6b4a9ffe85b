// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model/manifest"
)

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// moved is a scenario with two pods on two nodes, in a cluster.
func moved() *Places {
	p := NewPlaces()
	p.namespaces["default"], p.namespaces["prod"] = "weir-1-default", "weir-1-prod"
	p.nodes["node"], p.nodes["node-2"] = "kind-worker", "kind-worker2"
	p.Pair(addresses("10.0.0.10", "fd10::a"), addresses("10.244.1.7", "fd00:10:244:1::7"))
	p.Pair(addresses("198.18.0.2", "fd00::2"), addresses("172.18.0.3", "fc00::3"))
	p.PairBlocks([]string{"10.0.0.0/24", "fd10::/16"}, []string{"10.244.1.0/24", "fd00:10:244:1::/64"})
	return p
}

func objects(t *testing.T, text string) *manifest.Objects {
	objs, err := manifest.Parse("test.yaml", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}

const policy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, labels: {app: "10.0.0.10"}}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: prod}}
    - namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [prod, elsewhere]}]}
    - ipBlock: {cidr: 10.0.0.10/32}
    - ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.10/32]}
    - ipBlock: {cidr: "fd10::/16"}
    - ipBlock: {cidr: 0.0.0.0/0}
    - ipBlock: {cidr: 192.0.2.0/24}
`

func TestNamesAndAddressesOfAnObjectMove(t *testing.T) {
	o, err := moved().object(objects(t, policy).NetworkPolicies["default/web"])
	require.NoError(t, err)
	for _, text := range []string{
		`"namespace":"weir-1-default"`, `"kubernetes.io/metadata.name":"weir-1-prod"`, `["weir-1-prod","elsewhere"]`,
		`"cidr":"10.244.1.7/32"`, `"cidr":"10.244.1.0/24","except":["10.244.1.7/32"]`, `"cidr":"fd00:10:244:1::/64"`,
		`"cidr":"0.0.0.0/0"`, `"cidr":"192.0.2.0/24"`,
	} {
		require.Contains(t, o.text, text)
	}
	require.Contains(t, o.text, `"labels":{"app":"10.0.0.10"}`, "a label is no address")
	require.NotContains(t, o.text, "status")
}

func TestABlockOfSomeHostsDoesNotMove(t *testing.T) {
	_, err := moved().object(objects(t, strings.ReplaceAll(policy, "192.0.2.0/24", "10.0.0.8/29")).NetworkPolicies["default/web"])
	require.ErrorContains(t, err, "NetworkPolicy default/web: the block 10.0.0.8/29 holds 10.0.0.10, a host that has another address in a cluster")
}

func TestAServiceLeavesToTheClusterWhatTheClusterGives(t *testing.T) {
	svc := objects(t, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`).Services["default/web"]
	p := moved()
	p.free = func() uint16 { return 31007 }
	o, err := p.object(svc)
	require.NoError(t, err)
	require.NotContains(t, o.text, "10.96.0.10")
	require.Contains(t, o.text, `"nodePort":31007`)
	require.Equal(t, uint16(31007), p.ports[30080])
	require.Contains(t, o.text, `"ipFamilyPolicy":"PreferDualStack"`)
	require.Equal(t, "10.96.0.10", svc.Spec.ClusterIP, "the scenario's object stays what it is")
}

func TestEachNodePortOfAWorldIsAnotherOne(t *testing.T) {
	s := &Session{lastPort: lastNodePort - 1}
	require.Equal(t, []uint16{lastNodePort, firstNodePort, firstNodePort + 1}, []uint16{s.nodePort(), s.nodePort(), s.nodePort()})
	p := moved()
	p.free = s.nodePort
	first := p.port(30080)
	require.Equal(t, first, p.port(30080), "it stays")
	require.NotEqual(t, first, p.port(30081))
}

func TestANodesNameMoves(t *testing.T) {
	o, err := moved().object(objects(t, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.10], nodeName: node-2, conditions: {ready: true}, hints: {forNodes: [{name: node-2}]}}]
ports: [{port: 8080}]
`).EndpointSlices["default/web"])
	require.NoError(t, err)
	require.Contains(t, o.text, `"nodeName":"kind-worker2"`)
	require.Contains(t, o.text, `"forNodes":[{"name":"kind-worker2"}]`)
	require.Contains(t, o.text, `"addresses":["10.244.1.7"]`)
	require.Contains(t, o.text, `"kubernetes.io/service-name":"web"`)
}

func TestWhatIsTheWholeClustersIsNoScenarios(t *testing.T) {
	topology := lab.Topology{Nodes: []lab.Host{{Name: "node", Addresses: addresses("198.18.0.2")}}}
	for text, why := range map[string]string{
		"apiVersion: v1\nkind: Node\nmetadata: {name: other}":                                           "is a node, and the cluster's nodes are described by others",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec: {containers: [{name: a, image: a}]}": "is a pod, and one of a cluster cannot be changed as this one is",
	} {
		require.ErrorContains(t, Movable(topology, manifest.NewObjects(), objects(t, text)), why)
	}
	require.NoError(t, Movable(topology, manifest.NewObjects(), objects(t, policy)))
	labelled := manifest.NewObjects()
	labelled.Nodes["node"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{"zone": "a"}}}
	require.ErrorContains(t, Movable(topology, labelled), "node node has a label zone, and the cluster's nodes are labelled by others")
}

func TestLabelsThatAreGoneAreTakenAway(t *testing.T) {
	require.JSONEq(t, `{"metadata": {"labels": {"app": null, "role": "db", "tier": "2"}}}`,
		string(labelPatch(map[string]string{"app": "web", "tier": "1"}, map[string]string{"tier": "2", "role": "db"})))
}
