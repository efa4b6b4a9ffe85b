// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// unsupported is what a Service may ask for and the datapath does not do. A
// capability that comes takes its line out.
//
// The checksum of SCTP covers the ports, and is too dear to be computed anew:
// a service may translate addresses alone.
func unsupported(svc *corev1.Service) []model.FieldError {
	var found []model.FieldError
	for i, port := range svc.Spec.Ports {
		if port.Protocol != corev1.ProtocolSCTP {
			continue
		}
		refuse := func(field string, number int32) {
			found = append(found, model.FieldError{
				Object: manifest.RefOf(svc), Field: fmt.Sprintf("spec.ports[%d].%s", i, field),
				Problem: fmt.Sprintf("%d would change the port of SCTP, which is not supported: make port, targetPort and nodePort equal, or leave nodePort out", number),
			})
		}
		if target := port.TargetPort; target.Type == intstr.Int && target.IntVal != 0 && target.IntVal != port.Port {
			refuse("targetPort", target.IntVal)
		}
		if port.NodePort != 0 && port.NodePort != port.Port {
			refuse("nodePort", port.NodePort)
		}
	}
	return found
}

// Labels of services that a proxy of another kind serves, or none: KEP-2447, and
// k8s.io/kube-proxy/config/v1alpha1.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = corev1.IsHeadlessService
)

// isServed is whether a service is this proxy's. What another one serves keeps
// its addresses and ports.
func isServed(svc *corev1.Service) bool {
	_, other := svc.Labels[labelProxyName]
	_, none := svc.Labels[labelHeadless]
	return !other && !none
}

// warnOfAddresses tells of addresses of a family that the service has not, where
// it has nobody who would serve, and of balancers' that no host has.
func (c *compiler) warnOfAddresses(svc *corev1.Service, addresses []netip.Addr) {
	check := func(field, text string) {
		addr, err := manifest.ParseLegacyAddr(text)
		if err == nil && !manifest.ReachesHost(addr) {
			c.ignore(svc, field, "%s is not the address of a host that others reach: have whoever gave it give a unicast address, neither loopback nor link-local", text)
			return
		}
		if err != nil || len(addresses) == 0 || slices.ContainsFunc(addresses, func(own netip.Addr) bool { return own.Is4() == addr.Is4() }) {
			return
		}
		c.ignore(svc, field, "%s is %s, and the service is %s alone: add a clusterIP of that family, or remove the address", text, manifest.FamilyOf(addr), manifest.FamilyOf(addresses[0]))
	}
	for i, text := range svc.Spec.ExternalIPs {
		check(fmt.Sprintf("spec.externalIPs[%d]", i), text)
	}
	if len(svc.Status.LoadBalancer.Ingress) > 0 && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		c.ignore(svc, "status.loadBalancer.ingress", "has a meaning for type LoadBalancer alone: remove it, or make the service one")
	}
	for i, ingress := range manifest.BalancersOf(svc) {
		check(fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), ingress.IP)
	}
}

func (c *compiler) services() []model.Service {
	pods := manifest.IndexByLabel(manifest.InOrder(c.objs.Pods))
	slicesOf := make(map[string][]*discoveryv1.EndpointSlice, len(c.objs.Services))
	for _, slice := range c.slicesInOrder {
		if name := manifest.ServiceOf(slice); c.slice(slice) {
			slicesOf[name] = append(slicesOf[name], slice)
		}
	}
	c.bids = make([]bid, 0, len(c.objs.Services))
	for _, svc := range c.servicesInOrder {
		c.service(svc, slicesOf[manifest.NameOf(svc)])
		c.warnOfSelector(svc, pods.Candidates(svc))
	}
	c.hostPorts()
	c.settle()
	slices.SortFunc(c.frontends, compareFrontends)
	return c.frontends
}

func compareFrontends(a, b model.Service) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Scope, b.Scope))
}

// slice says whether a slice lists who serves a service.
func (c *compiler) slice(slice *discoveryv1.EndpointSlice) bool {
	switch name := manifest.ServiceOf(slice); {
	case name == "":
		c.warn(slice, "metadata.labels", "no service is named by %s: add the label", discoveryv1.LabelServiceName)
	case c.objs.Services[name] == nil:
		c.warn(slice, "metadata.labels["+discoveryv1.LabelServiceName+"]", "there is no Service %s: add it or remove the slice", name)
	case slice.AddressType == discoveryv1.AddressTypeFQDN:
		c.warn(slice, "addressType", "names are not resolved, and nobody is reached by this slice: give addresses")
	default:
		c.warnOfEndpoints(slice)
		return true
	}
	return false
}

// warnOfEndpoints tells of a service that would serve another, and of addresses
// that are many hosts'. What was led to a service would be led once, and leave the
// cluster with the node's address.
func (c *compiler) warnOfEndpoints(slice *discoveryv1.EndpointSlice) {
	field := func(i int) string { return fmt.Sprintf("endpoints[%d].addresses[0]", i) }
	for i := range slice.Endpoints {
		switch addr, err := manifest.ParseLegacyAddr(slice.Endpoints[i].Addresses[0]); {
		case err != nil:
		case c.serviceAt(addr) != nil:
			c.ignore(slice, field(i), "%s is the address of %s, which serves nobody itself: name who does", addr, manifest.RefOf(c.clusterAt[addr]))
		case !manifest.ReachesHost(addr):
			c.ignore(slice, field(i), "%s is not the address of a host that others reach: give a unicast address", addr)
		}
	}
}

