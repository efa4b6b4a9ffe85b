// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/model/manifest"
)

// resolversIn are the pods behind the cluster's service of names, and that service.
func resolversIn(objects *manifest.Objects) (ends []End, service string) {
	for name, svc := range objects.Services {
		if svc.Namespace != "kube-system" || svc.Labels["k8s-app"] != "kube-dns" {
			continue
		}
		for _, pod := range manifest.InOrder(objects.Pods) {
			if pod.Namespace == svc.Namespace && len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				ends = append(ends, resolver(pod))
			}
		}
		return ends, name
	}
	return nil, ""
}

func resolver(pod *corev1.Pod) End {
	e := End{Name: pod.Name, Kind: EndPod, Pod: manifest.NameOf(pod), Node: pod.Spec.NodeName}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			e.Addresses = append(e.Addresses, a)
		}
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if strings.HasPrefix(p.Name, "dns") {
				e.Listens = append(e.Listens, fmt.Sprintf("%s/%d", strings.ToLower(string(p.Protocol)), p.ContainerPort))
			}
		}
	}
	return e
}

// relevant are the objects that have to do with an action: the ends' pods, their nodes
// and all that were asked, their namespaces, the service with its slices, and the
// policies of the namespaces and of the whole cluster.
func relevant(e *Evidence, objects *manifest.Objects) (all []json.RawMessage, err error) {
	namespaces := map[string]bool{}
	for _, end := range e.Ends {
		if namespace, _, is := strings.Cut(end.Pod, "/"); is {
			namespaces[namespace] = true
		}
	}
	objects.Each(func(obj metav1.Object) {
		if err != nil || !concerns(e, namespaces, obj) {
			return
		}
		var text json.RawMessage
		text, err = plain(obj)
		all = append(all, text)
	})
	return all, err
}

func concerns(e *Evidence, namespaces map[string]bool, obj metav1.Object) bool {
	switch obj := obj.(type) {
	case *corev1.Namespace:
		return namespaces[obj.Name]
	case *corev1.Pod:
		return e.isEnd(manifest.NameOf(obj))
	case *corev1.Node:
		return slices.ContainsFunc(e.Ends, func(end End) bool { return end.Node == obj.Name }) ||
			e.To.IsValid() && slices.ContainsFunc(obj.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == e.To.Addr().String() })
	case *corev1.Service:
		return e.isService(manifest.NameOf(obj))
	case *discoveryv1.EndpointSlice:
		return e.isService(obj.Namespace + "/" + obj.Labels[discoveryv1.LabelServiceName])
	case *manifest.Workload:
		return false
	}
	return obj.GetNamespace() == "" || namespaces[obj.GetNamespace()]
}

// isService says whether a service has a part in it.
func (e *Evidence) isService(name string) bool {
	return name != "" && (name == e.Service || name == e.Resolver)
}

// plain is an object without what neither network nor people need: of a node its names
// and addresses are kept, and nothing that a pod's containers are told.
func plain(obj metav1.Object) (json.RawMessage, error) {
	switch o := obj.(type) {
	case *corev1.Node:
		obj = &corev1.Node{ObjectMeta: o.ObjectMeta, Spec: corev1.NodeSpec{PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs}, Status: corev1.NodeStatus{Addresses: o.Status.Addresses}}
	case *corev1.Pod:
		obj = &corev1.Pod{ObjectMeta: o.ObjectMeta,
			Spec: corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork, ServiceAccountName: o.Spec.ServiceAccountName, Containers: portsOf(o.Spec.Containers)},
			Status: corev1.PodStatus{Phase: o.Status.Phase, Conditions: readiness(o.Status.Conditions),
				HostIP: o.Status.HostIP, HostIPs: o.Status.HostIPs, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs}}
	}
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", manifest.RefOf(obj), err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("write %s: %w", manifest.RefOf(obj), err)
	}
	kind := manifest.KindOf(obj)
	fields["kind"], fields["apiVersion"] = kind, manifest.APIVersionOf(kind)
	meta := map[string]any{"name": obj.GetName(), "creationTimestamp": obj.GetCreationTimestamp()}
	if obj.GetNamespace() != "" {
		meta["namespace"] = obj.GetNamespace()
	}
	if len(obj.GetLabels()) > 0 {
		meta["labels"] = obj.GetLabels()
	}
	if kept := annotations(obj); len(kept) > 0 {
		meta["annotations"] = kept
	}
	fields["metadata"] = meta
	if status, is := fields["status"].(map[string]any); is && kind == "Node" {
		fields["status"] = map[string]any{"addresses": status["addresses"]}
	}
	return json.Marshal(fields)
}

// annotations are those that the network may read: of others only their owners know
// what they are.
func annotations(obj metav1.Object) map[string]string {
	kept := map[string]string{}
	for key, value := range obj.GetAnnotations() {
		if domain, _, _ := strings.Cut(key, "/"); strings.HasSuffix(domain, "weir.net") || strings.HasPrefix(key, "service.kubernetes.io/") {
			kept[key] = value
		}
	}
	return kept
}

func portsOf(containers []corev1.Container) (all []corev1.Container) {
	for i := range containers {
		all = append(all, corev1.Container{Name: containers[i].Name, Ports: containers[i].Ports})
	}
	return all
}

func readiness(conditions []corev1.PodCondition) (all []corev1.PodCondition) {
	for _, c := range conditions {
		if c.Type == corev1.PodReady {
			all = append(all, corev1.PodCondition{Type: c.Type, Status: c.Status})
		}
	}
	return all
}
