// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model/manifest"
)

// Substitute is a pod in place of those that a Deployment or the like would make.
type Substitute struct {
	Kind      string       `json:"kind"`
	Pod       string       `json:"pod"` // namespace/pod, by which it is asked about
	Addresses []netip.Addr `json:"addresses"`

	name string // of the controller
}

func (s *Substitute) String() string {
	texts := make([]string, len(s.Addresses))
	for i, addr := range s.Addresses {
		texts[i] = addr.String()
	}
	return fmt.Sprintf("%s %s (%s)", s.Kind, s.Pod, strings.Join(texts, ", "))
}

// Addresses of substitutes begin here: they are nobody's (RFC 1112 section 4,
// RFC 6666), so that no block holds them that was written for somebody.
var firstSubstitutes = map[string]netip.Addr{IPv4: netip.MustParseAddr("240.1.0.1"), IPv6: netip.MustParseAddr("100::1:1")}

// substitute adds a pod for each controller whose pods are not among the objects,
// and its namespace where that is not either. They are in the order of their names.
func substitute(objs *manifest.Objects, controllers []manifest.Controller) []Substitute {
	controllers = slices.Clone(controllers)
	slices.SortStableFunc(controllers, func(a, b manifest.Controller) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	next := map[string]netip.Addr{}
	for _, family := range familiesOf(objs) {
		next[family] = firstSubstitutes[family]
	}
	var all []Substitute
	for i := range controllers {
		c := &controllers[i]
		if c.Owned || hasPods(objs, c) {
			continue
		}
		s := Substitute{Kind: c.Kind, Pod: c.Namespace + "/" + c.Name, name: c.Name}
		if objs.Pods[s.Pod] != nil {
			s.Pod += "-" + strings.ToLower(c.Kind)
		}
		for _, family := range slices.Sorted(maps.Keys(next)) {
			s.Addresses = append(s.Addresses, next[family])
			next[family] = next[family].Next()
		}
		objs.Pods[s.Pod] = s.pod(c)
		if objs.Namespaces[c.Namespace] == nil {
			objs.Namespaces[c.Namespace] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: c.Namespace, Labels: map[string]string{corev1.LabelMetadataName: c.Namespace},
			}}
		}
		all = append(all, s)
	}
	return all
}

func (s *Substitute) pod(c *manifest.Controller) *corev1.Pod {
	_, name, _ := strings.Cut(s.Pod, "/")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: name, Labels: c.Template.Labels, Annotations: c.Template.Annotations},
		Spec:       c.Template.Spec,
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: s.Addresses[0].String()},
	}
	for _, addr := range s.Addresses {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	return pod
}

// familiesOf are those of the addresses that pods and nodes have; IPv4 where they
// have none.
func familiesOf(objs *manifest.Objects) []string {
	has := map[string]bool{}
	for _, names := range [][]string{slices.Collect(maps.Keys(objs.Pods)), slices.Collect(maps.Keys(objs.Nodes))} {
		for _, name := range names {
			for _, addr := range AddressesOf(objs, name) {
				has[map[bool]string{true: IPv4, false: IPv6}[addr.Unmap().Is4()]] = true
			}
		}
	}
	if len(has) == 0 {
		return []string{IPv4}
	}
	return slices.Sorted(maps.Keys(has))
}

// hasPods is whether pods of a controller are among the objects, by their labels.
func hasPods(objs *manifest.Objects, c *manifest.Controller) bool {
	for _, pod := range objs.Pods {
		if manifest.NamespaceOr(pod.Namespace) != c.Namespace || len(c.Template.Labels) == 0 || len(pod.OwnerReferences) == 0 {
			continue
		}
		all := true
		for key, value := range c.Template.Labels {
			all = all && pod.Labels[key] == value
		}
		if all {
			return true
		}
	}
	return false
}
