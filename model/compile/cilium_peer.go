// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8slabels "k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Cilium's selectors are asked for labels that say where they come from. The
// sources are k8s, for what Kubernetes says of a pod, and reserved, for who is
// no pod; a key without source matches labels of any.
const (
	sourceKubernetes = "k8s"
	sourceReserved   = "reserved"
	sourceAny        = "any"

	ciliumNamespaceKey    = "io.kubernetes.pod.namespace"
	ciliumNamespaceLabels = "io.cilium.k8s.namespace.labels."
	ciliumClusterKey      = "io.cilium.k8s.policy.cluster"
	ciliumAccountKey      = "io.cilium.k8s.policy.serviceaccount"
	ciliumCluster         = "default"
)

// sourcedKey is a label's key with its source.
type sourcedKey struct{ source, key string }

type sourcedLabels map[sourcedKey]string

// ciliumLabels are those that Cilium gives a pod.
func (id *identity) ciliumLabels() sourcedLabels {
	if id.sourced != nil {
		return id.sourced
	}
	set := sourcedLabels{}
	put := func(key, value string) { set[sourcedKey{sourceKubernetes, key}] = value }
	for key, value := range id.podLabels {
		if !isReservedKey(key) {
			put(key, value)
		}
	}
	for key, value := range id.namespaceLabels {
		put(ciliumNamespaceLabels+key, value)
	}
	put(ciliumNamespaceKey, id.namespace)
	put(ciliumClusterKey, ciliumCluster)
	put(ciliumAccountKey, id.account)
	id.sourced = set
	return set
}

// isReservedKey is whether a label would say what is not for a pod's author to
// say: of its namespace, its account, its cluster.
func isReservedKey(key string) bool {
	return strings.HasPrefix(key, "io.cilium.k8s.") || strings.HasPrefix(key, "io.kubernetes.")
}

func reservedLabels(names ...string) sourcedLabels {
	set := sourcedLabels{}
	for _, name := range names {
		set[sourcedKey{sourceReserved, name}] = ""
	}
	return set
}

// others are who is no pod, with the labels that Cilium gives them.
func (c *compiler) others() map[model.Identity]sourcedLabels {
	if c.reserved != nil {
		return c.reserved
	}
	servers := c.apiServers()
	c.reserved = map[model.Identity]sourcedLabels{model.IdentityWorld: reservedLabels("world")}
	for base, name := range map[model.Identity]string{model.IdentityHost: "host", model.IdentityRemoteNode: "remote-node"} {
		for _, number := range c.numbersOf(base) {
			c.reserved[number] = reservedLabels(name)
		}
	}
	for _, m := range c.members[serversGroup] {
		c.reserved[m.number][sourcedKey{sourceReserved, serversGroup}] = ""
	}
	for prefix, number := range c.blocks {
		set := reservedLabels("world", "world-ipv6")
		if prefix.Addr().Is4() {
			set = reservedLabels("world", "world-ipv4")
		}
		if prefix.IsSingleIP() && servers[prefix.Addr()] {
			set[sourcedKey{sourceReserved, "kube-apiserver"}] = ""
		}
		c.reserved[number] = set
	}
	return c.reserved
}

// ciliumSelector is requirements that all have to hold. nil matches nobody.
type ciliumSelector struct {
	requirements []ciliumRequirement
}

type ciliumRequirement struct {
	key      sourcedKey
	operator metav1.LabelSelectorOperator
	values   []string
}

func splitKey(text string) sourcedKey {
	if source, key, found := strings.Cut(text, ":"); found {
		return sourcedKey{source, key}
	}
	return sourcedKey{sourceAny, text}
}

func selectorOfCilium(selector *metav1.LabelSelector) *ciliumSelector {
	if selector == nil {
		return nil
	}
	s := &ciliumSelector{}
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) {
		s.add(splitKey(key), metav1.LabelSelectorOpIn, selector.MatchLabels[key])
	}
	for _, e := range selector.MatchExpressions {
		s.add(splitKey(e.Key), e.Operator, e.Values...)
	}
	return s
}

func (s *ciliumSelector) add(key sourcedKey, operator metav1.LabelSelectorOperator, values ...string) {
	s.requirements = append(s.requirements, ciliumRequirement{key, operator, values})
}

func (s *ciliumSelector) asks(key sourcedKey) bool {
	return slices.ContainsFunc(s.requirements, func(r ciliumRequirement) bool { return r.key == key })
}

