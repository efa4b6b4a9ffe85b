// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/scenarios/syntax"
)

// What a cluster's controllers add to services before a node sees them. Files
// that describe one service twice, before and after a change, are given the
// same.

// eachService calls f for every service of every file, in one order always.
func (s *Scenario) eachService(f func(name string, svc *corev1.Service)) {
	for _, file := range slices.Sorted(maps.Keys(s.attached)) {
		services := s.attached[file].Services
		for _, key := range slices.Sorted(maps.Keys(services)) {
			svc := services[key]
			f(svc.Name+"."+svc.Namespace, svc)
		}
	}
}

// giveClusterIPs does what the API server does for services that name no
// address: one of each family.
func (s *Scenario) giveClusterIPs() {
	given := map[string][]netip.Addr{}
	s.eachService(func(name string, svc *corev1.Service) {
		if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) == 0 {
			if given[name] == nil {
				given[name] = servicePlan(len(given))
			}
			for _, a := range given[name] {
				svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, a.String())
			}
			svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
		}
		s.services[name] = svc
	})
}

// giveBalancers does what a cloud does for services of type LoadBalancer that
// have no address: one of each family.
func (s *Scenario) giveBalancers() {
	given := map[string][]netip.Addr{}
	s.eachService(func(name string, svc *corev1.Service) {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || len(svc.Status.LoadBalancer.Ingress) > 0 {
			return
		}
		if given[name] == nil {
			given[name] = balancerPlan(len(given))
		}
		for _, a := range given[name] {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
		}
	})
}

// balancedAt are the addresses of a service's load balancer.
func balancedAt(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// firstNodePort is where those that are given begin.
const firstNodePort = 30000

// giveNodePorts does what the API server does for ports without one.
func (s *Scenario) giveNodePorts() {
	taken := map[int32]bool{}
	s.eachService(func(_ string, svc *corev1.Service) {
		for _, p := range svc.Spec.Ports {
			taken[p.NodePort] = true
		}
	})
	given := map[string]int32{}
	next := int32(firstNodePort)
	s.eachService(func(name string, svc *corev1.Service) {
		if !hasNodePorts(svc) {
			return
		}
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			key := fmt.Sprintf("%s %s %d", name, p.Protocol, p.Port)
			if p.NodePort != 0 {
				continue
			}
			if given[key] == 0 {
				for taken[next] {
					next++
				}
				given[key], taken[next] = next, true
			}
			p.NodePort = given[key]
		}
	})
}

func hasNodePorts(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		allocate := svc.Spec.AllocateLoadBalancerNodePorts
		return allocate == nil || *allocate
	}
	return false
}

// route looks up what the router is told, in both families.
func (s *Scenario) route() error {
	for _, r := range s.Routes {
		for _, family := range s.Families {
			a, err := s.address(r.To, family)
			if err == nil {
				err = s.mayLead(a)
			}
			if err != nil {
				return &syntax.Error{Pos: r.Pos, Err: fmt.Errorf("route: %w", err)}
			}
			route := lab.Route{To: a, Node: r.Node}
			if !slices.Contains(s.topology.Routes, route) {
				s.topology.Routes = append(s.topology.Routes, route)
			}
		}
	}
	return nil
}
