// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// keptPolicies is what policies were made into. A NetworkPolicy has nothing to do
// with others, so one can be made again alone; so can one of the cluster, and then
// all of these are ordered among each other.
type keptPolicies struct {
	cluster, cilium []*compiledPolicy
	ofAll           map[string]*compiledPolicy // those of cluster, by key
	own             map[string]*compiledPolicy // NetworkPolicies, by key
	names           []string                   // their keys, sorted
	concerns        map[string]*concern        // of them; nil: not read yet

	ofCluster, ofCilium, ofShadows []Warning
	ofPolicies                     []Warning            // all of these, in their order
	ofOwn, ofEach                  map[string][]Warning // by key, of own and of ofAll
}

// policies makes all policies, and keeps what they are made of.
func (k *kept) policies() []*compiledPolicy {
	c := k.c
	before := c.warnings
	k.ofOwn, k.own = map[string][]Warning{}, map[string]*compiledPolicy{}
	k.names = slices.Sorted(maps.Keys(c.objs.NetworkPolicies))
	k.ofAll, k.ofEach = map[string]*compiledPolicy{}, map[string][]Warning{}
	for _, key := range slices.Sorted(maps.Keys(c.objs.ClusterNetworkPolicies)) { // errors are in their order
		k.clusterPolicy(key)
	}
	k.order()
	for _, key := range k.names {
		c.requireNamespace(c.objs.NetworkPolicies[key])
		k.policy(key)
	}
	k.ofCilium = k.telling(func() { k.cilium = c.ciliumPolicies() })
	all := k.policiesInOrder()
	for _, p := range all {
		c.readDenials(p)
	}
	k.ofShadows = nil
	if len(c.errs) == 0 {
		k.ofShadows = k.telling(func() { c.warnOfShadows(all) })
	}
	k.ofPolicies = k.toldOfPolicies()
	c.warnings = append(before, k.ofPolicies...)
	return all
}

// telling gives what is warned of meanwhile.
func (k *kept) telling(part func()) []Warning {
	k.c.warnings = nil
	part()
	return k.c.warnings
}

// policy makes one NetworkPolicy again.
func (k *kept) policy(key string) {
	keep(k.ofOwn, key, k.telling(func() { k.own[key] = k.c.networkPolicy(k.c.objs.NetworkPolicies[key]) }))
}

// clusterPolicy makes one of the cluster's policies again, or takes out what there
// was of one that is gone. The policies are to be ordered then.
func (k *kept) clusterPolicy(key string) {
	object := k.c.objs.ClusterNetworkPolicies[key]
	if object == nil {
		delete(k.ofAll, key)
		delete(k.ofEach, key)
		return
	}
	keep(k.ofEach, key, k.telling(func() { k.ofAll[key] = k.c.clusterPolicy(object) }))
}

// order has the cluster's policies in their turn.
func (k *kept) order() {
	var told []Warning
	for _, key := range slices.Sorted(maps.Keys(k.ofEach)) {
		told = append(told, k.ofEach[key]...)
	}
	k.ofCluster = append(told, k.telling(func() { k.cluster = k.c.inTurn(manifest.InOrder(k.ofAll)) })...)
}

func (k *kept) policiesInOrder() []*compiledPolicy {
	all := slices.Clone(k.cluster)
	for _, key := range k.names {
		all = append(all, k.own[key])
	}
	return append(all, k.cilium...)
}

func (k *kept) toldOfPolicies() []Warning {
	told := slices.Clone(k.ofCluster)
	for _, key := range k.names {
		told = append(told, k.ofOwn[key]...)
	}
	return slices.Concat(told, k.ofCilium, k.ofShadows)
}

// again is which policies are to be made again.
type again struct {
	own, ofCluster map[string]bool // by key
	ofCilium, gone bool
	servers        bool // the API's are others
	nameless       bool // one names a label that tells nobody apart until it is named
	blocks         blockChange
}

func newAgain() *again {
	return &again{own: map[string]bool{}, ofCluster: map[string]bool{}, blocks: blockChange{turned: map[string]*block{}, named: map[netip.Prefix]bool{}}}
}