// names is whether a selector asks for a label of Kubernetes' with this key,
// or one that begins so.
func (s *ciliumSelector) names(hit func(key string) bool) bool {
	return slices.ContainsFunc(s.requirements, func(r ciliumRequirement) bool {
		return (r.key.source == sourceKubernetes || r.key.source == sourceAny) && hit(r.key.key)
	})
}

// dropNamespace takes out what a namespaced policy asks of its subjects'
// namespace, which is always its own.
func (s *ciliumSelector) dropNamespace(own string) (named string, other bool) {
	if s == nil || own == "" {
		return "", false
	}
	s.requirements = slices.DeleteFunc(s.requirements, func(r ciliumRequirement) bool {
		mine := r.key == sourcedKey{sourceKubernetes, ciliumNamespaceKey} && r.operator == metav1.LabelSelectorOpIn
		if mine && !slices.Contains(r.values, own) {
			named, other = strings.Join(r.values, ", "), true
		}
		return mine
	})
	return named, other
}

func (s *ciliumSelector) matches(labels sourcedLabels) bool {
	if s == nil {
		return false
	}
	return !slices.ContainsFunc(s.requirements, func(r ciliumRequirement) bool { return !r.holds(labels) })
}

func (r *ciliumRequirement) holds(labels sourcedLabels) bool {
	value, found := labels[r.key]
	if r.key.source == sourceAny {
		for _, source := range []string{sourceKubernetes, sourceReserved} {
			if value, found = labels[sourcedKey{source, r.key.key}]; found {
				break
			}
		}
	}
	switch r.operator {
	case metav1.LabelSelectorOpIn:
		return found && slices.Contains(r.values, value)
	case metav1.LabelSelectorOpNotIn:
		return !found || !slices.Contains(r.values, value)
	case metav1.LabelSelectorOpExists:
		return found
	case metav1.LabelSelectorOpDoesNotExist:
		return !found
	}
	return false
}

// peerSelector completes a selector of peers. One that says nothing of
// namespaces is for the policy's own; in a clusterwide policy, for pods of any,
// which leaves out who is no pod.
func (c *compiler) peerSelector(spec *ciliumSpec, selector *metav1.LabelSelector, mayReserve bool) *ciliumSelector {
	s := selectorOfCilium(selector)
	if mayReserve && slices.ContainsFunc(s.requirements, func(r ciliumRequirement) bool { return r.key.source == sourceReserved }) {
		return s
	}
	if s.names(func(key string) bool { return key == ciliumNamespaceKey }) {
		return s
	}
	key := sourcedKey{sourceKubernetes, ciliumNamespaceKey}
	switch {
	case spec.namespace == "":
		s.add(key, metav1.LabelSelectorOpExists)
	case !s.names(func(key string) bool { return strings.HasPrefix(key, ciliumNamespaceLabels) }):
		s.add(key, metav1.LabelSelectorOpIn, spec.namespace)
	}
	return s
}

// requirement is an entry of fromRequires or toRequires: it holds for every
// peer that rules of the same kind find by labels, in all policies of a pod.
type requirement struct {
	direction model.Direction
	denies    bool
	selector  *ciliumSelector
}

// requiredOf says who may be a peer of a subject's rules.
func (c *compiler) requiredOf(subject *identity, direction model.Direction, policies []*compiledPolicy) func(*compiledRule, model.Identity) bool {
	var all []requirement
	for _, p := range policies {
		if !p.subjects[subject] {
			continue
		}
		for _, r := range p.requires {
			if r.direction == direction {
				all = append(all, r)
			}
		}
	}
	return func(rule *compiledRule, peer model.Identity) bool {
		if !rule.byLabels || len(all) == 0 {
			return true
		}
		labels := c.labelsOf(peer)
		return !slices.ContainsFunc(all, func(r requirement) bool {
			return r.denies == (rule.action == deny) && !r.selector.matches(labels)
		})
	}
}

func (c *compiler) labelsOf(number model.Identity) sourcedLabels {
	if labels, found := c.others()[number]; found {
		return labels
	}
	for _, id := range c.identities {
		if id.number == number {
			return id.ciliumLabels()
		}
	}
	return nil
}

