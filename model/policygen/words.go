// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model/manifest"
)

// Words are what policies may speak of. No list is empty, and none is long:
// what policies say has to be about somebody, and about the same.
type Words struct {
	Namespaces []string
	Labels     []Label // of pods, of namespaces and of services
	Accounts   []string
	Services   []string // by name

	Ports         []int32
	Firsts, Lasts []int32  // the ends of ranges; any first is less than any last
	Names         []string // of ports

	Blocks   []manifest.CiliumCIDRRule
	CIDRs    []string // blocks, or addresses alone
	Networks [][]policyv1alpha2.CIDR
	Nodes    []metav1.LabelSelector
}

// Label is a key, and values that it may have.
type Label struct {
	Key    string
	Values []string
}

// ClusterWords are those of a Cluster.
func ClusterWords() *Words {
	return &Words{
		Namespaces: []string{"default", "shop", "bank"},
		Labels:     []Label{{"app", []string{"", "a", "b"}}, {"tier", []string{"", "a", "b"}}},
		Accounts:   []string{"default", "robot"},
		Services:   []string{"web", "far"},
		Ports:      []int32{80, 443, 65535},
		Firsts:     []int32{1, 79, 80, 1000},
		Lasts:      []int32{1001, 1023, 8081, 65535},
		Names:      []string{"http", "dns"},
		Blocks: []manifest.CiliumCIDRRule{
			{CIDR: "0.0.0.0/0"}, {CIDR: "::/0"}, {CIDR: "0.0.0.0/0", Except: []string{"198.51.100.0/24"}},
			{CIDR: "198.51.100.0/24", Except: []string{"198.51.100.128/25"}}, {CIDR: "198.51.100.200/32"},
			{CIDR: "10.0.0.0/16"}, {CIDR: "10.0.0.0/16", Except: []string{"10.0.0.0/28"}}, {CIDR: "10.0.0.10/32"},
			{CIDR: "fd00::/64", Except: []string{"fd00::11/128", "fd00::14/127"}},
			{CIDR: "2001:db8::/32"}, {CIDR: "172.18.0.0/16"}, {CIDR: "172.18.0.0/16", Except: []string{"172.18.0.2/32"}}, {CIDR: "fd00:18::3/128"},
		},
		CIDRs: []string{"198.51.100.7", "192.0.2.0/24", "0.0.0.0/0", "::/0", "10.0.0.0/8"},
		Networks: [][]policyv1alpha2.CIDR{{"10.0.0.0/16", "fd00::/64"}, {"198.51.100.0/25", "2001:db8::/32"},
			{"0.0.0.0/0", "::/0"}, {"198.0.0.0/8"}, {"172.18.0.0/16", "fd00:18::/64"},
			{"10.0.0.0/24"}, {"fd00::/120"}, {"10.0.0.10/32"}, {"172.18.0.3/32", "fd00:18::2/128"}},
		Nodes: []metav1.LabelSelector{{}, {MatchLabels: map[string]string{"zone": "a"}}, {MatchLabels: map[string]string{"zone": "b"}}},
	}
}

// plain are labels as Kubernetes' selectors write them.
func (w *Words) plain() []Label {
	return append(slices.Clone(w.Labels), Label{corev1.LabelMetadataName, w.Namespaces})
}

// cilium are labels as Cilium's selectors may write them.
func (w *Words) cilium() []Label {
	all := []Label{
		{"k8s:io.kubernetes.pod.namespace", w.Namespaces}, {"io.kubernetes.pod.namespace", w.Namespaces},
		{"k8s:io.cilium.k8s.namespace.labels." + corev1.LabelMetadataName, w.Namespaces},
		{"io.cilium.k8s.policy.serviceaccount", w.Accounts},
	}
	for i, l := range w.Labels {
		source := []string{"k8s:", "any:"}[i%2]
		all = append(all, l, Label{source + l.Key, l.Values}, Label{"io.cilium.k8s.namespace.labels." + l.Key, l.Values})
	}
	return all
}

var operators = []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}

// selector asks for some labels, in either of two ways; often for none.
func (m *maker) selector(labels []Label) metav1.LabelSelector {
	var s metav1.LabelSelector
	if m.IntN(3) == 0 {
		l := pick(m, labels...)
		s.MatchLabels = map[string]string{l.Key: pick(m, l.Values...)}
	}
	if m.IntN(2) == 0 {
		l := pick(m, labels...)
		e := metav1.LabelSelectorRequirement{Key: l.Key, Operator: pick(m, operators...)}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = []string{pick(m, l.Values...)}
			if other := pick(m, l.Values...); other != e.Values[0] {
				e.Values = append(e.Values, other)
			}
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}
