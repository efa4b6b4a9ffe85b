// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	strictjson "sigs.k8s.io/json"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

// Isolate puts a policy that allows nothing in the place of one that cannot be
// kept, so that what it would have stopped is not let through meanwhile. It has
// the name of the other, selects the same pods, and speaks of the same
// directions; where the other could not have stopped anything it stops nothing.
//
// raw is the refused object as JSON, of which any part may be missing or wrong: a policy
// of a namespace whose selector cannot be read isolates the whole namespace, a
// cluster-wide one isolates nobody, and no policy isolates a node, which could
// not be mended then.
//
// told says for people, in one sentence that begins small, what holds until
// the policy is mended. It is empty, and nothing is changed, if the object is no
// policy. What is put in compiles among any objects that do so without it.
func (o *Objects) Isolate(refused model.Ref, raw []byte) (told string) {
	r := &refusal{objects: o, root: readTree(raw), meta: metav1.ObjectMeta{Namespace: refused.Namespace, Name: refused.Name}}
	r.keep(AnnotationAudit, "true")
	r.keep(AnnotationDeniedIngress, string(model.DenialDrop), string(model.DenialRefuse))
	r.keep(AnnotationDeniedEgress, string(model.DenialDrop), string(model.DenialRefuse))
	switch refused.Kind {
	case "NetworkPolicy":
		return r.networkPolicy()
	case "ClusterNetworkPolicy":
		return r.clusterPolicy()
	case "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy":
		return r.ciliumPolicy(refused.Kind == "CiliumClusterwideNetworkPolicy")
	}
	return ""
}

// keep has what stands in for the object say what an annotation of it says, where
// that is one of some values.
func (r *refusal) keep(key string, values ...string) {
	text, _ := r.root.at("metadata", "annotations", key).value.(string)
	if !slices.Contains(values, text) {
		return
	}
	if r.meta.Annotations == nil {
		r.meta.Annotations = map[string]string{}
	}
	r.meta.Annotations[key] = text
}

// LeaveOut takes out an object that is among the others and cannot be kept, and
// isolates the pods of a policy, of which it tells as Isolate does. found is
// whether there is an object of this name.
func (o *Objects) LeaveOut(refused model.Ref) (told string, found bool) {
	object := o.Find(refused)
	if object == nil {
		return "", false
	}
	raw, err := json.Marshal(object)
	if err != nil {
		raw = nil // as of one of which nothing can be read
	}
	o.Remove(refused)
	return o.Isolate(refused, raw), true
}

// StandIn gives what LeaveOut would put in the place of an object that cannot be
// kept, and tell of it; nil where that is nothing. It counts as a stand-in for o,
// which stays as it is.
func (o *Objects) StandIn(refused metav1.Object) (policy metav1.Object, told string) {
	alone := &Objects{
		Namespaces: o.Namespaces, NetworkPolicies: map[string]*networkingv1.NetworkPolicy{},
		ClusterNetworkPolicies: map[string]*policyv1alpha2.ClusterNetworkPolicy{},
		CiliumNetworkPolicies:  map[string]*CiliumNetworkPolicy{}, CiliumClusterwideNetworkPolicies: map[string]*CiliumClusterwideNetworkPolicy{},
	}
	raw, err := json.Marshal(refused)
	if err != nil {
		raw = nil // as of one of which nothing can be read
	}
	if told = alone.Isolate(RefOf(refused), raw); told == "" {
		return nil, "" // it is no policy
	}
	if policy = alone.Find(RefOf(refused)); policy != nil {
		o.MarkStandIn(policy)
	}
	return policy, told
}

// What is told of a policy that isolates nobody.
const (
	toldHarmless   = "it is not in force, and would have stopped nothing"
	toldUnreadable = "it is not in force and isolates nobody until it is mended, since whom it selects cannot be read and may be everybody"
	toldNode       = "it is not in force on nodes until it is mended, since a node that is cut off could not be mended"
	toldNowhere    = "it is not in force, and its namespace is not there"
	toldNameless   = "it is not in force and isolates nobody until it is mended, since nothing can be kept under its name"
)