// takePolicies makes the compiler know policies that have changed, and counts the
// blocks that they name. It is not ok where others have to do with that.
func (i *Incremental) takePolicies(change *change, a *again, m *moves) bool {
	c, k := i.c, i.c.kept
	for key, policy := range change.cluster {
		before := c.objs.ClusterNetworkPolicies[key]
		m.regroupNodes = m.regroupNodes || namesNodes(before) || namesNodes(policy)
		a.nameless = a.nameless || namesNameless(before) || namesNameless(policy)
		put(c.objs.ClusterNetworkPolicies, key, policy)
		renameBlocks(i, &a.blocks, before, policy)
		a.ofCluster[key] = true
	}
	for key, policy := range change.policies {
		if policy != nil && !i.hasNamespace(policy, change) {
			return i.no("a policy is of a namespace that is not there")
		}
		before := c.objs.NetworkPolicies[key]
		a.nameless = a.nameless || namesNameless(before) || namesNameless(policy)
		put(c.objs.NetworkPolicies, key, policy)
		renameBlocks(i, &a.blocks, before, policy)
		k.takePolicy(key, policy, a)
	}
	if !i.takeCilium(change, a, m) {
		return false
	}
	if a.nameless && !slices.Equal(ignoredLabels(c.objs), c.ignored) {
		return i.no("a label that tells nobody apart is named by the first policy, or no more")
	}
	return true
}

// hasNamespace is whether a policy's namespace is there.
func (i *Incremental) hasNamespace(policy metav1.Object, change *change) bool {
	space := manifest.NamespaceOr(policy.GetNamespace())
	if ns, changed := change.namespaces[space]; changed {
		return ns != nil || slices.Contains(manifest.BornNamespaces(), space)
	}
	_, found := i.c.namespaces[space]
	return found
}

// takePolicy notes that a NetworkPolicy is another, or gone.
func (k *kept) takePolicy(key string, policy *networkingv1.NetworkPolicy, a *again) {
	if k.concerns != nil {
		if delete(k.concerns, key); policy != nil {
			k.concerns[key] = k.c.concernOf(policy)
		}
	}
	at, found := slices.BinarySearch(k.names, key)
	if policy != nil {
		if a.own[key] = true; !found {
			k.names = slices.Insert(k.names, at, key)
		}
		return
	}
	a.gone = true
	k.forgetSets(k.own[key])
	delete(k.own, key)
	delete(k.ofOwn, key)
	k.names = slices.Delete(k.names, at, at+1)
}

// judge makes policies again that are others, and those that identities concern
// which came or went, and blocks, and says whether there were any.
func (i *Incremental) judge(a *again, m *moves) (judged, ok bool) {
	c, k := i.c, i.c.kept
	if m.blocks || m.variants || m.peers || m.servers || a.servers {
		c.reserved, c.namers = nil, nil
	}
	for _, id := range m.people {
		for key := range k.concerned(id) {
			a.own[key] = true
		}
	}
	for group := range m.groups {
		for key := range k.blocks.naming[group] {
			a.own[key] = true
		}
	}
	for key := range a.own {
		k.forgetSets(k.own[key])
		k.policy(key)
		c.readDenials(k.own[key])
		k.forgetSets(k.own[key])
	}
	for key, policy := range c.objs.ClusterNetworkPolicies {
		if len(m.people) > 0 || (m.blocks || m.nodes || m.variants || len(m.groups) > 0) && (namesNodes(policy) || namesNetworks(policy)) {
			a.ofCluster[key] = true
		}
	}
	if len(a.ofCluster) > 0 {
		k.clusterAgain(a.ofCluster)
	}
	ofCilium := a.ofCilium || c.hasCilium() && (len(m.people) > 0 || m.blocks || m.nodes || m.variants || m.servers || i.holdMoved(m))
	if ofCilium {
		k.ciliumAgain()
	}
	if len(a.ofCluster) > 0 || ofCilium {
		// A NetworkPolicy has nothing but permissions, and casts no shadows.
		k.ofShadows = k.telling(func() { c.warnOfShadows(slices.Concat(k.cluster, k.cilium)) })
	}
	if len(c.errs) > 0 {
		return false, i.no("a policy is refused")
	}
	return len(a.own)+len(a.ofCluster) > 0 || a.gone || ofCilium, true
}

// clusterAgain makes some policies of the cluster again, and orders all: they cast
// shadows on each other.
func (k *kept) clusterAgain(keys map[string]bool) {
	for key := range keys {
		k.forgetSets(k.ofAll[key])
		k.clusterPolicy(key)
		if p := k.ofAll[key]; p != nil {
			k.c.readDenials(p)
			k.forgetSets(p)
		}
	}
	k.order()
}

