// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Warning is something that compiles and is hardly meant.
type Warning FieldError

func (w Warning) String() string { return w.Object + ": " + w.Field + ": " + w.Problem }

// Compile makes the State of one node. EndpointSlices are taken as they are:
// where no controller writes them, give it DeriveEndpointSlices(objs).
//
// Objects that are invalid, contradict each other or ask for what is not
// supported yet are errors, all of them joined, most as *FieldError; the State
// is then nil. What matches nothing is a Warning.
func Compile(objs *Objects, node string, local Local) (*State, []Warning, error) {
	c := &compiler{host: &identity{number: IdentityHost}, objs: objs, node: node, local: local, namespaces: map[string]labels.Set{}, owners: map[netip.Addr]string{}, podAt: map[netip.Addr]*corev1.Pod{}, nodeAt: map[netip.Addr]*corev1.Node{}}
	if c.local.Identities == nil {
		c.local.Identities = NewAllocator()
	}
	if err := local.Options.Validate(); err != nil {
		c.errs = append(c.errs, err)
	}
	c.validate()
	c.readNamespaces()
	c.readNodes()
	c.readPods()
	if len(c.errs) > 0 {
		// Services and policies of pods that are not understood would only
		// add errors that follow from these.
		return nil, c.warnings, errors.Join(c.errs...)
	}
	c.allocateIdentities()
	c.readBlocks()
	c.readMembers()
	state := &State{
		Node:      c.self,
		Services:  c.services(),
		Addresses: c.addresses(),
	}
	state.Loopback = c.loopback
	state.Endpoints, state.RuleSets, state.Node.RuleSet = c.endpoints(c.policies())
	if len(c.errs) > 0 {
		return nil, c.warnings, errors.Join(c.errs...)
	}
	return state, c.warnings, nil
}

// compiler is one compile in progress.
type compiler struct {
	objs  *Objects
	node  string
	local Local

	blocks     map[netip.Prefix]Identity  // that policies name
	held       map[string]*block          // that hold pods and nodes too, by name
	members    map[string][]member        // of groups that policies name
	numbers    map[netip.Addr]Identity    // of pods and nodes
	variants   map[Identity][]Identity    // the numbers of an identity's addresses
	families   familySet                  // of all pods' addresses
	reserved   map[Identity]sourcedLabels // of who is no pod
	self       Node
	zone       string                      // of the node
	remote     []netip.Addr                // addresses of the other nodes
	nodeAt     map[netip.Addr]*corev1.Node // the same
	namespaces map[string]labels.Set
	pods       []*compiledPod             // by name
	podAt      map[netip.Addr]*corev1.Pod // the same by address
	identities []*identity                // by number
	host       *identity                  // the node itself, as a subject of policies
	owners     map[netip.Addr]string

	nodePortAddresses []netip.Addr
	frontends         []Service
	loopback          []Service // of sockets alone
	claims            map[frontendKey]claim

	warnings []Warning
	errs     []error
	failed   map[string]bool // what has been complained of once
}

// compiledPod is a pod that has an address of its own.
type compiledPod struct {
	name      string
	object    *corev1.Pod
	addresses []netip.Addr
	local     bool
	identity  *identity
}