// refusal is a policy that was refused, and what is put in its place.
type refusal struct {
	objects *Objects
	root    tree
	meta    metav1.ObjectMeta
}

// put puts a policy in if it can be kept, and gives what is told of it then.
func (r *refusal) put(policy metav1.Object, told string) string {
	if len(Validate(policy)) > 0 {
		return toldNameless
	}
	// Upsert knows all kinds of policies.
	_ = r.objects.Upsert(policy)
	r.objects.MarkStandIn(policy)
	return told
}

// MarkStandIn says that a policy is in the place of one that cannot be kept.
func (o *Objects) MarkStandIn(policy metav1.Object) {
	if o.standIns == nil {
		o.standIns = map[model.Ref]metav1.Object{}
	}
	o.standIns[RefOf(policy)] = policy
}

// IsStandIn is whether an object is in the place of one that cannot be kept. It is
// not refused for want of room in its turn: that would lift the policy.
func (o *Objects) IsStandIn(object metav1.Object) bool { return o.standIns[RefOf(object)] == object }

// hasNamespace is whether there can be pods of the policy's namespace. A policy
// of another would be refused again.
func (r *refusal) hasNamespace() bool {
	namespace := NamespaceOr(r.meta.Namespace)
	return r.objects.Namespaces[namespace] != nil || slices.Contains(BornNamespaces(), namespace)
}

// isolated tells of directions, one of which there is at least. readable is
// whether it is known whom the policy selects.
func (r *refusal) isolated(readable bool, directions map[model.Direction]bool) string {
	traffic := "ingress and egress"
	switch {
	case !directions[model.Egress]:
		traffic = "ingress"
	case !directions[model.Ingress]:
		traffic = "egress"
	}
	if !readable {
		return fmt.Sprintf("all pods of namespace %s are isolated for %s until it is mended, since whom it selects cannot be read", NamespaceOr(r.meta.Namespace), traffic)
	}
	return fmt.Sprintf("the pods that it selects are isolated for %s until it is mended", traffic)
}

// tree is a part of an object of which it is not known whether it is what it
// should be.
type tree struct {
	value any // nil: it is not there, or null
}

func readTree(raw []byte) tree {
	var object map[string]any
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(raw, &object); err != nil || object == nil {
		return tree{}
	}
	return tree{object}
}

func (t tree) there() bool { return t.value != nil }

// at goes down by keys.
func (t tree) at(keys ...string) tree {
	for _, key := range keys {
		fields, _ := t.value.(map[string]any)
		t = tree{fields[key]}
	}
	return t
}

// list gives the entries; known is whether it is a list, or is not there.
func (t tree) list() (entries []tree, known bool) {
	values, known := t.value.([]any)
	for _, value := range values {
		entries = append(entries, tree{value})
	}
	return entries, known || !t.there()
}

// some is whether a list has an entry, or is none and may mean any.
func (t tree) some() bool {
	entries, known := t.list()
	return !known || len(entries) > 0
}

// knows is whether t is an object with no other keys than these. Of another
// key it is not known what it asks for: it may be a direction.
func (t tree) knows(keys ...string) bool {
	fields, isObject := t.value.(map[string]any)
	for key := range fields {
		if !slices.Contains(keys, key) {
			return false
		}
	}
	return isObject
}

// selector reads a selector, if it is one that check does not complain of.
func (t tree) selector(check func(*validator, string, *metav1.LabelSelector)) (*metav1.LabelSelector, bool) {
	text, err := json.Marshal(t.value)
	if err != nil || !t.there() {
		return nil, false
	}
	selector := &metav1.LabelSelector{}
	strict, err := strictjson.UnmarshalStrict(text, selector)
	if err != nil || len(strict) > 0 {
		return nil, false
	}
	v := &validator{}
	check(v, "", selector)
	return selector, len(v.errs) == 0
}