// servicePort is one port of a service in one family.
type servicePort struct {
	object  *corev1.Service
	index   int // in spec.ports
	cluster netip.Addr
	served  bool          // else its frontends are somebody else's to make
	common  model.Service // what all its frontends have
	// anywhere and here are whom a port leads to that may lead to any node, and
	// one that stays on this one, of a service that has such.
	anywhere, here []model.Backend
	// nobody: no node has anybody who takes new flows.
	nobody bool
}

func (p *servicePort) port() corev1.ServicePort { return p.object.Spec.Ports[p.index] }

func (p *servicePort) field(name string) string {
	return "spec.ports[" + strconv.Itoa(p.index) + "]." + name
}

func (c *compiler) service(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice) {
	c.requireNamespace(svc)
	if manifest.IsHeadless(svc) {
		return
	}
	refused := unsupported(svc)
	for i := range refused {
		c.errs = append(c.errs, &refused[i])
	}
	addresses := manifest.ClusterIPsOf(svc)
	if len(addresses) == 0 {
		c.fail(svc, "spec.clusterIP", "is empty: give the service an address, or None for a headless one")
	}
	if len(refused) > 0 {
		return
	}
	c.warnOfAddresses(svc, addresses)
	c.warnOfOpenFamily(svc, addresses)
	if !c.servable(svc, model.TableServices, len(svc.Spec.Ports)*(len(addresses)+len(svc.Spec.ExternalIPs)+len(manifest.BalancersOf(svc)))) {
		return
	}
	backends := 0
	for _, addr := range addresses {
		for index := range svc.Spec.Ports {
			p := c.servicePort(svc, index, addr, endpoints)
			if backends += len(p.anywhere); !c.servable(svc, model.TableBackends, backends) {
				return
			}
			c.publish(p)
		}
	}
	c.claimHealthCheck(svc)
}

func (c *compiler) servicePort(svc *corev1.Service, index int, cluster netip.Addr, endpoints []*discoveryv1.EndpointSlice) *servicePort {
	port := svc.Spec.Ports[index]
	all := c.readBackends(endpoints, manifest.AddressTypeOf(cluster), port)
	p := &servicePort{
		object: svc, index: index, cluster: cluster, served: isServed(svc),
		common: model.Service{
			Name:       model.PortRef{Namespace: manifest.NamespaceOr(svc.Namespace), Name: svc.Name, Port: cmp.Or(port.Name, strconv.Itoa(int(port.Port)))},
			Protocol:   protocolNumber(port.Protocol),
			Affinity:   affinityTimeout(svc),
			MaglevSize: c.maglevSize(svc),
		},
		anywhere: c.clusterBackends(all),
		nobody:   !anybody(all),
	}
	if staysHere(svc) {
		p.here = localBackends(all)
	}
	c.checkBackends(p)
	return p
}

// staysHere is whether one of a service's traffic policies is Local.
func staysHere(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal ||
		ptr.Deref(svc.Spec.InternalTrafficPolicy, "") == corev1.ServiceInternalTrafficPolicyLocal
}

// checkBackends refuses backends that a port cannot lead to.
func (c *compiler) checkBackends(p *servicePort) {
	eligible := 0
	for _, b := range p.anywhere {
		if !b.Terminating {
			eligible++
		}
		if p.common.Protocol == model.ProtocolSCTP && int32(b.Port) != p.port().Port {
			c.fail(p.object, p.field("targetPort"), "%s would change the port of SCTP, which is not supported: let the backend listen on %d", netip.AddrPortFrom(b.Address, b.Port), p.port().Port)
			break
		}
	}
	if p.common.MaglevSize != 0 && eligible > p.common.MaglevSize {
		c.fail(p.object, p.field("port"), "its %d backends do not fit into a Maglev table of %d: set a greater maglevSize, or the annotation %s: %s", eligible, p.common.MaglevSize, manifest.AnnotationAlgorithm, model.AlgorithmRandom)
	}
}

// affinityTimeout is how long a client keeps its backend; 0: it does not.
func affinityTimeout(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if config := svc.Spec.SessionAffinityConfig; config != nil && config.ClientIP != nil && config.ClientIP.TimeoutSeconds != nil {
		seconds = *config.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// maglevSize is the size of a service's tables; 0: it has none.
func (c *compiler) maglevSize(svc *corev1.Service) int {
	asked, _ := manifest.AlgorithmOf(svc) // Validate has complained
	if cmp.Or(asked, c.local.Options.Algorithm) != model.AlgorithmMaglev {
		return 0
	}
	return cmp.Or(c.local.Options.MaglevSize, model.DefaultMaglevSize)
}

func (c *compiler) warnOfSelector(svc *corev1.Service, candidates []*corev1.Pod) {
	if len(svc.Spec.Selector) == 0 || len(manifest.ClusterIPsOf(svc)) == 0 {
		return
	}
	for _, pod := range candidates {
		if manifest.Includes(pod.Labels, svc.Spec.Selector) {
			return
		}
	}
	c.warn(svc, "spec.selector", "matches no pod of namespace %s: connections are refused until one has these labels", manifest.NamespaceOr(svc.Namespace))
}
