// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Warning is something that compiles and is hardly meant.
type Warning struct {
	Object  model.Ref
	Field   string // path, as in spec.ports[0].port
	Problem string // with the remedy
	// Lost is whether the field is not in force, since what it claims is
	// another's, or not for its author to claim; the rest of the object is.
	Lost bool
	// Ignored is whether the field is not in force, and takes nothing from
	// anybody: it says nothing here, or another object does what it asks for.
	Ignored bool
}

func (w Warning) String() string { return w.Object.String() + ": " + w.Field + ": " + w.Problem }

// All makes the State of one node. EndpointSlices are taken as they are:
// where no controller writes them, give it DeriveEndpointSlices(objs).
//
// Objects that are invalid, contradict each other or ask for what is not
// supported yet are errors, all of them joined, most as *FieldError; the State
// is then nil. What matches nothing is a Warning, and so is a field that claims
// an address or a port to which another object has a better claim. What exceeds
// local.Budgets is an error of the objects that are to be left out: without
// them, and with policies isolated (LeaveOut), the others compile.
func All(objs *manifest.Objects, node string, local model.Local) (*model.State, []Warning, error) {
	c := newCompiler(objs, node, local)
	state, err := c.compile()
	return state, c.warnings, err
}

func newCompiler(objs *manifest.Objects, node string, local model.Local) *compiler {
	c := &compiler{
		host: &identity{number: model.IdentityHost}, objs: objs, node: node, local: local, namespaces: map[string]labels.Set{},
		refused: map[model.Ref]bool{}, owners: make(map[netip.Addr]owner, len(objs.Services)+len(objs.Pods)), podAt: make(map[netip.Addr]*corev1.Pod, len(objs.Pods)), workloadAt: map[netip.Addr]*manifest.Workload{}, nodeAt: map[netip.Addr]*corev1.Node{}, doubted: map[netip.Addr]bool{}, vouchers: map[*corev1.Node][]vouched{}, losses: map[netip.Addr][]toldOf{},
	}
	if c.local.Identities == nil {
		c.local.Identities = model.NewAllocator()
	}
	return c
}

func (c *compiler) compile() (*model.State, error) {
	if err := errors.Join(c.local.Options.Validate(), c.local.Budgets.Validate()); err != nil {
		c.errs = append(c.errs, err)
	}
	c.servicesInOrder, c.slicesInOrder = manifest.InOrder(c.objs.Services), manifest.InOrder(c.objs.EndpointSlices)
	defer func() { c.servicesInOrder, c.slicesInOrder = nil, nil }() // they are others later
	c.validate()
	c.readNamespaces()
	c.readOwners()
	if len(c.errs) > 0 {
		// Services and policies of pods that are not understood would only
		// add errors that follow from these.
		return nil, errors.Join(c.errs...)
	}
	c.allocateIdentities()
	c.nameBlocks()
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...) // there is no room to read them
	}
	c.readBlocks()
	c.readMembers()
	serve := c.services
	if c.kept != nil {
		serve = c.kept.services
	}
	c.before = len(c.warnings)
	services := serve()
	state := &model.State{
		Node:      c.self,
		Services:  model.ListOf(services...),
		Addresses: model.ListOf(c.addresses()...),
	}
	state.Loopback, state.Peers = c.loopback, c.otherNodes()
	state.ServiceAddresses, state.AnswersPings = c.serviceAddresses(), c.local.Options.ServicePings != model.PingsDropped
	judge := c.policies
	if c.kept != nil {
		judge = c.kept.policies
	}
	policies := judge()
	if len(c.errs) == 0 {
		c.after = len(c.warnings)
		state.Endpoints, state.RuleSets, state.Node.RuleSet = c.endpoints(policies)
	}
	if len(c.errs) == 0 {
		c.fits(state, policies)
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return state, nil
}