// entity adds whom the name of an entity stands for.
func (c *compiler) entity(rule *compiledRule, spec *ciliumSpec, field, entity string) {
	wanted := []string{entity}
	if entity == "cluster" {
		wanted = []string{"host", "remote-node", "kube-apiserver"}
		rule.peers = append(rule.peers, c.identities...)
	}
	found := entity == "cluster"
	for number, labels := range c.others() {
		for _, name := range wanted {
			if _, has := labels[sourcedKey{sourceReserved, name}]; has {
				rule.numbers = append(rule.numbers, number)
				found = true
			}
		}
	}
	if slices.Contains(wanted, "kube-apiserver") {
		c.checkAPIServers(spec.object, field)
	}
	if !found {
		c.warn(spec.object, field, "nobody is %s here: the entry has no effect", entity)
	}
}

// apiServers are the addresses behind the service default/kubernetes.
func (c *compiler) apiServers() map[netip.Addr]bool {
	addrs := map[netip.Addr]bool{}
	add := func(slice *discoveryv1.EndpointSlice) {
		for _, addr := range addressesOf(slice) {
			addrs[addr] = true
		}
	}
	if c.kept != nil && c.kept.slicesOf != nil {
		for key := range c.kept.slicesOf[apiService] {
			add(c.objs.EndpointSlices[key])
		}
		return addrs
	}
	for _, slice := range c.objs.EndpointSlices {
		if manifest.ServiceOf(slice) == apiService {
			add(slice)
		}
	}
	return addrs
}

func addressesOf(slice *discoveryv1.EndpointSlice) []netip.Addr {
	var addrs []netip.Addr
	for _, endpoint := range slice.Endpoints {
		for _, text := range endpoint.Addresses {
			if addr, err := manifest.ParseLegacyAddr(text); err == nil {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// checkAPIServers refuses what is not supported yet.
func (c *compiler) checkAPIServers(object metav1.Object, field string) {
	for _, addr := range slices.SortedFunc(maps.Keys(c.apiServers()), netip.Addr.Compare) {
		if pod := c.podAt[addr]; pod != nil {
			c.fail(object, field, "kube-apiserver is at %s, the address of Pod %s, which is not supported yet: select the pod by labels", addr, manifest.NameOf(pod))
		}
	}
}

// ciliumService adds who serves the services that an entry of toServices
// names: pods by the services' selectors, and the addresses that are listed for
// a service without selector.
func (c *compiler) ciliumService(rule *compiledRule, spec *ciliumSpec, field string, wanted *manifest.CiliumService) {
	found := false
	for _, svc := range c.servicesOf(wanted) {
		found = true
		for _, id := range c.identities {
			if len(svc.Spec.Selector) > 0 && id.namespace == manifest.NamespaceOr(svc.Namespace) && hasAll(id.podLabels, svc.Spec.Selector) {
				rule.peers = append(rule.peers, id)
			}
		}
	}
	for _, addr := range c.servedOutside(wanted) {
		if number, known := c.blocks[netip.PrefixFrom(addr, addr.BitLen())]; known {
			rule.numbers = append(rule.numbers, number)
		}
	}
	if !found {
		c.warn(spec.object, field, "matches no service: the entry has no effect until there is one")
	}
}

func hasAll(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, found := labels[key]; !found || have != value {
			return false
		}
	}
	return true
}

func (c *compiler) servicesOf(wanted *manifest.CiliumService) []*corev1.Service {
	var found []*corev1.Service
	for _, svc := range manifest.InOrder(c.objs.Services) {
		ns := manifest.NamespaceOr(svc.Namespace)
		if by := wanted.ByName; by != nil && by.ServiceName == svc.Name && (by.Namespace == "" || by.Namespace == ns) {
			found = append(found, svc)
		} else if by := wanted.BySelector; by != nil && (by.Namespace == "" || by.Namespace == ns) {
			if selector, err := metav1.LabelSelectorAsSelector(&by.Selector); err == nil && selector.Matches(k8slabels.Set(svc.Labels)) {
				found = append(found, svc)
			}
		}
	}
	return found
}

// servedOutside are addresses behind services that have no selector.
func (c *compiler) servedOutside(wanted *manifest.CiliumService) []netip.Addr {
	var addrs []netip.Addr
	for _, svc := range c.servicesOf(wanted) {
		if len(svc.Spec.Selector) > 0 {
			continue
		}
		for _, slice := range c.objs.EndpointSlices {
			if manifest.ServiceOf(slice) == manifest.NameOf(svc) {
				addrs = append(addrs, addressesOf(slice)...)
			}
		}
	}
	return addrs
}