// networkPolicy: an object without a spec selects all pods of its namespace.
func (r *refusal) networkPolicy() string {
	if !r.hasNamespace() {
		return toldNowhere
	}
	spec := r.root.at("spec")
	if r.root.there() && !spec.there() {
		spec = tree{map[string]any{}}
	}
	subject := spec.at("podSelector")
	if _, isObject := spec.value.(map[string]any); isObject && !subject.there() {
		subject = tree{map[string]any{}}
	}
	selector, readable := subject.selector((*validator).selector)
	if !readable {
		selector = &metav1.LabelSelector{}
	}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: r.meta}
	policy.Spec.PodSelector = *selector
	policy.Spec.PolicyTypes = policyTypesOf(spec)
	return r.put(policy, r.isolated(readable, DirectionsOf(policy)))
}

// policyTypesOf are the directions that a policy speaks of, and both where
// that cannot be read.
func policyTypesOf(spec tree) []networkingv1.PolicyType {
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	entries, known := spec.at("policyTypes").list()
	if !known || !spec.knows("podSelector", "ingress", "egress", "policyTypes") {
		return both
	}
	var types []networkingv1.PolicyType
	for _, entry := range entries {
		text, _ := entry.value.(string)
		if !slices.Contains(both, networkingv1.PolicyType(text)) {
			return both
		}
		types = append(types, networkingv1.PolicyType(text))
	}
	switch {
	case len(types) > 0:
		return types
	case spec.at("egress").some():
		return both
	}
	return both[:1]
}

// ciliumPolicy puts in a spec for each of the refused policy's that may stop
// something and selects pods.
func (r *refusal) ciliumPolicy(clusterwide bool) string {
	if !clusterwide && !r.hasNamespace() {
		return toldNowhere
	}
	var specs []*CiliumRule
	all, told := true, []string{}
	directions := map[model.Direction]bool{}
	for _, spec := range ciliumSpecsOf(r.root) {
		closed := closedRule(spec)
		selector, readable := spec.at("endpointSelector").selector((*validator).ciliumSelector)
		switch {
		case closed == nil:
			continue
		case !spec.at("endpointSelector").there() && spec.at("nodeSelector").there():
			told = append(told, toldNode)
			continue
		case !readable && clusterwide:
			told = append(told, toldUnreadable)
			continue
		case !readable:
			selector = &metav1.LabelSelector{}
		}
		all = all && readable
		closed.EndpointSelector = selector
		specs = append(specs, closed)
		directions[model.Ingress] = directions[model.Ingress] || closed.Ingress != nil
		directions[model.Egress] = directions[model.Egress] || closed.Egress != nil
	}
	if len(specs) == 0 {
		if len(told) == 0 {
			return toldHarmless
		}
		return strings.Join(once(told), "; ")
	}
	said := strings.Join(append([]string{r.isolated(all, directions)}, once(told)...), "; ")
	if clusterwide {
		return r.put(&CiliumClusterwideNetworkPolicy{ObjectMeta: r.meta, Specs: specs}, said)
	}
	return r.put(&CiliumNetworkPolicy{ObjectMeta: r.meta, Specs: specs}, said)
}

func once(sentences []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(sentences)))
}

// ciliumSpecsOf gives all specs, and one of which nothing can be read where
// there is none.
func ciliumSpecsOf(root tree) []tree {
	specs, known := root.at("specs").list()
	if !known {
		specs = []tree{{}}
	}
	if spec := root.at("spec"); spec.there() || len(specs) == 0 {
		specs = append([]tree{spec}, specs...)
	}
	return specs
}