// compiler is one compile in progress.
type compiler struct {
	objs  *manifest.Objects
	node  string
	local model.Local

	blocks        map[netip.Prefix]model.Identity  // that policies name
	namers        map[model.Identity]metav1.Object // of these blocks
	blocksInOrder []netip.Prefix
	held          map[string]*block                   // that hold pods and nodes too, by name
	members       map[string][]member                 // of groups that policies name
	numbers       map[netip.Addr]model.Identity       // of pods and nodes
	variants      map[model.Identity][]model.Identity // the numbers of an identity's addresses
	families      familySet                           // of all pods' addresses
	reserved      map[model.Identity]sourcedLabels    // of who is no pod
	self          model.Node
	zone          string                      // of the node
	nodeAt        map[netip.Addr]*corev1.Node // the other nodes by their addresses
	namespaces    map[string]labels.Set
	parties       []*party                   // by name
	locals        []*party                   // of them, those of this node, by name
	listed        model.List[model.Address]  // where parties is no more what there is: the table
	known         map[string]*identity       // of identities, by key
	ignored       []string                   // labels that tell nobody apart
	sets          map[subject]model.RuleSet  // that were made
	podAt         map[netip.Addr]*corev1.Pod // the same by address
	workloadAt    map[netip.Addr]*manifest.Workload
	doubted       map[netip.Addr]bool        // of them, those that are not of their node's podCIDRs
	plugged       map[netip.Addr]*corev1.Pod // whose devices are here
	claiming      []*corev1.Pod              // see claimingPods
	podBlocks     *cover                     // that nodes have for pods
	clusterAt     map[netip.Addr]*corev1.Service
	clusterIPs    span                // in which all of these are
	vouched       map[netip.Addr]bool // addresses that this node's Node lists
	vouchers      map[*corev1.Node][]vouched

	podBlocksOf map[*corev1.Node][]netip.Prefix
	identities  []*identity // by number
	host        *identity   // the node itself, as a subject of policies
	owners      map[netip.Addr]owner

	servicesInOrder []*corev1.Service // until all of it is made
	slicesInOrder   []*discoveryv1.EndpointSlice

	entries           []compiledBackend // room for those of one port
	nodePortAddresses []netip.Addr
	frontends         []model.Service
	loopback          []model.Service // of sockets alone
	bids              []bid
	claims            map[frontendKey]claim

	valid    bool // by themselves, all objects
	warnings []Warning
	before   int    // warnings that come before the services'
	after    int    // and up to the end of the policies'
	bound    *bound // of the state; nil without budgets
	kept     *kept  // nil: nothing is made again from what was made here
	tellings []loss // of the warnings of loseOnce, in their order
	errs     []error
	told     map[loss]bool // once

	// Where it is kept, what was told of addresses, one by one, and of what is not
	// made again alone: this node and the networks of pods, and options.
	losses                    map[netip.Addr][]toldOf
	toldOfSelf, toldOfOptions []Warning
	crossed                   bool // networks of pods overlap, or hold addresses of nodes

	named   map[netip.Prefix]metav1.Object // the policy whose block it is
	authors map[netip.Addr]metav1.Object   // the service whose address it is
	refused map[model.Ref]bool             // objects for which a table has no room
}

// party is who has an address of its own: a pod, or a workload.
type party struct {
	name      model.Key
	object    metav1.Object
	pod       *corev1.Pod // the object, if it is one
	key       string      // of a pod of this node, among devices and pods
	addresses []netip.Addr
	local     bool
	identity  *identity
	turn      int // in its crowd
}

