// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// unsupported is what a Service may ask for and the datapath does not do yet.
// A capability that comes takes its line out.
func unsupported(svc *corev1.Service) []FieldError {
	spec := svc.Spec
	var found []FieldError
	refuse := func(asked bool, field, value, remedy string) {
		if asked {
			found = append(found, FieldError{titleOf(svc), field, value + " is not supported yet: " + remedy})
		}
	}
	refuse(spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer, "spec.type", string(spec.Type), "use ClusterIP")
	refuse(spec.SessionAffinity != "" && spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.sessionAffinity", string(spec.SessionAffinity), "use None")
	refuse(len(spec.ExternalIPs) > 0, "spec.externalIPs", fmt.Sprint(spec.ExternalIPs), "remove it")
	internal := value(spec.InternalTrafficPolicy)
	refuse(internal != "" && internal != corev1.ServiceInternalTrafficPolicyCluster, "spec.internalTrafficPolicy", string(internal), "use Cluster")
	refuse(spec.TrafficDistribution != nil, "spec.trafficDistribution", value(spec.TrafficDistribution), "remove it")
	for i, port := range spec.Ports {
		refuse(port.Protocol == corev1.ProtocolSCTP, fmt.Sprintf("spec.ports[%d].protocol", i), "SCTP", "use TCP or UDP")
		refuse(port.NodePort != 0, fmt.Sprintf("spec.ports[%d].nodePort", i), strconv.Itoa(int(port.NodePort)), "remove it")
	}
	return found
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// clusterIPsOf gives the addresses of a service; none for a headless one.
func clusterIPsOf(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func (c *compiler) services() []Service {
	pods := indexByLabel(inOrder(c.objs.Pods))
	slicesOf := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range inOrder(c.objs.EndpointSlices) {
		name := serviceOf(slice)
		switch {
		case name == "":
			c.warn(slice, "metadata.labels", "no service is named by %s: add the label", discoveryv1.LabelServiceName)
		case c.objs.Services[name] == nil:
			c.warn(slice, "metadata.labels["+discoveryv1.LabelServiceName+"]", "there is no Service %s: add it or remove the slice", name)
		case slice.AddressType == discoveryv1.AddressTypeFQDN:
			c.warn(slice, "addressType", "names are not resolved, and nobody is reached by this slice: give addresses")
		default:
			slicesOf[name] = append(slicesOf[name], slice)
		}
	}
	var services []Service
	for _, svc := range inOrder(c.objs.Services) {
		services = append(services, c.service(svc, slicesOf[nameOf(svc)])...)
		c.warnOfSelector(svc, pods.candidates(svc))
	}
	slices.SortFunc(services, func(a, b Service) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return services
}

func (c *compiler) service(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice) []Service {
	c.requireNamespace(svc)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // names for DNS, nothing for a datapath
	}
	refused := unsupported(svc)
	for i := range refused {
		c.errs = append(c.errs, &refused[i])
	}
	addresses := clusterIPsOf(svc)
	if len(addresses) == 0 {
		c.fail(svc, "spec.clusterIP", "is empty: give the service an address, or None for a headless one")
	}
	if len(refused) > 0 {
		return nil
	}
	var frontends []Service
	for i, addr := range addresses {
		// Addresses are unique, so their ports are too: the validation of one
		// object sees a port that is there twice.
		c.own(svc, fmt.Sprintf("spec.clusterIPs[%d]", i), addr)
		for _, port := range svc.Spec.Ports {
			name := port.Name
			if name == "" {
				name = strconv.Itoa(int(port.Port))
			}
			frontends = append(frontends, Service{
				Name:     nameOf(svc) + ":" + name,
				Address:  addr,
				Port:     uint16(port.Port),
				Protocol: protocolNumber(port.Protocol),
				Backends: backendsOf(endpoints, addressTypeOf(addr), port),
			})
		}
	}
	return frontends
}

func (c *compiler) warnOfSelector(svc *corev1.Service, candidates []*corev1.Pod) {
	if len(svc.Spec.Selector) == 0 || len(clusterIPsOf(svc)) == 0 {
		return
	}
	for _, pod := range candidates {
		if includes(pod.Labels, svc.Spec.Selector) {
			return
		}
	}
	c.warn(svc, "spec.selector", "matches no pod of namespace %s: connections are refused until one has these labels", namespaceOr(svc.Namespace))
}

func includes(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, found := labels[key]; !found || have != value {
			return false
		}
	}
	return true
}

// backendsOf gives who serves a port in one family. One who is ready is
// chosen for new flows; one who still serves, or is being terminated, keeps
// those it has; of any other nothing is known.
func backendsOf(endpoints []*discoveryv1.EndpointSlice, family discoveryv1.AddressType, port corev1.ServicePort) []Backend {
	found := map[netip.AddrPort]bool{} // → terminating
	for _, slice := range endpoints {
		number, has := numberIn(slice, port)
		if slice.AddressType != family || !has {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			terminating := value(endpoint.Conditions.Terminating)
			if !ready && !terminating && !value(endpoint.Conditions.Serving) {
				continue
			}
			// The API asks for one address an endpoint, and leaves open what
			// others would mean.
			addr, err := netip.ParseAddr(endpoint.Addresses[0])
			if err != nil {
				continue
			}
			at := netip.AddrPortFrom(addr, number)
			old, twice := found[at]
			// While a pod moves between slices it is in both: the one that
			// still takes flows counts.
			found[at] = (terminating || !ready) && (!twice || old)
		}
	}
	var backends []Backend
	for at, terminating := range found {
		backends = append(backends, Backend{Address: at.Addr(), Port: at.Port(), Terminating: terminating})
	}
	slices.SortFunc(backends, func(a, b Backend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return backends
}

func numberIn(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range slice.Ports {
		if value(p.Name) == port.Name && protocolOr(value(p.Protocol)) == protocolOr(port.Protocol) && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}
