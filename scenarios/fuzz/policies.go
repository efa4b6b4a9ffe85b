// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

// words are what policies of the other languages speak of here: the same as
// pods, namespaces, services and conversations do.
var words = &policygen.Words{
	Namespaces: namespaces,
	Labels:     []policygen.Label{{Key: "app", Values: apps}, {Key: "tier", Values: tiers}, {Key: "team", Values: teams}},
	Accounts:   []string{"default"},
	Services:   []string{"s0", "s1", "s2", "s3", "s4"},
	Ports:      []int32{53, 80, 443, 8080, 8443, 9090},
	Firsts:     []int32{1, 53, 79, 443, 1000},
	Lasts:      []int32{1023, 5353, 8080, 9000, 65535},
	Names:      []string{"http", "dns"},
	Blocks: []manifest.CiliumCIDRRule{
		{CIDR: "0.0.0.0/0"}, {CIDR: "::/0"}, {CIDR: "0.0.0.0/0", Except: []string{"203.0.113.0/24", "10.0.0.0/8"}},
		{CIDR: "203.0.113.0/24", Except: []string{"203.0.113.64/26"}}, {CIDR: "203.0.113.77/32"}, {CIDR: "203.0.113.0/26"},
		{CIDR: "10.0.0.0/24"}, {CIDR: "10.0.0.0/16", Except: []string{"10.0.0.12/30"}}, {CIDR: "198.18.0.0/15"}, {CIDR: "2001:db8::/32", Except: []string{"2001:db8::/64"}},
		{CIDR: "2001:db8::10/128"}, {CIDR: "fd00::/8"},
	},
	CIDRs: []string{"203.0.113.10", "203.0.113.0/24", "192.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/64", "2606:4700::1"},
	Networks: [][]policyv1alpha2.CIDR{
		{"0.0.0.0/0", "::/0"}, {"10.0.0.0/8", "fd10::/16", "fd11::/16"}, {"10.0.0.0/24", "fd10:a:0:b::/64"},
		{"203.0.113.0/26", "2001:db8::/64"}, {"203.0.113.0/24"}, {"2001:db8::/32"},
		{"198.18.0.0/15", "fd00:198:18::/64"}, {"10.0.0.8/29"}, {"fd10:a::/32"}, {"198.18.0.0/15"},
	},
	Nodes: []metav1.LabelSelector{{}},
}

// anyPolicy makes or changes a policy of any language.
func (n *network) anyPolicy() metav1.Object {
	kind := pick(n.rng, policygen.Kinds)
	if kind == "NetworkPolicy" || n.chance(20) {
		return n.tryOut(15, answering(n.policy()))
	}
	n.ends = append(n.ends, uint16(pick(n.rng, words.Firsts)), uint16(pick(n.rng, words.Lasts)))
	return n.tryOut(15, answering(asWritten(policygen.Policy(n.rng, words, kind, fmt.Sprintf("p%d", n.rng.IntN(3))))))
}

// answering has half of the policies refuse what they deny in one direction or both,
// and some say that they drop it. What a policy is made of decides, so that seeds
// keep the sequences that they had.
func answering(o metav1.Object) metav1.Object {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // of the types that are made here each can be written
	}
	rng := rand.New(rand.NewPCG(uint64(crc32.ChecksumIEEE(text)), 0))
	all := map[string]string{}
	maps.Copy(all, o.GetAnnotations())
	for _, key := range []string{manifest.AnnotationDeniedIngress, manifest.AnnotationDeniedEgress} {
		if word := pick(rng, []string{"", "", "refuse", "refuse", "drop"}); word != "" {
			all[key] = word
		}
	}
	if len(all) > 0 {
		o.SetAnnotations(all)
	}
	return o
}

// tryOut has denials of some objects told and not done, or done for sure.
func (n *network) tryOut(percent int, o metav1.Object) metav1.Object {
	if n.chance(percent) {
		all := map[string]string{manifest.AnnotationAudit: pick(n.rng, []string{"true", "true", "false"})}
		maps.Copy(all, o.GetAnnotations())
		o.SetAnnotations(all)
	}
	return o
}

