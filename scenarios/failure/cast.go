// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// cast is who has a part in a scenario, by the names and addresses that they have there.
type cast struct {
	evidence *connectivity.Evidence
	objects  *manifest.Objects
	places   *kube.Places // where the cluster's names and addresses are in the scenario
	nodes    []string     // as the cluster calls them; the first is the scenario's "node"
	pods     []member
	outside  bool
}

// member is a pod.
type member struct {
	*corev1.Pod
	node      int
	addresses []netip.Addr // in the scenario
}

// outsideHost is the host beside the nodes.
const outsideHost = "outside"

func newCast(e *connectivity.Evidence) (*cast, error) {
	c := &cast{evidence: e, places: kube.NewPlaces()}
	var err error
	if c.objects, err = manifest.Parse("the report's objects", bytes.NewReader(bytes.Join(rawOf(e.Objects), []byte("\n---\n")))); err != nil {
		return nil, err
	}
	if len(e.Ends) < 2 {
		return nil, fmt.Errorf("%w: the report names nobody who might have answered", ErrScenario)
	}
	if err := c.findNodes(); err != nil {
		return nil, err
	}
	for i := range e.Ends {
		if err := c.join(&e.Ends[i]); err != nil {
			return nil, err
		}
	}
	c.placeFrontends()
	return c, nil
}

func rawOf(objects []json.RawMessage) (all [][]byte) {
	for _, o := range objects {
		all = append(all, o)
	}
	return all
}

// dnsLabel is what scenarios call hosts and namespaces.
var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// findNodes takes the nodes: that of who asks is the first, or else the one that was
// asked.
func (c *cast) findNodes() error {
	e := c.evidence
	asked := c.nodeAt(e.To.Addr())
	names := []string{e.Ends[0].Node, asked}
	for _, end := range e.Ends[1:] {
		names = append(names, end.Node)
	}
	for _, name := range names {
		if name == "" || slices.Contains(c.nodes, name) {
			continue
		}
		if c.objects.Nodes[name] == nil {
			return fmt.Errorf("%w: the report has no node %q among its objects", ErrScenario, name)
		}
		c.places.Node(name, c.nodeName(len(c.nodes)))
		c.places.Pair(addressesOfNode(c.objects.Nodes[name]), scenarios.NodeAddresses(len(c.nodes)))
		var blocks []string
		for _, b := range scenarios.PodBlocks(len(c.nodes)) {
			blocks = append(blocks, b.String())
		}
		c.places.PairBlocks(c.objects.Nodes[name].Spec.PodCIDRs, blocks)
		c.nodes = append(c.nodes, name)
	}
	if len(c.nodes) == 0 {
		return fmt.Errorf("%w: the report tells of no node", ErrScenario)
	}
	return nil
}

func (c *cast) nodeName(i int) string {
	if i == 0 {
		return syntax.FirstNode
	}
	return fmt.Sprintf("%s-%d", syntax.FirstNode, i+1)
}

// nodeAt is the node that has an address; empty: none.
func (c *cast) nodeAt(a netip.Addr) string {
	for _, n := range manifest.InOrder(c.objects.Nodes) {
		if slices.Contains(addressesOfNode(n), a) {
			return n.Name
		}
	}
	return ""
}

func addressesOfNode(n *corev1.Node) (all []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if at, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			all = append(all, at)
		}
	}
	return all
}

// join gives an end its place.
func (c *cast) join(end *connectivity.End) error {
	switch end.Kind {
	case connectivity.EndNode:
		return nil // all of them are there
	case connectivity.EndOutside:
		if !c.outside {
			c.places.Pair(end.Addresses, scenarios.OutsideAddresses(0))
		}
		c.outside = true
		return nil
	case connectivity.EndPod:
	default:
		return fmt.Errorf("%w: the report calls %q a %q", ErrScenario, end.Name, end.Kind)
	}
	pod := c.objects.Pods[end.Pod]
	if pod == nil || !dnsLabel.MatchString(pod.Name) || !dnsLabel.MatchString(pod.Namespace) {
		return fmt.Errorf("%w: the report has no pod %q among its objects, or one that scenarios have no name for", ErrScenario, end.Pod)
	}
	if slices.ContainsFunc(c.pods, func(m member) bool { return m.Pod == pod }) {
		return nil
	}
	node := slices.Index(c.nodes, end.Node)
	before := 0 // of its node
	for _, m := range c.pods {
		if m.node == node {
			before++
		}
	}
	m := member{pod, node, scenarios.PodAddresses(before, node)}
	c.places.Pair(end.Addresses, m.addresses)
	c.pods = append(c.pods, m)
	return nil
}

// placeFrontends puts addresses that services claim beside the scenario's own: those of
// tests may be what its hosts have.
func (c *cast) placeFrontends() {
	n := byte(200)
	for _, svc := range manifest.InOrder(c.objects.Services) {
		for _, text := range svc.Spec.ExternalIPs {
			if a, err := netip.ParseAddr(text); err == nil {
				v6 := [16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x51, 15: n}
				c.places.Pair([]netip.Addr{a}, []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, n}), netip.AddrFrom16(v6)})
				n++
			}
		}
	}
}

