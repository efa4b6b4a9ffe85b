// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// aside is objects that are refused for the sake of others: for want of room, or
// because of who serves them. The same are refused for as long as everybody asks for as
// much of the tables that these contend for: so a tenant who asks for too much does not
// have all of it made with each change.
type aside struct {
	objects   map[model.Ref]metav1.Object
	services  bool // they are services
	policies  bool // they are policies, refused for their rules
	addresses map[netip.Addr]bool
}

// setAside gives what objects are set aside together; nil where that is more than
// services alone, or than NetworkPolicies whose rules are too many and name no addresses.
// Cilium's policies may read the services that are refused.
func (c *compiler) setAside(objects map[model.Ref]metav1.Object, refusals []Refusal) *aside {
	a := &aside{objects: objects, services: true, policies: true, addresses: map[netip.Addr]bool{}}
	if len(objects) == 0 {
		a.services, a.policies = false, false
		return a
	}
	for _, object := range objects {
		svc, isService := object.(*corev1.Service)
		a.services = a.services && isService
		a.policies = a.policies && c.isOfRules(object)
		if isService {
			a.claim(svc)
		}
	}
	a.policies = a.policies && !slices.ContainsFunc(refusals, func(r Refusal) bool { return r.Table != model.TableRules })
	if !a.services && !a.policies || c.hasCilium() {
		return nil
	}
	return a
}

// isIn is whether an object of a namespace is set aside.
func (a *aside) isIn(space string) bool {
	for _, object := range a.objects {
		if manifest.NamespaceOr(object.GetNamespace()) == space {
			return true
		}
	}
	return false
}

// claim notes the addresses that a service names.
func (a *aside) claim(svc *corev1.Service) {
	for _, addr := range clusterIPs(svc) {
		a.addresses[addr] = true
	}
	for _, text := range ledBy(svc) {
		if addr, err := manifest.ParseLegacyAddr(text); err == nil {
			a.addresses[addr] = true
		}
	}
}

// isOfRules is whether an object is a NetworkPolicy that asks for nothing but rules. What
// stands in for a policy of the cluster tells nodes apart, and it does not.
func (c *compiler) isOfRules(object metav1.Object) bool {
	_, isPolicy := object.(*networkingv1.NetworkPolicy)
	return isPolicy && c.namedIn(object) == nil && !namesNameless(object)
}

// concernsAside is whether a change may have others be refused than those that are set
// aside.
func (i *Incremental) concernsAside(change *change, cl claims, m *moves) bool {
	s := i.standing
	if s == nil || !s.aside.services {
		return false
	}
	for addr := range cl {
		if s.aside.addresses[addr] {
			return true
		}
	}
	for key := range m.pods {
		if wantsPorts(i.c.objs.Pods[key]) || wantsPorts(m.pods[key]) {
			return true
		}
	}
	return len(change.services)+len(change.slices)+len(change.nodes)+len(change.cilium)+len(change.ciliumCluster)+len(m.services)+len(m.sockets)+len(m.addressed) > 0
}

// wantsPorts is whether a pod wants ports of its node.
func wantsPorts(pod *corev1.Pod) (wants bool) {
	if pod != nil {
		wants = pod.Spec.HostNetwork
		manifest.EachHostPort(pod, func(string, corev1.ContainerPort) { wants = true })
	}
	return wants
}

// concernsRulesAside is the same of policies that are set aside.
func (i *Incremental) concernsRulesAside(change *change, judged bool, m *moves) bool {
	s := i.standing
	return s != nil && s.aside.policies && (judged || m.own || len(change.namespaces)+len(m.people)+len(m.groups) > 0)
}
