// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
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
	c.warnings = append(before, k.toldOfPolicies()...)
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
	for _, key := range slices.Sorted(maps.Keys(k.ofOwn)) {
		told = append(told, k.ofOwn[key]...)
	}
	return slices.Concat(told, k.ofCilium, k.ofShadows)
}

// takePolicies makes policies again that are others, and those that identities
// concern which came or went, and says whether there were any. It is not ok where
// others have to do with that.
func (i *Incremental) takePolicies(change *change, moved *moves) (judged, ok bool) {
	c, k, people := i.c, i.c.kept, moved.people
	ofCilium, ok := i.takeCilium(change)
	if !ok {
		return false, false
	}
	again, ofCluster := map[string]bool{}, map[string]bool{}
	for key, policy := range change.cluster {
		before := c.objs.ClusterNetworkPolicies[key]
		if before != nil && !standsApart(before) || policy != nil && !standsApart(policy) {
			return false, i.no("a policy of the cluster names networks, nodes, or labels that tell nobody else apart")
		}
		put(c.objs.ClusterNetworkPolicies, key, policy)
		ofCluster[key] = true
	}
	for key, policy := range change.policies {
		before := c.objs.NetworkPolicies[key]
		if before != nil && !i.standsAlone(before) || policy != nil && !i.standsAlone(policy) {
			return false, i.no("a policy names blocks of addresses, labels that tell nobody else apart, or a namespace that is not there")
		}
		put(c.objs.NetworkPolicies, key, policy)
		if k.concerns != nil {
			delete(k.concerns, key)
		}
		if policy != nil {
			again[key] = true
			if k.concerns != nil {
				k.concerns[key] = c.concernOf(policy)
			}
			if at, found := slices.BinarySearch(k.names, key); !found {
				k.names = slices.Insert(k.names, at, key)
			}
			continue
		}
		k.forgetSets(k.own[key])
		delete(k.own, key)
		delete(k.ofOwn, key)
		at, _ := slices.BinarySearch(k.names, key)
		k.names = slices.Delete(k.names, at, at+1)
	}
	for _, id := range people {
		for key := range k.concerned(id) {
			again[key] = true
		}
	}
	for key := range again {
		k.forgetSets(k.own[key])
		k.policy(key)
		c.readDenials(k.own[key])
		k.forgetSets(k.own[key])
	}
	if len(people) > 0 {
		for key := range k.ofAll {
			ofCluster[key] = true
		}
	}
	if len(ofCluster) > 0 {
		k.clusterAgain(ofCluster)
	}
	if ofCilium = ofCilium || len(people) > 0 || i.holdMoved(moved); ofCilium {
		k.ciliumAgain()
	}
	if len(ofCluster) > 0 || ofCilium {
		// A NetworkPolicy has nothing but permissions, and casts no shadows.
		k.ofShadows = k.telling(func() { c.warnOfShadows(slices.Concat(k.cluster, k.cilium)) })
	}
	if len(c.errs) > 0 {
		return false, i.no("a policy is refused")
	}
	return len(again)+len(ofCluster) > 0 || len(change.policies) > 0 || ofCilium, true
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

// standsAlone is whether a policy is neither warned of nor refused by itself,
// and changes nothing in what others mean: it names no addresses, which have
// numbers then, and no label that tells nobody apart until it is named.
func (i *Incremental) standsAlone(policy *networkingv1.NetworkPolicy) bool {
	if _, found := i.c.namespaces[manifest.NamespaceOr(policy.Namespace)]; !found {
		return false
	}
	alone := true
	eachPeer(policy, func(_ model.Direction, peer *networkingv1.NetworkPolicyPeer) { alone = alone && peer.IPBlock == nil })
	return alone && !namesNameless(policy)
}

// standsApart is whether a policy of the cluster changes nothing in what others mean.
func standsApart(policy *policyv1alpha2.ClusterNetworkPolicy) bool {
	for _, rule := range policy.Spec.Egress {
		if slices.ContainsFunc(rule.To, func(peer policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool {
			return peer.Nodes != nil || len(peer.Networks) > 0
		}) {
			return false
		}
	}
	return !namesNameless(policy)
}

// namesNameless is whether a policy names a label that tells nobody apart until a
// policy names it.
func namesNameless(policy metav1.Object) (found bool) {
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
