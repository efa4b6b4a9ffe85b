// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model/manifest"
)

// cast finds the hosts of a script: who is a pod, and who is outside.
func (s *script) cast() error {
	s.names = map[netip.Addr]string{}
	for _, a := range gateways {
		s.names[a] = "gateway"
	}
	if s.options.Objects == nil {
		s.castSeen()
	} else if err := s.castObjects(); err != nil {
		return err
	}
	if len(s.pods) > prog.MaxPods {
		return fmt.Errorf("%w: it takes %d pods, and a world has %d", ErrScenario, len(s.pods), prog.MaxPods)
	}
	return nil
}

// addresses lists those of the steps, the first sender's first.
func (s *script) addresses() []netip.Addr {
	var list []netip.Addr
	for i := range s.steps {
		h := &s.steps[i].header
		if !h.IP && !h.ARP {
			continue
		}
		for _, a := range []netip.Addr{h.Src, h.Dst} {
			if hostAddress(a) && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}

// castSeen makes the pods of a replay without objects.
func (s *script) castSeen() {
	names := []string{"client", "server"}
	for _, a := range s.addresses() {
		switch ep := s.replay.endpoints.byAddr[a]; {
		case ep == nil:
			s.addOutside(a)
		case len(names) > 0:
			s.names[a] = names[0]
			s.pods = append(s.pods, scriptPod{name: names[0]})
			names = names[1:]
		}
	}
	if len(s.pods) == 0 { // who sends packets that are nobody's
		s.pods = append(s.pods, scriptPod{name: "client"})
	}
}

func (s *script) addOutside(a netip.Addr) {
	name := "internet"
	if n := len(s.outer); n > 0 {
		name = fmt.Sprintf("internet-%d", n+1)
	}
	s.names[a] = name
	s.outer = append(s.outer, name)
}

// hostOf names a pod by the endpoint that it was; somebody, where it was none.
func (s *script) hostOf(endpoint string) string {
	if a, err := netip.ParseAddr(endpoint); err == nil && s.names[a] != "" {
		return s.names[a]
	}
	at := slices.IndexFunc(s.pods, func(p scriptPod) bool { return p.endpoint == endpoint })
	return s.pods[max(at, 0)].name
}

// castObjects makes the hosts of a replay with objects: the flow's, and the
// backends of the services that it meets. Their policies and services go with
// them.
func (s *script) castObjects() error {
	objs := s.options.Objects
	owners := map[netip.Addr]*corev1.Pod{}
	for _, pod := range objs.Pods {
		for _, ip := range pod.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil && !pod.Spec.HostNetwork {
				owners[a] = pod
			}
		}
	}
	var pods []*corev1.Pod
	var attached []metav1.Object
	for _, a := range s.addresses() {
		switch svc := serviceAt(objs, a); {
		case owners[a] != nil && s.replay.endpoints.byAddr[a] == nil:
			return fmt.Errorf("%w: %s is a pod of another node, and a world has one", ErrScenario, a)
		case owners[a] != nil:
			pods = append(pods, owners[a])
			s.names[a] = podName(owners[a])
		case svc != nil:
			attached = append(attached, svc)
			pods = append(pods, backends(objs, svc)...)
			s.names[a] = svc.Name + "." + namespaceOf(svc)
		case s.isNode(a):
			s.names[a] = "node"
		default:
			s.addOutside(a)
		}
	}
	s.addPods(pods)
	if len(s.pods) == 0 {
		s.pods = append(s.pods, scriptPod{name: "client"})
	}
	for _, policy := range policiesOf(objs, pods) {
		attached = append(attached, policy)
	}
	return s.attach(attached)
}

func (s *script) isNode(a netip.Addr) bool {
	for _, node := range s.options.Objects.Nodes {
		for _, own := range node.Status.Addresses {
			if own.Address == a.String() {
				return true
			}
		}
	}
	return len(s.options.Objects.Nodes) == 0 && slices.Contains(nodeAddresses, a)
}

func namespaceOf(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return metav1.NamespaceDefault
	}
	return o.GetNamespace()
}

func podName(pod *corev1.Pod) string {
	if ns := namespaceOf(pod); ns != metav1.NamespaceDefault {
		return ns + "/" + pod.Name
	}
	return pod.Name
}