func (c *compiler) fail(obj metav1.Object, field, format string, args ...any) {
	c.errs = append(c.errs, &model.FieldError{Object: manifest.RefOf(obj), Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (c *compiler) warn(obj metav1.Object, field, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{Object: manifest.RefOf(obj), Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (c *compiler) validate() {
	validateAll(c, c.objs.Namespaces)
	validateAll(c, c.objs.Nodes)
	validateAll(c, c.objs.Pods)
	validateEach(c, c.servicesInOrder)
	validateEach(c, c.slicesInOrder)
	validateAll(c, c.objs.NetworkPolicies)
	validateAll(c, c.objs.ClusterNetworkPolicies)
	validateAll(c, c.objs.CiliumNetworkPolicies)
	validateAll(c, c.objs.CiliumClusterwideNetworkPolicies)
	validateEach(c, c.objs.WorkloadsInOrder())
}

func validateAll[T metav1.Object](c *compiler, objs map[string]T) {
	validateEach(c, manifest.InOrder(objs))
}

func validateEach[T metav1.Object](c *compiler, all []T) {
	for _, obj := range all {
		if !c.valid {
			for _, err := range manifest.Validate(obj) {
				c.errs = append(c.errs, err)
			}
		}
		before := len(c.warnings)
		if c.warnOfAnnotations(obj); len(c.warnings) > before && c.kept != nil {
			c.kept.ofAnnotations[manifest.RefOf(obj)] = slices.Clone(c.warnings[before:])
		}
	}
}

// readNamespaces keeps the labels of every namespace. Those that every cluster
// has from its birth need not be among the objects. The label with the
// namespace's name is the API server's, and it is there always.
func (c *compiler) readNamespaces() {
	for _, name := range manifest.BornNamespaces() {
		c.namespaces[name] = labelsOfNamespace(name, nil)
	}
	for name, ns := range c.objs.Namespaces {
		c.namespaces[name] = labelsOfNamespace(name, ns)
	}
}

func (c *compiler) requireNamespace(obj metav1.Object) {
	if _, found := c.namespaces[manifest.NamespaceOr(obj.GetNamespace())]; !found {
		c.errs = append(c.errs, noNamespace(obj))
	}
}

// addresses is the table of peers by address.
func (c *compiler) addresses() []model.Address {
	var table []model.Address
	add := func(addr netip.Addr, id model.Identity) { table = append(table, c.addressOf(addr, id)) }
	for _, addr := range append(slices.Clone(c.self.Addresses), c.self.Gateways...) {
		add(addr, model.IdentityHost)
	}
	for addr := range c.nodeAt {
		table = append(table, c.addressOfNode(addr))
	}
	for _, who := range c.parties {
		for _, addr := range who.addresses {
			add(addr, who.identity.number)
		}
	}
	table = append(table, c.blockAddresses()...)
	if holdsMapped(table) {
		table = append(table, worldEntry())
	}
	slices.SortFunc(table, compareAddresses)
	return slices.Compact(table)
}

func compareAddresses(a, b model.Address) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Identity, b.Identity))
}

// addressOf is the entry of one address of an identity.
func (c *compiler) addressOf(addr netip.Addr, id model.Identity) model.Address {
	entry := model.Address{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Identity: c.numbers[addr], Native: c.self.Masquerade != nil}
	if entry.Identity != id {
		entry.Of = id
	}
	return entry
}

// addressOfNode is the entry of an address of another node.
func (c *compiler) addressOfNode(addr netip.Addr) model.Address {
	entry := c.addressOf(addr, model.IdentityRemoteNode)
	entry.Node = true
	return entry
}

// leniency is which denials are only told.
type leniency int

const (
	lenientToNone leniency = iota
	lenientToNamespaced
	lenientToAll
)

// spares is whether what a policy denies is only told.
func (l leniency) spares(p *compiledPolicy) bool {
	return p.isAudited() || l == lenientToAll || l == lenientToNamespaced && !isClusterwide(p.object)
}

// isClusterwide is whether a policy is the whole cluster's, which those who may
// write pods do not decide about.
func isClusterwide(policy metav1.Object) bool {
	switch policy.(type) {
	case *policyv1alpha2.ClusterNetworkPolicy, *manifest.CiliumClusterwideNetworkPolicy:
		return true
	}
	return false
}

// leniencyOf is which denials of an endpoint's policies are only told: all of them
// where its namespace says so, and those of the namespace's own policies where
// the endpoint does. What it says goes before its namespace.
func (c *compiler) leniencyOf(who metav1.Object) leniency {
	believed := c.local.Options.AuditAnnotations
	if believed == model.AuditPolicies || believed == model.AuditOff {
		return lenientToNone
	}
	byPod, podSays, _ := manifest.AuditOf(who.GetAnnotations())
	bySpace := false
	if ns := c.objs.Namespaces[manifest.NamespaceOr(who.GetNamespace())]; ns != nil {
		bySpace, _, _ = manifest.AuditOf(ns.Annotations)
	}
	switch {
	case podSays && !byPod:
		return lenientToNone
	case bySpace:
		return lenientToAll
	case byPod && believed != model.AuditNamespaces:
		return lenientToNamespaced
	}
	return lenientToNone
}

// subject is whom a rule set is for.
type subject struct {
	*identity
	leniency
}

// ruleSetOf makes the rules of a subject, or gives those that were made. It is
// not ok where that is too much to write down.
func (c *compiler) ruleSetOf(who subject, policies []*compiledPolicy, written int) (set model.RuleSet, ok bool) {
	if set, ok = c.sets[who]; ok {
		return set, true
	}
	if !c.mayWrite(who.identity, policies, written) {
		return set, false
	}
	set = c.ruleSet(who.identity, policies, who.leniency)
	c.sets[who] = set
	return set, true
}

// endpoints are those of this node whose device is known, and the rule sets
// that they and the node have.
func (c *compiler) endpoints(policies []*compiledPolicy) (endpoints []model.Endpoint, all []model.RuleSet, ofNode string) {
	if c.sets == nil {
		c.sets = map[subject]model.RuleSet{}
	}
	sets := map[string]model.RuleSet{}
	if slices.ContainsFunc(policies, func(p *compiledPolicy) bool { return p.subjects[c.host] }) {
		set, ok := c.ruleSetOf(subject{c.host, lenientToNone}, policies, 0)
		if !ok {
			return nil, nil, ""
		}
		ofNode, sets[set.Key] = set.Key, set
	}
	bySubject := map[subject]string{}
	written := 0
	for _, local := range c.locals {
		device, known := c.local.Devices[local.name]
		if !known {
			c.warn(local.object, "spec.nodeName", "the pod has no device on node %s: nothing reaches it until it has one", c.node)
			continue
		}
		who := subject{local.identity, c.leniencyOf(local.object)}
		key, made := bySubject[who]
		if !made {
			set, ok := c.ruleSetOf(who, policies, written)
			if !ok {
				break
			}
			key = set.Key
			if _, shared := sets[key]; !shared {
				written += len(set.Rules)
			}
			sets[key], bySubject[who] = set, key
		}
		endpoint := model.Endpoint{Name: local.name, Device: device, Identity: local.identity.number, RuleSet: key}
		for _, addr := range local.addresses {
			if addr.Is4() {
				endpoint.IPv4 = addr
			} else {
				endpoint.IPv6 = addr
			}
		}
		endpoints = append(endpoints, endpoint)
	}
	return endpoints, manifest.InOrder(sets), ofNode
}
