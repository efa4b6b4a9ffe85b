// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/probe"
	"github.com/weirnet/weir/model/manifest"
)

const cluster = `
apiVersion: v1
kind: Node
metadata: {name: a, labels: {zone: x}, annotations: {example.com/secret: hidden}}
spec: {podCIDRs: [10.1.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: b}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: run}
---
apiVersion: v1
kind: Namespace
metadata: {name: others}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: run, annotations: {weir.net/mark: kept, example.com/key: hidden}}
spec: {nodeName: a, containers: [{name: probe, image: hidden, env: [{name: TOKEN, value: hidden}], args: [hidden], ports: [{containerPort: 8080}]}]}
status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server-1, namespace: run}
spec: {nodeName: a, containers: [{name: probe}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bystander, namespace: run}
spec: {nodeName: b, containers: [{name: probe}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: run}
spec: {clusterIP: 10.96.0.1, selector: {role: server}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: run}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {nodeName: b, containers: [{name: coredns, ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: metrics, containerPort: 9153}]}]}
status: {podIP: 10.1.1.9, podIPs: [{ip: 10.1.1.9}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: near, namespace: run}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: far, namespace: others}
spec: {podSelector: {}}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: everywhere}
spec: {endpointSelector: {}, ingress: [{}]}
`

func clusterObjects(t *testing.T) *manifest.Objects {
	objs, err := manifest.Parse("cluster.yaml", strings.NewReader(cluster))
	require.NoError(t, err)
	return objs
}

func at(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }

// failedAction is of a bed without a cluster.
func failedAction() (*bed, *Evidence) {
	b := &bed{namespaces: map[string]string{inMain: "run"}, members: map[string]*kube.Member{
		client1: {Name: client1, Node: "a", Addresses: at("10.1.0.1")}, server1: {Name: server1, Node: "a", Addresses: at("10.1.0.2")},
	}}
	a := Action{Family: IPv4, From: client1, To: service(ToClusterIP, web), Verb: TCP, By: servers}
	e := &Evidence{Action: a, To: netip.MustParseAddrPort("10.96.0.1:80")}
	return b, e
}

func TestTheEndsAreWhoAsksAndWhoMightAnswer(t *testing.T) {
	b, e := failedAction()
	ends, name := b.ends(&e.Action, clusterObjects(t))
	require.Equal(t, "run/web", name)
	require.Equal(t, []End{
		{Name: client1, Kind: EndPod, Pod: "run/client-1", Node: "a", Addresses: at("10.1.0.1"), Listens: []string{"tcp/8080", "udp/8080", "tcp/8081"}},
		{Name: server1, Kind: EndPod, Pod: "run/server-1", Node: "a", Addresses: at("10.1.0.2"), Listens: []string{"tcp/8080", "udp/8080", "tcp/8081"}},
	}, ends, "of the second server there is no probe")

	a := Action{Family: IPv4, From: client1, To: Target{Kind: ToName, Name: web}, Verb: AskUDP}
	ends, name = b.ends(&a, clusterObjects(t))
	require.Equal(t, "kube-system/kube-dns", name)
	require.Equal(t, End{Name: "coredns", Kind: EndPod, Pod: "kube-system/coredns", Node: "b", Addresses: at("10.1.1.9"), Listens: []string{"udp/53"}}, ends[1])
}

func TestTheObjectsAreThoseThatHaveToDoWithIt(t *testing.T) {
	b, e := failedAction()
	objs := clusterObjects(t)
	e.Ends, e.Service = b.ends(&e.Action, objs)
	kept, err := relevant(e, objs)
	require.NoError(t, err)
	text := bytes.Join(rawTexts(kept), []byte("\n---\n"))
	again, err := manifest.Parse("evidence", bytes.NewReader(text))
	require.NoError(t, err, "they can be read again")
	var refs []string
	for _, ref := range again.Refs() {
		refs = append(refs, ref.String())
	}
	require.ElementsMatch(t, []string{
		"Namespace run", "Node a", "Pod run/client-1", "Pod run/server-1", "Service run/web", "NetworkPolicy run/near", "CiliumClusterwideNetworkPolicy everywhere",
	}, refs)
	require.NotContains(t, string(text), "hidden", "what containers are told, and others' annotations")
	require.Equal(t, "kept", again.Pods["run/client-1"].Annotations["weir.net/mark"])
	require.Equal(t, []string{"10.1.0.0/24"}, again.Nodes["a"].Spec.PodCIDRs)
}