func (c *compiler) fail(obj metav1.Object, field, format string, args ...any) {
	c.errs = append(c.errs, &FieldError{Object: titleOf(obj), Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (c *compiler) warn(obj metav1.Object, field, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{Object: titleOf(obj), Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (c *compiler) validate() {
	validateAll(c, c.objs.Namespaces)
	validateAll(c, c.objs.Nodes)
	validateAll(c, c.objs.Pods)
	validateAll(c, c.objs.Services)
	validateAll(c, c.objs.EndpointSlices)
	validateAll(c, c.objs.NetworkPolicies)
	validateAll(c, c.objs.ClusterNetworkPolicies)
	validateAll(c, c.objs.CiliumNetworkPolicies)
	validateAll(c, c.objs.CiliumClusterwideNetworkPolicies)
}

func validateAll[T metav1.Object](c *compiler, objs map[string]T) {
	for _, obj := range inOrder(objs) {
		for _, err := range Validate(obj) {
			c.errs = append(c.errs, err)
		}
		c.warnOfAnnotations(obj)
	}
}

// readNamespaces keeps the labels of every namespace. Those that every cluster
// has from its birth need not be among the objects. The label with the
// namespace's name is the API server's, and it is there always.
func (c *compiler) readNamespaces() {
	for _, name := range bornNamespaces() {
		c.namespaces[name] = labels.Set{corev1.LabelMetadataName: name}
	}
	for name, ns := range c.objs.Namespaces {
		set := labels.Set{}
		maps.Copy(set, ns.Labels)
		set[corev1.LabelMetadataName] = name
		c.namespaces[name] = set
	}
}

// bornNamespaces are there without being among the objects.
func bornNamespaces() []string {
	return []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}
}

func (c *compiler) requireNamespace(obj metav1.Object) {
	ns := namespaceOr(obj.GetNamespace())
	if _, found := c.namespaces[ns]; !found {
		c.fail(obj, "metadata.namespace", "there is no namespace %s: add the Namespace", ns)
	}
}

// own records who has an address, and complains when somebody had it before.
func (c *compiler) own(obj metav1.Object, field string, addr netip.Addr) bool {
	title := titleOf(obj)
	if other, taken := c.owners[addr]; taken && other != title {
		c.fail(obj, field, "%s is the address of %s too: give one of them another", addr, other)
		return false
	}
	c.owners[addr] = title
	return true
}

func (c *compiler) readNodes() {
	c.self = Node{Name: c.node, Gateways: slices.Clone(c.local.Gateways), Uplinks: slices.Clone(c.local.Uplinks)}
	for _, gateway := range c.local.Gateways {
		c.owners[gateway] = "the pods' gateway"
	}
	for name, node := range c.objs.Nodes {
		for i, a := range node.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			if err != nil || a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
				continue
			}
			// A node may have one address as internal and external.
			c.own(node, fmt.Sprintf("status.addresses[%d]", i), addr)
			switch {
			case name != c.node:
				c.remote = append(c.remote, addr)
				c.nodeAt[addr] = node
			case !slices.Contains(c.self.Addresses, addr):
				c.self.Addresses = append(c.self.Addresses, addr)
			}
		}
	}
	c.readDeviceGateways()
	self, found := c.objs.Nodes[c.node]
	if found {
		c.zone = self.Labels[corev1.LabelTopologyZone]
	} else if len(c.objs.Nodes) > 0 {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: it is not among the nodes: add the Node, or name one of them: %w", c.node, ErrNotFound))
	}
	c.nodePortAddresses = c.chooseNodePortAddresses()
	c.self.Masquerade = c.masquerade()
	if c.self.Masquerade != nil {
		c.self.Tunnel = c.local.Options.tunnel()
	}
}

// readDeviceGateways adds the gateways of single pods: they are the node, too.
func (c *compiler) readDeviceGateways() {
	for _, name := range slices.Sorted(maps.Keys(c.local.Devices)) {
		for _, gateway := range c.local.Devices[name].Gateways {
			if slices.Contains(c.self.Gateways, gateway) || slices.Contains(c.self.Addresses, gateway) {
				continue
			}
			c.self.Gateways = append(c.self.Gateways, gateway)
			c.owners[gateway] = "the gateway of Pod " + name
		}
	}
}

func (c *compiler) readPods() {
	for _, object := range inOrder(c.objs.Pods) {
		c.requireNamespace(object)
		if isFinished(object) || object.Spec.HostNetwork {
			// A finished pod's address may be another's by now; one on the
			// host's network has none of its own.
			continue
		}
		pod := &compiledPod{name: nameOf(object), object: object, addresses: podAddresses(object)}
		if len(pod.addresses) == 0 {
			continue
		}
		for i, addr := range pod.addresses {
			c.own(object, fmt.Sprintf("status.podIPs[%d]", i), addr)
			c.podAt[addr] = object
		}
		pod.local = object.Spec.NodeName == c.node
		if object.Spec.NodeName == "" {
			pod.local = len(c.objs.Nodes) <= 1
			if !pod.local {
				c.fail(object, "spec.nodeName", "is empty, and there are %d nodes: name the pod's", len(c.objs.Nodes))
			}
		}
		c.pods = append(c.pods, pod)
	}
}

// addresses is the table of peers by address.
func (c *compiler) addresses() []Address {
	var table []Address
	add := func(addr netip.Addr, id Identity) {
		entry := Address{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Identity: c.numbers[addr], Native: c.self.Masquerade != nil}
		if entry.Identity != id {
			entry.Of = id
		}
		table = append(table, entry)
	}
	for _, addr := range append(slices.Clone(c.self.Addresses), c.self.Gateways...) {
		add(addr, IdentityHost)
	}
	for _, addr := range c.remote {
		add(addr, IdentityRemoteNode)
		table[len(table)-1].Node = true
	}
	for _, pod := range c.pods {
		for _, addr := range pod.addresses {
			add(addr, pod.identity.number)
		}
	}
	table = append(table, c.blockAddresses()...)
	if holdsMapped(table) {
		table = append(table, Address{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Identity: IdentityWorld})
	}
	slices.SortFunc(table, func(a, b Address) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Identity, b.Identity))
	})
	return slices.Compact(table)
}

// audits is whether denials of a pod's policies are only told.
func (c *compiler) audits(pod *corev1.Pod) bool {
	audit, found, _ := auditOf(pod.Annotations)
	if ns := c.objs.Namespaces[namespaceOr(pod.Namespace)]; !found && ns != nil {
		audit, _, _ = auditOf(ns.Annotations)
	}
	return audit
}

// endpoints are the pods of this node whose device is known, and the rule sets
// that they and the node have.
func (c *compiler) endpoints(policies []*compiledPolicy) (endpoints []Endpoint, all []RuleSet, ofNode string) {
	sets := map[string]RuleSet{}
	if slices.ContainsFunc(policies, func(p *compiledPolicy) bool { return p.subjects[c.host] }) {
		set := c.ruleSet(c.host, policies, false)
		ofNode, sets[set.Key] = set.Key, set
	}
	type subject struct {
		*identity
		audit bool
	}
	bySubject := map[subject]string{}
	for _, pod := range c.pods {
		if !pod.local {
			continue
		}
		device, known := c.local.Devices[pod.name]
		if !known {
			c.warn(pod.object, "spec.nodeName", "the pod has no device on node %s: nothing reaches it until it has one", c.node)
			continue
		}
		who := subject{pod.identity, c.audits(pod.object)}
		key, made := bySubject[who]
		if !made {
			set := c.ruleSet(pod.identity, policies, who.audit)
			key = set.Key
			sets[key], bySubject[who] = set, key
		}
		endpoint := Endpoint{Name: pod.name, Device: device, Identity: pod.identity.number, RuleSet: key}
		for _, addr := range pod.addresses {
			if addr.Is4() {
				endpoint.IPv4 = addr
			} else {
				endpoint.IPv6 = addr
			}
		}
		endpoints = append(endpoints, endpoint)
	}
	return endpoints, inOrder(sets), ofNode
}