// closedRule isolates in the directions in which a spec does, and denies
// everybody where it has denials or requirements, which other policies'
// permissions must not get past. It is nil where the spec stops nothing.
func closedRule(spec tree) *CiliumRule {
	known := spec.knows("endpointSelector", "nodeSelector", "ingress", "ingressDeny", "egress", "egressDeny", "enableDefaultDeny", "description", "labels", "log")
	isolates := func(direction, requires string) (isolates, denies bool) {
		said := spec.at("enableDefaultDeny", direction)
		isolates = spec.at(direction).some() || said.there() || !known
		denies = spec.at(direction + "Deny").some()
		entries, _ := spec.at(direction).list()
		for _, entry := range entries {
			denies = denies || entry.at(requires).there()
		}
		if said.value == false && known {
			isolates = false
		}
		return isolates || denies, denies
	}
	rule := &CiliumRule{}
	everybody := []string{"all"}
	if isolates, denies := isolates("ingress", "fromRequires"); isolates {
		rule.Ingress = []CiliumIngressRule{{}}
		if denies {
			rule.IngressDeny = []CiliumIngressRule{{FromEntities: everybody}}
		}
	}
	if isolates, denies := isolates("egress", "toRequires"); isolates {
		rule.Egress = []CiliumEgressRule{{}}
		if denies {
			rule.EgressDeny = []CiliumEgressRule{{ToEntities: everybody}}
		}
	}
	if rule.Ingress == nil && rule.Egress == nil {
		return nil
	}
	return rule
}

// clusterPolicy denies in the directions in which there are rules, unless all
// of them accept: without one that accepts, whatever follows is asked.
func (r *refusal) clusterPolicy() string {
	spec := r.root.at("spec")
	known := spec.knows("tier", "priority", "subject", "ingress", "egress")
	directions := map[model.Direction]bool{}
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		rules, isList := spec.at(d.String()).list()
		directions[d] = !known || !isList || slices.ContainsFunc(rules, func(rule tree) bool {
			return rule.at("action").value != string(policyv1alpha2.ClusterNetworkPolicyRuleActionAccept)
		})
	}
	subject, readable := clusterSubject(spec.at("subject"))
	switch {
	case !directions[model.Ingress] && !directions[model.Egress]:
		return toldHarmless
	case !readable:
		return toldUnreadable
	}
	policy := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: r.meta}
	policy.Spec.Tier, policy.Spec.Subject = policyv1alpha2.AdminTier, subject
	if spec.at("tier").value == string(policyv1alpha2.BaselineTier) {
		policy.Spec.Tier = policyv1alpha2.BaselineTier
	}
	if priority, _ := spec.at("priority").value.(int64); priority > 0 && priority <= maxClusterPriority {
		policy.Spec.Priority = int32(priority)
	}
	everybody := &metav1.LabelSelector{}
	if directions[model.Ingress] {
		policy.Spec.Ingress = []policyv1alpha2.ClusterNetworkPolicyIngressRule{{
			Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
			From:   []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Namespaces: everybody}},
		}}
	}
	if directions[model.Egress] {
		policy.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{
			Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
			To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{
				{Namespaces: everybody}, {Nodes: everybody}, {Networks: []policyv1alpha2.CIDR{"0.0.0.0/0", "::/0"}},
			},
		}}
	}
	return r.put(policy, r.isolated(true, directions))
}

func clusterSubject(t tree) (subject policyv1alpha2.ClusterNetworkPolicySubject, readable bool) {
	namespaces, pods := t.at("namespaces"), t.at("pods")
	if !t.knows("namespaces", "pods") || namespaces.there() == pods.there() {
		return subject, false
	}
	if namespaces.there() {
		subject.Namespaces, readable = namespaces.selector((*validator).selector)
		return subject, readable
	}
	// The API's selectors of pods are no pointers: one that is not there is {}.
	selector := func(key string) (metav1.LabelSelector, bool) {
		part := pods.at(key)
		if !part.there() {
			return metav1.LabelSelector{}, true
		}
		read, ok := part.selector((*validator).selector)
		if !ok {
			return metav1.LabelSelector{}, false
		}
		return *read, true
	}
	ofSpace, okSpace := selector("namespaceSelector")
	ofPod, okPod := selector("podSelector")
	subject.Pods = &policyv1alpha2.NamespacedPod{NamespaceSelector: ofSpace, PodSelector: ofPod}
	return subject, okSpace && okPod && pods.knows("namespaceSelector", "podSelector")
}

// BornNamespaces are there without being among the objects.
func BornNamespaces() []string {
	return []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}
}