// apiServer is the service of the cluster's API, served by somebody outside.
func (n *network) apiServer() []metav1.Object {
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
	}
	s.Spec.ClusterIPs, s.Spec.ClusterIP = []string{"10.96.0.1", "fd00:96::1"}, "10.96.0.1"
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	s.Spec.Ports = []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443}}
	made := []metav1.Object{s}
	for _, family := range s.Spec.IPFamilies {
		e := n.slice(s, family).(*discoveryv1.EndpointSlice)
		e.Endpoints = nil
		for _, a := range outsiders {
			if familyOf(a) == family && n.chance(30) {
				e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}})
			}
		}
		made = append(made, e)
	}
	return made
}

// asWritten gives an object as it is read again from a file: lists that are
// there and empty are not, so that a scenario says what was played.
func asWritten(o metav1.Object) metav1.Object {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // of the types that are made here each can be written
	}
	return fromJSON(o, text)
}

// fromJSON reads an object of the type of another.
func fromJSON(like metav1.Object, text []byte) metav1.Object {
	out := reflect.New(reflect.TypeOf(like).Elem()).Interface().(metav1.Object)
	if err := json.Unmarshal(text, out); err != nil {
		panic(err)
	}
	return out
}

// retire takes back a policy of a language whose objects a scenario cannot
// delete: from then on it is for nobody.
func (n *network) retire() *Change {
	nobody := metav1.LabelSelector{MatchLabels: map[string]string{"app": "nobody"}}
	var made []metav1.Object
	for _, key := range sortedKeys(n.objs.ClusterNetworkPolicies) {
		p := n.objs.ClusterNetworkPolicies[key].DeepCopy()
		p.Spec.Subject = policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: &nobody}
		made = append(made, p)
	}
	for _, key := range sortedKeys(n.objs.CiliumNetworkPolicies) {
		p := *n.objs.CiliumNetworkPolicies[key]
		p.Spec, p.Specs = &manifest.CiliumRule{EndpointSelector: &nobody}, nil
		made = append(made, &p)
	}
	for _, key := range sortedKeys(n.objs.CiliumClusterwideNetworkPolicies) {
		p := *n.objs.CiliumClusterwideNetworkPolicies[key]
		p.Spec, p.Specs = &manifest.CiliumRule{EndpointSelector: &nobody}, nil
		made = append(made, &p)
	}
	if len(made) == 0 {
		return &Change{Upsert: []metav1.Object{n.anyPolicy()}}
	}
	return &Change{Upsert: []metav1.Object{pick(n.rng, made)}}
}

// isOtherPolicy is whether an object is a policy that is shrunk by its text.
func isOtherPolicy(o metav1.Object) bool {
	switch o.(type) {
	case *policyv1alpha2.ClusterNetworkPolicy, *manifest.CiliumNetworkPolicy, *manifest.CiliumClusterwideNetworkPolicy:
		return true
	}
	return false
}

// withoutText gives a copy of an object without the n-th part of its spec's
// text, the largest parts first; false when it has no such part. What is left
// need not be valid: then it does not compile.
func withoutText(o metav1.Object, n int) (metav1.Object, bool) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, false
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, false
	}
	var c cuts
	if metadata, ok := tree["metadata"].(map[string]any); ok {
		cutText(&c, metadata["annotations"], nil)
	}
	for _, spec := range []string{"spec", "specs"} {
		cutText(&c, tree[spec], func(v any) { tree[spec] = v })
	}
	if n >= len(c) {
		return nil, false
	}
	c[n]()
	if text, err = json.Marshal(tree); err != nil {
		return nil, false
	}
	return fromJSON(o, text), true
}

// cutText cuts all that is in a value: what a level has before what is deeper.
// What is empty stays: many a field is written always, and would come back.
func cutText(c *cuts, value any, set func(any)) {
	switch v := value.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		for _, key := range keys {
			if !isEmpty(v[key]) {
				*c = append(*c, func() { delete(v, key) })
			}
		}
		for _, key := range keys {
			cutText(c, v[key], func(changed any) { v[key] = changed })
		}
	case []any:
		for i := range v {
			*c = append(*c, func() { set(slices.Delete(v, i, i+1)) })
		}
		for i := range v {
			cutText(c, v[i], func(changed any) { v[i] = changed })
		}
	}
}