// name is what the scenario calls an end.
func (c *cast) name(end *connectivity.End) string {
	switch end.Kind {
	case connectivity.EndOutside:
		return outsideHost
	case connectivity.EndNode:
		return c.nodeName(slices.Index(c.nodes, end.Node))
	}
	return strings.TrimPrefix(end.Pod, metav1.NamespaceDefault+"/")
}

// header writes the network.
func (c *cast) header(s *script) {
	attached := string(s.file)
	for i, name := range c.nodes {
		if labels := named(c.objects.Nodes[name].Labels, attached); i > 0 || len(labels) > 0 {
			s.linef("node %s%s", c.nodeName(i), assignments(labels))
		}
	}
	for _, ns := range manifest.InOrder(c.objects.Namespaces) {
		labels := named(ns.Labels, attached)
		delete(labels, corev1.LabelMetadataName)
		if len(labels) > 0 && dnsLabel.MatchString(ns.Name) {
			s.linef("namespace %s%s", ns.Name, assignments(labels))
		}
	}
	for _, m := range c.pods {
		line := "pod " + strings.TrimPrefix(manifest.NameOf(m.Pod), metav1.NamespaceDefault+"/") + assignments(m.Labels)
		for _, container := range m.Spec.Containers {
			for _, port := range container.Ports {
				if dnsLabel.MatchString(port.Name) && slices.Contains([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}, port.Protocol) {
					line += fmt.Sprintf(" %s:%d/%s", port.Name, port.ContainerPort, strings.ToLower(string(port.Protocol)))
				}
			}
		}
		if m.node > 0 {
			line += " on " + c.nodeName(m.node)
		}
		s.linef("%s", line)
	}
	if c.outside {
		s.linef("outside %s", outsideHost)
	}
}

// named are those labels whose keys a text has: others say nothing to it.
func named(labels map[string]string, text string) map[string]string {
	kept := maps.Clone(labels)
	maps.DeleteFunc(kept, func(key, _ string) bool { return !strings.Contains(text, key) })
	return kept
}

// assignments writes labels as headers have them; what is none is left out.
func assignments(set map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(set)) {
		value := set[key]
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
			continue
		}
		fmt.Fprintf(&b, " %s=%s", key, value)
	}
	return b.String()
}

// attach writes the objects that the header does not say: services and policies, slices
// of services that select nothing, and pods that have ports of their node.
func (c *cast) attach() ([]byte, error) {
	var documents [][]byte
	var wrong error
	c.objects.Each(func(obj metav1.Object) {
		if wrong != nil || !c.isAttached(obj) {
			return
		}
		var text []byte
		text, wrong = c.moved(obj)
		documents = append(documents, text)
	})
	return bytes.Join(documents, []byte("---\n")), wrong
}

func (c *cast) isAttached(obj metav1.Object) bool {
	switch obj := obj.(type) {
	case *corev1.Namespace, *corev1.Node, *manifest.Workload:
		return false
	case *corev1.Pod:
		return slices.ContainsFunc(c.pods, func(m member) bool { return m.Pod == obj }) && slices.ContainsFunc(obj.Spec.Containers, func(one corev1.Container) bool {
			return slices.ContainsFunc(one.Ports, func(p corev1.ContainerPort) bool { return p.HostPort > 0 })
		})
	case *discoveryv1.EndpointSlice:
		svc := c.objects.Services[obj.Namespace+"/"+obj.Labels[discoveryv1.LabelServiceName]]
		return svc != nil && len(svc.Spec.Selector) == 0
	}
	return true
}

// moved is an object with the scenario's names and addresses. What the cluster gives to
// a service, the scenario gives too.
func (c *cast) moved(obj metav1.Object) ([]byte, error) {
	ref := manifest.RefOf(obj)
	if svc, is := obj.(*corev1.Service); is {
		svc = svc.DeepCopy()
		if svc.Spec.ClusterIP != corev1.ClusterIPNone {
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
		}
		svc.Spec.HealthCheckNodePort, svc.Status = 0, corev1.ServiceStatus{}
		obj = svc
	}
	text, err := json.Marshal(obj)
	fields := map[string]any{}
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", ref, err)
	}
	if _, err := c.places.Move(fields); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrScenario, ref, err)
	}
	meta := map[string]any{"name": obj.GetName()}
	if obj.GetNamespace() != "" {
		meta["namespace"] = obj.GetNamespace()
	}
	if len(obj.GetLabels()) > 0 {
		meta["labels"] = obj.GetLabels()
	}
	if len(obj.GetAnnotations()) > 0 {
		meta["annotations"] = obj.GetAnnotations()
	}
	kind := manifest.KindOf(obj)
	kept := map[string]any{"apiVersion": manifest.APIVersionOf(kind), "kind": kind, "metadata": meta}
	for key, value := range fields {
		if _, is := obj.(*corev1.Pod); key != "metadata" && key != "kind" && key != "apiVersion" && (key != "status" || is) {
			kept[key] = value
		}
	}
	if text, err = yaml.Marshal(kept); err != nil {
		return nil, fmt.Errorf("write %s: %w", ref, err)
	}
	return text, nil
}
