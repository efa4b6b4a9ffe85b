// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
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
	services  bool                // some are services
	rules     bool                // some are policies, refused for their rules
	blocks    bool                // some are policies, refused for their blocks of addresses
	addresses map[netip.Addr]bool // that they name
}

// setAside gives what objects are set aside together; nil where some of them are
// neither services, nor NetworkPolicies whose rules or blocks are too many. Cilium's
// policies may read the services that are refused.
func (c *compiler) setAside(objects map[model.Ref]metav1.Object, refusals []Refusal) *aside {
	a := &aside{objects: objects, addresses: map[netip.Addr]bool{}}
	blocks := map[netip.Prefix]bool{}
	for i := range refusals {
		switch object := objects[refusals[i].Object].(type) {
		case *corev1.Service:
			a.services = true
			a.claim(object)
		case *networkingv1.NetworkPolicy:
			named := c.namedIn(object)
			switch table := refusals[i].Table; {
			case namesNameless(object):
				return nil
			case table == model.TableRules && named == nil:
				a.rules = true
			case table == model.TableCIDRs && named != nil:
				a.blocks = true
				a.name(named, blocks)
			default:
				return nil
			}
		default:
			return nil
		}
	}
	twice := slices.Contains(slices.Collect(maps.Values(objects)), nil)
	if twice || len(objects) > 0 && c.hasCilium() || a.blocks && !c.exceeds(blocks) {
		return nil
	}
	return a
}

// name notes the prefixes of blocks, and addresses among them.
func (a *aside) name(named *namedBlocks, blocks map[netip.Prefix]bool) {
	for _, b := range named.held {
		for _, prefix := range append(slices.Clone(b.excepts), b.cidr) {
			if blocks[prefix] = true; prefix.IsSingleIP() {
				a.addresses[prefix.Addr()] = true
			}
		}
	}
}

// exceeds is whether blocks, with those that policies name which are in force, are too
// many before anything is made of them: nobody has numbers because of them then.
func (c *compiler) exceeds(blocks map[netip.Prefix]bool) bool {
	for prefix := range c.named {
		blocks[prefix] = true
	}
	wide := 0
	for prefix := range blocks {
		wide += boolToInt(!prefix.IsSingleIP())
	}
	return wide > c.local.Budgets[model.TableCIDRs]
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

// concernsAside is whether a change may have others be refused than those that are set
// aside.
func (i *Incremental) concernsAside(change *change, cl claims, m *moves) bool {
	s := i.standing
	if s == nil || !s.aside.services && !s.aside.blocks {
		return false
	}
	for addr := range cl {
		if s.aside.addresses[addr] {
			return true
		}
	}
	if policies := len(change.policies) + len(change.cluster) + len(change.cilium) + len(change.ciliumCluster); s.aside.blocks && policies > 0 {
		return true
	}
	if !s.aside.services {
		return false
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

// concernsRulesAside is the same of policies that were refused for their rules.
func (i *Incremental) concernsRulesAside(change *change, judged bool, m *moves) bool {
	s := i.standing
	return s != nil && s.aside.rules && (judged || m.own || len(change.namespaces)+len(m.people)+len(m.groups) > 0)
}