// forgetSets has the rules of whom a policy selects be made again.
func (k *kept) forgetSets(p *compiledPolicy) {
	if p == nil {
		return
	}
	for who := range k.c.sets {
		if p.subjects[who.identity] {
			delete(k.c.sets, who)
		}
	}
}

// namesNodes is whether a policy of the cluster tells nodes apart.
func namesNodes(policy *policyv1alpha2.ClusterNetworkPolicy) bool {
	return hasPeer(policy, func(peer *policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool { return peer.Nodes != nil })
}

// namesNetworks is whether it names blocks of addresses.
func namesNetworks(policy *policyv1alpha2.ClusterNetworkPolicy) bool {
	return hasPeer(policy, func(peer *policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool { return len(peer.Networks) > 0 })
}

func hasPeer(policy *policyv1alpha2.ClusterNetworkPolicy, is func(*policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool) bool {
	if policy == nil {
		return false
	}
	for i := range policy.Spec.Egress {
		for j := range policy.Spec.Egress[i].To {
			if is(&policy.Spec.Egress[i].To[j]) {
				return true
			}
		}
	}
	return false
}

// namesNameless is whether a policy names a label that tells nobody apart until a
// policy names it.
func namesNameless(policy any) (found bool) {
	eachText(reflect.ValueOf(policy), func(text string) {
		found = found || slices.ContainsFunc(namelessLabels(), func(key string) bool { return strings.Contains(text, key) })
	})
	return found
}

func eachPeer(policy *networkingv1.NetworkPolicy, each func(model.Direction, *networkingv1.NetworkPolicyPeer)) {
	for _, rule := range policy.Spec.Ingress {
		for n := range rule.From {
			each(model.Ingress, &rule.From[n])
		}
	}
	for _, rule := range policy.Spec.Egress {
		for n := range rule.To {
			each(model.Egress, &rule.To[n])
		}
	}
}

// concern is whose coming and going a policy has to do with.
type concern struct {
	everybody bool
	whom      []whom
}

// whom is some pods by their labels: of one namespace, or of those chosen.
type whom struct {
	namespace  string
	namespaces labels.Selector // nil: the one
	pods       labels.Selector
}

func (w *whom) holds(id *identity) bool {
	if w.namespaces == nil && w.namespace != id.namespace {
		return false
	}
	return (w.namespaces == nil || w.namespaces.Matches(id.namespaceLabels)) && w.pods.Matches(id.podLabels)
}

func (c *concern) has(id *identity) bool {
	return c.everybody || slices.ContainsFunc(c.whom, func(w whom) bool { return w.holds(id) })
}

// concernOf reads whom a policy selects.
func (c *compiler) concernOf(policy *networkingv1.NetworkPolicy) *concern {
	made := &concern{}
	add := func(namespaces, pods *metav1.LabelSelector) {
		w := whom{namespace: manifest.NamespaceOr(policy.Namespace), pods: labels.Everything()}
		if namespaces != nil {
			w.namespaces = c.selector(policy, "", namespaces)
		}
		if pods != nil {
			w.pods = c.selector(policy, "", pods)
		}
		made.whom = append(made.whom, w)
	}
	add(nil, &policy.Spec.PodSelector)
	eachPeer(policy, func(_ model.Direction, peer *networkingv1.NetworkPolicyPeer) {
		if peer.IPBlock == nil {
			add(peer.NamespaceSelector, peer.PodSelector)
		}
	})
	for _, rule := range policy.Spec.Egress {
		for _, port := range rule.Ports {
			// Names of ports are asked of everybody who may be a peer.
			made.everybody = made.everybody || portRangeOf("", port).name != ""
		}
	}
	return made
}

// concerned are the policies that an identity has to do with.
func (k *kept) concerned(id *identity) map[string]bool {
	if k.concerns == nil {
		k.concerns = map[string]*concern{}
		for _, key := range k.names {
			k.concerns[key] = k.c.concernOf(k.c.objs.NetworkPolicies[key])
		}
	}
	found := map[string]bool{}
	for key, concern := range k.concerns {
		if concern.has(id) {
			found[key] = true
		}
	}
	return found
}