func rawTexts(all []json.RawMessage) (texts [][]byte) {
	for _, one := range all {
		texts = append(texts, one)
	}
	return texts
}

func TestPoliciesAreAskedOfEachWhoMightAnswer(t *testing.T) {
	b, e := failedAction()
	objs := clusterObjects(t)
	e.Ends, e.Service = b.ends(&e.Action, objs)
	e.Ends = append(e.Ends, End{Name: host1, Kind: EndNode, Node: "b", Listens: []string{"tcp/21000", "udp/21000"}}, End{Name: Outside, Kind: EndOutside, Addresses: at("192.0.2.9")})
	r := &Run{options: Options{Witness: Witness{Policy: func(of *manifest.Objects, from, to, port string) (*Ruling, error) {
		require.Same(t, objs, of)
		if to == "192.0.2.9" {
			return nil, errors.New("nobody knows")
		}
		return &Ruling{From: from, To: to, Port: port, Allowed: true, Why: []string{"no policy is asked"}}, nil
	}}}}
	r.rule(e, objs)
	require.Equal(t, []Ruling{
		{From: "run/client-1", To: "run/server-1", Port: "8080/tcp", Allowed: true, Why: []string{"no policy is asked"}},
		{From: "run/client-1", To: "node/b", Port: "21000/tcp", Allowed: true, Why: []string{"no policy is asked"}},
	}, e.Policy)
	require.Equal(t, []string{"policy of run/client-1 to 192.0.2.9 80/tcp: nobody knows"}, e.Lacks)

	e.Action.Verb = ICMP
	require.Equal(t, "icmp", e.portOf(&e.Ends[1]))
	require.Empty(t, e.ports(), "its packets have none")
	e.Action.Verb, e.Action.To = TCP, other(server1)
	require.Equal(t, "8081/tcp", e.portOf(&e.Ends[1]), "the port that was asked")
}

func TestAStoryTellsOfTheEvidenceInShort(t *testing.T) {
	r := Result{Status: Failed, Errors: []string{"timed out"}, Evidence: &Evidence{
		Again: "it went well", Lacks: []string{"capture of server-1: not permitted"},
		Events: []json.RawMessage{
			[]byte(`{"verdict": "forward", "hook": "from-container", "endpoint": "run/client-1", "protocol": "tcp", "source": "10.1.0.1:1", "destination": "10.96.0.1:80", "translatedDestination": "10.1.0.2:8080"}`),
			[]byte(`{"verdict": "drop", "hook": "to-container"}`), []byte(`none`),
		},
		Policy:   []Ruling{{From: "run/client-1", To: "run/server-1", Port: "8080/tcp", Why: []string{"one", "two"}}},
		Captures: []CaptureOf{{End: client1, Frames: make([]probe.Captured, 3)}},
	}}
	require.Equal(t, []string{
		"timed out",
		"flow: from-container of run/client-1: tcp 10.1.0.1:1 > 10.96.0.1:80 as 10.1.0.1:1 > 10.1.0.2:8080",
		"policy denies run/client-1 to run/server-1 8080/tcp: one; two",
		"done again: it went well",
		"captured then: 3 frames at client-1",
		"not had: capture of server-1: not permitted",
	}, r.Story())
}

func TestOfWhatAnAgentListsTheEndsAreKept(t *testing.T) {
	b, e := failedAction()
	e.Ends, _ = b.ends(&e.Action, clusterObjects(t))
	lines := []byte(`{"podNamespace": "run", "podName": "client-1", "identity": 7}` + "\n" + `{"podNamespace": "run", "podName": "bystander"}` + "\nno JSON\n")
	kept := rows(lines, func(w *row) bool { return e.isEnd(w.Namespace + "/" + w.Pod) })
	require.Len(t, kept, 1)
	require.JSONEq(t, `{"podNamespace": "run", "podName": "client-1", "identity": 7}`, string(kept[0]))
}
