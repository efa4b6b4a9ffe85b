// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model/manifest"
)

// resources are the kinds that are written as they are, in the order in which they
// are made. Pods and namespaces are made by hand, and nodes not at all.
var resources = []resource{
	{"Service", schema.GroupVersionResource{Version: "v1", Resource: "services"}},
	{"EndpointSlice", schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}},
	{"NetworkPolicy", schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}},
	{"CiliumNetworkPolicy", schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumnetworkpolicies"}},
}

// resource is a kind, and where the API has it.
type resource struct {
	kind string
	schema.GroupVersionResource
}

// object is one as it is to be in the cluster.
type object struct {
	resource schema.GroupVersionResource
	ref      string // kind and name in the scenario, for people
	content  *unstructured.Unstructured
	text     string // of the content, to compare
}

// Movable says what of a scenario's objects cannot be in a cluster that chooses
// addresses itself, serves others too, and whose nodes are not the scenario's; nil:
// nothing.
func Movable(topology lab.Topology, objects *manifest.Objects, attached ...*manifest.Objects) error {
	p := NewPlaces()
	for _, hosts := range [][]lab.Host{topology.Nodes, topology.Pods, topology.Outside} {
		for _, h := range hosts {
			p.Pair(h.Addresses, h.Addresses)
		}
	}
	for _, n := range objects.Nodes {
		p.PairBlocks(n.Spec.PodCIDRs, n.Spec.PodCIDRs)
		for key := range n.Labels {
			return &fixedError{"node " + n.Name, "has a label " + key + ", and the cluster's nodes are labelled by others"}
		}
	}
	for _, file := range attached {
		if err := movable(p, file); err != nil {
			return err
		}
	}
	return nil
}

func movable(p *Places, file *manifest.Objects) error {
	var wrong error
	file.Each(func(obj metav1.Object) {
		if wrong != nil {
			return
		}
		ref := manifest.RefOf(obj).String()
		known := slices.ContainsFunc(resources, func(r resource) bool { return r.kind == manifest.KindOf(obj) })
		switch kind := manifest.KindOf(obj); {
		case kind == "Namespace":
			return
		case kind == "Pod":
			wrong = &fixedError{ref, "is a pod, and one of a cluster cannot be changed as this one is"}
		case kind == "Node":
			wrong = &fixedError{ref, "is a node, and the cluster's nodes are described by others"}
		case !known:
			wrong = &fixedError{ref, "is for the whole cluster, where it would hold for others' pods"}
		default:
			_, err := p.object(obj)
			wrong = err
		}
	})
	return wrong
}

// object is obj as it is to be in the cluster.
func (p *Places) object(obj metav1.Object) (*object, error) {
	kind := manifest.KindOf(obj)
	if svc, ok := obj.(*corev1.Service); ok {
		var err error
		if obj, err = asWritten(svc, p.port); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", manifest.RefOf(obj), err)
	}
	content := map[string]any{}
	if err := json.Unmarshal(text, &content); err != nil {
		return nil, fmt.Errorf("write %s: %w", manifest.RefOf(obj), err)
	}
	delete(content, "status")
	if _, err := p.Move(content); err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.RefOf(obj), err)
	}
	o := &object{ref: manifest.RefOf(obj).String(), content: &unstructured.Unstructured{Object: content}}
	meta, _ := content["metadata"].(map[string]any)
	delete(meta, "creationTimestamp")
	for _, r := range resources {
		if r.kind == kind {
			o.resource = r.GroupVersionResource
			content["kind"], content["apiVersion"] = kind, r.GroupVersion().String()
		}
	}
	written, err := json.Marshal(content)
	o.text = string(written)
	return o, err
}

// asWritten is a service without what the cluster gives to it, and with node ports of
// its own. One whose addresses the scenario chooses cannot be.
func asWritten(svc *corev1.Service, port func(uint16) uint16) (*corev1.Service, error) {
	svc = svc.DeepCopy()
	ref := manifest.RefOf(svc).String()
	spec := &svc.Spec
	if spec.ClusterIP != corev1.ClusterIPNone {
		spec.ClusterIP, spec.ClusterIPs = "", nil
	}
	if len(spec.IPFamilies) == 0 && spec.IPFamilyPolicy == nil && spec.Type != corev1.ServiceTypeExternalName {
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	}
	for i := range spec.Ports {
		if n := uint16(spec.Ports[i].NodePort); n > 0 {
			spec.Ports[i].NodePort = int32(port(n))
		}
	}
	spec.HealthCheckNodePort = 0
	switch {
	case len(spec.ExternalIPs) > 0:
		return nil, &fixedError{ref, "has external addresses, which nobody leads to a cluster's nodes"}
	case spec.Type == corev1.ServiceTypeLoadBalancer:
		return nil, &fixedError{ref, "has a load balancer's addresses, which nobody leads to a cluster's nodes"}
	case spec.Type == corev1.ServiceTypeExternalName || strings.Contains(spec.ExternalName, "."):
		return nil, &fixedError{ref, "is a name alone"}
	}
	return svc, nil
}