func serviceAt(objs *manifest.Objects, a netip.Addr) *corev1.Service {
	for _, svc := range objs.Services {
		if svc.Spec.ClusterIP == a.String() || slices.Contains(svc.Spec.ClusterIPs, a.String()) {
			return svc
		}
	}
	return nil
}

// backends are the pods of this node that a service selects.
func backends(objs *manifest.Objects, svc *corev1.Service) []*corev1.Pod {
	if len(svc.Spec.Selector) == 0 {
		return nil
	}
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	var pods []*corev1.Pod
	for _, name := range slices.Sorted(maps.Keys(objs.Pods)) {
		pod := objs.Pods[name]
		if namespaceOf(pod) == namespaceOf(svc) && selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// policiesOf are those in the pods' namespaces.
func policiesOf(objs *manifest.Objects, pods []*corev1.Pod) []*networkingv1.NetworkPolicy {
	var policies []*networkingv1.NetworkPolicy
	for _, name := range slices.Sorted(maps.Keys(objs.NetworkPolicies)) {
		policy := objs.NetworkPolicies[name]
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return namespaceOf(p) == namespaceOf(policy) }) {
			policies = append(policies, policy)
		}
	}
	return policies
}

func (s *script) addPods(pods []*corev1.Pod) {
	for _, pod := range pods {
		p := scriptPod{name: podName(pod), endpoint: manifest.NameOf(pod), namespace: namespaceOf(pod), labels: pod.Labels}
		if slices.ContainsFunc(s.pods, func(q scriptPod) bool { return q.name == p.name }) {
			continue
		}
		if ns := s.options.Objects.Namespaces[p.namespace]; ns != nil {
			p.namespaced = maps.Clone(ns.Labels)
			delete(p.namespaced, corev1.LabelMetadataName)
		}
		for _, c := range pod.Spec.Containers {
			for _, port := range c.Ports {
				if port.Name != "" {
					p.ports = append(p.ports, fmt.Sprintf("%s:%d/%s", port.Name, port.ContainerPort, strings.ToLower(string(port.Protocol))))
				}
			}
		}
		s.pods = append(s.pods, p)
	}
}

// people writes the namespaces and pods, and gives the pods' names.
func (s *script) people() []string {
	var names []string
	written := map[string]bool{}
	for _, p := range s.pods {
		if len(p.namespaced) > 0 && !written[p.namespace] {
			fmt.Fprintf(&s.text, "namespace %s%s\n", p.namespace, assignments(p.namespaced))
			written[p.namespace] = true
		}
	}
	for _, p := range s.pods {
		fmt.Fprintf(&s.text, "pod %s%s", p.name, assignments(p.labels))
		for _, port := range p.ports {
			fmt.Fprintf(&s.text, " %s", strings.TrimSuffix(port, "/"))
		}
		fmt.Fprintln(&s.text)
		names = append(names, p.name)
	}
	return names
}

func assignments(set map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(set)) {
		value := set[key]
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(&b, " %s=%s", key, value)
	}
	return b.String()
}

// attach makes a file of objects, without what only a cluster needs.
func (s *script) attach(objects []metav1.Object) error {
	var documents []string
	for _, o := range objects {
		text, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("write %s: %w", o.GetName(), err)
		}
		var fields map[string]any
		if err := json.Unmarshal(text, &fields); err != nil {
			return fmt.Errorf("write %s: %w", o.GetName(), err)
		}
		delete(fields, "status")
		fields["metadata"] = map[string]any{"name": o.GetName(), "namespace": namespaceOf(o)}
		switch o.(type) {
		case *corev1.Service:
			fields["apiVersion"], fields["kind"] = "v1", "Service"
		case *networkingv1.NetworkPolicy:
			fields["apiVersion"], fields["kind"] = "networking.k8s.io/v1", "NetworkPolicy"
		}
		document, err := yaml.Marshal(fields)
		if err != nil {
			return fmt.Errorf("write %s: %w", o.GetName(), err)
		}
		if !slices.Contains(documents, string(document)) {
			documents = append(documents, string(document))
		}
	}
	if len(documents) > 0 {
		s.files = append(s.files, scriptFile{"objects.yaml", []byte(strings.Join(documents, "---\n"))})
	}
	return nil
}
