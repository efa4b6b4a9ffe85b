// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Limits of the API.
const maxCiliumPorts = 40

// ciliumEntities are the names for who is no pod, and for everybody.
var ciliumEntities = []string{
	"all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node", "kube-apiserver",
	"health", "ingress", "init", "unmanaged", "none",
}

func (v *validator) ciliumPolicy(clusterwide bool, spec *CiliumRule, specs []*CiliumRule) {
	if spec == nil && len(specs) == 0 {
		v.fail("spec", "is missing: give a spec, or a list of specs")
	}
	if spec != nil {
		v.ciliumRule("spec", clusterwide, spec)
	}
	for i, spec := range specs {
		field := fmt.Sprintf("specs[%d]", i)
		if spec == nil {
			v.fail(field, "is empty: remove it")
			continue
		}
		v.ciliumRule(field, clusterwide, spec)
	}
}

// unsupported refuses a field that is there, whatever it says.
func (v *validator) unsupported(field string, value json.RawMessage) {
	if value != nil && string(value) != "null" {
		v.fail(field, "is not supported yet: remove it, or the policy would not mean what it says")
	}
}

func (v *validator) ciliumRule(field string, clusterwide bool, rule *CiliumRule) {
	switch {
	case rule.EndpointSelector == nil && rule.NodeSelector == nil:
		v.fail(field+".endpointSelector", "is missing: select pods; {} is all of them")
	case rule.EndpointSelector != nil && rule.NodeSelector != nil:
		v.fail(field+".nodeSelector", "cannot stand beside endpointSelector: make two specs of it")
	case rule.NodeSelector != nil && !clusterwide:
		v.fail(field+".nodeSelector", "is for a CiliumClusterwideNetworkPolicy: a policy of a namespace selects pods, by endpointSelector")
	case rule.NodeSelector != nil:
		v.ciliumSelector(field+".nodeSelector", rule.NodeSelector)
	default:
		v.ciliumSelector(field+".endpointSelector", rule.EndpointSelector)
	}
	v.unsupported(field+".log", rule.Log)
	for i := range rule.Ingress {
		v.ciliumIngress(fmt.Sprintf("%s.ingress[%d]", field, i), &rule.Ingress[i])
	}
	for i := range rule.IngressDeny {
		v.ciliumIngress(fmt.Sprintf("%s.ingressDeny[%d]", field, i), &rule.IngressDeny[i])
	}
	for i := range rule.Egress {
		v.ciliumEgress(fmt.Sprintf("%s.egress[%d]", field, i), &rule.Egress[i])
	}
	for i := range rule.EgressDeny {
		v.ciliumEgress(fmt.Sprintf("%s.egressDeny[%d]", field, i), &rule.EgressDeny[i])
	}
}

func (v *validator) ciliumIngress(field string, r *CiliumIngressRule) {
	v.unsupported(field+".fromNodes", r.FromNodes)
	v.unsupported(field+".fromGroups", r.FromGroups)
	v.unsupported(field+".authentication", r.Authentication)
	v.oneKind(field, map[string]int{
		"fromEndpoints": len(r.FromEndpoints), "fromCIDR": len(r.FromCIDR), "fromCIDRSet": len(r.FromCIDRSet), "fromEntities": len(r.FromEntities),
	})
	v.ciliumSelectors(field+".fromEndpoints", r.FromEndpoints)
	v.ciliumSelectors(field+".fromRequires", r.FromRequires)
	v.ciliumBlocks(field+".from", r.FromCIDR, r.FromCIDRSet)
	v.entities(field+".fromEntities", r.FromEntities)
	v.ciliumPorts(field, r.ToPorts)
	v.ciliumICMPs(field, r.ICMPs, len(r.ToPorts) > 0)
}

func (v *validator) ciliumEgress(field string, r *CiliumEgressRule) {
	v.unsupported(field+".toNodes", r.ToNodes)
	v.unsupported(field+".toGroups", r.ToGroups)
	v.unsupported(field+".toFQDNs", r.ToFQDNs)
	v.unsupported(field+".authentication", r.Authentication)
	v.oneKind(field, map[string]int{
		"toEndpoints": len(r.ToEndpoints), "toCIDR": len(r.ToCIDR), "toCIDRSet": len(r.ToCIDRSet), "toEntities": len(r.ToEntities), "toServices": len(r.ToServices),
	})
	v.ciliumSelectors(field+".toEndpoints", r.ToEndpoints)
	v.ciliumSelectors(field+".toRequires", r.ToRequires)
	v.ciliumBlocks(field+".to", r.ToCIDR, r.ToCIDRSet)
	v.entities(field+".toEntities", r.ToEntities)
	for i := range r.ToServices {
		v.ciliumService(fmt.Sprintf("%s.toServices[%d]", field, i), &r.ToServices[i])
	}
	v.ciliumPorts(field, r.ToPorts)
	v.ciliumICMPs(field, r.ICMPs, len(r.ToPorts) > 0)
}

// oneKind: the API takes peers of one kind in an entry.
func (v *validator) oneKind(field string, lengths map[string]int) {
	var given []string
	for name, length := range lengths {
		if length > 0 {
			given = append(given, name)
		}
	}
	if len(given) > 1 {
		slices.Sort(given)
		v.fail(field, "has %s in one entry, which the API refuses: make an entry of each", strings.Join(given, " and "))
	}
}

func (v *validator) ciliumSelectors(field string, selectors []metav1.LabelSelector) {
	for i := range selectors {
		v.ciliumSelector(fmt.Sprintf("%s[%d]", field, i), &selectors[i])
	}
}

// ciliumSelector is a selector whose keys may begin with a source.
func (v *validator) ciliumSelector(field string, selector *metav1.LabelSelector) {
	plain := metav1.LabelSelector{MatchLabels: map[string]string{}}
	for key, value := range selector.MatchLabels {
		plain.MatchLabels[v.bareKey(field+".matchLabels", key)] = value
	}
	for i, e := range selector.MatchExpressions {
		e.Key = v.bareKey(fmt.Sprintf("%s.matchExpressions[%d].key", field, i), e.Key)
		plain.MatchExpressions = append(plain.MatchExpressions, e)
	}
	v.selector(field, &plain)
}

// bareKey takes off a key what Cilium puts before the keys of the API.
func (v *validator) bareKey(field, key string) string {
	source, bare, found := strings.Cut(key, ":")
	if !found {
		source, bare = "any", key
	}
	switch {
	case source == "reserved":
		if !slices.Contains(ciliumEntities, bare) {
			v.fail(field, "key %q: nobody is reserved:%s: use one of %s", key, bare, strings.Join(ciliumEntities[1:], ", "))
		}
	case source != "k8s" && source != "any":
		v.fail(field, "key %q: labels come from k8s:, reserved: or any:, not from %q", key, source)
		return "x"
	}
	return strings.TrimPrefix(bare, "io.cilium.k8s.namespace.labels.")
}

func (v *validator) ciliumBlocks(field string, blocks []string, sets []CiliumCIDRRule) {
	for i, text := range blocks {
		at := fmt.Sprintf("%sCIDR[%d]", field, i)
		if addr, err := netip.ParseAddr(text); err == nil && !addr.Is4In6() && addr.Zone() == "" {
			continue // Cilium takes an address alone
		}
		v.looseBlock(at, text)
	}
	for i, set := range sets {
		at := fmt.Sprintf("%sCIDRSet[%d]", field, i)
		v.unsupported(at+".cidrGroupRef", set.CIDRGroupRef)
		v.unsupported(at+".cidrGroupSelector", set.CIDRGroupSelector)
		if set.CIDR == "" && (set.CIDRGroupRef != nil || set.CIDRGroupSelector != nil) {
			continue
		}
		cidr, ok := v.looseBlock(at+".cidr", set.CIDR)
		for j, text := range set.Except {
			field := fmt.Sprintf("%s.except[%d]", at, j)
			except, okToo := v.looseBlock(field, text)
			if ok && okToo && !Within(except, cidr) {
				v.fail(field, "%s is not within %s: make it smaller or remove it", text, set.CIDR)
			}
		}
	}
}

// looseBlock is a block whose bits beyond its length do not count. The compiler
// warns of them.
func (v *validator) looseBlock(field, text string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		v.fail(field, "%q is not an address block like 10.0.0.0/8 or fd00::/16", text)
		return prefix, false
	}
	return prefix.Masked(), true
}

func (v *validator) entities(field string, entities []string) {
	for i, entity := range entities {
		if !slices.Contains(ciliumEntities, entity) {
			v.fail(fmt.Sprintf("%s[%d]", field, i), "%q is not one of %s", entity, strings.Join(ciliumEntities, ", "))
		}
	}
}

func (v *validator) ciliumService(field string, svc *CiliumService) {
	switch {
	case (svc.ByName == nil) == (svc.BySelector == nil):
		v.fail(field, "needs one of k8sService and k8sServiceSelector")
	case svc.ByName != nil && svc.ByName.ServiceName == "":
		v.fail(field+".k8sService.serviceName", "is missing: name the service")
	case svc.BySelector != nil:
		v.selector(field+".k8sServiceSelector.selector", &svc.BySelector.Selector)
	}
}

func (v *validator) ciliumPorts(field string, lists []CiliumPortRule) {
	for i := range lists {
		at, list := fmt.Sprintf("%s.toPorts[%d]", field, i), &lists[i]
		v.unsupported(at+".rules", list.Rules)
		v.unsupported(at+".terminatingTLS", list.TerminatingTLS)
		v.unsupported(at+".originatingTLS", list.OriginatingTLS)
		v.unsupported(at+".serverNames", list.ServerNames)
		v.unsupported(at+".listener", list.Listener)
		switch {
		case len(list.Ports) == 0:
			v.fail(at+".ports", "is empty: list ports, or remove toPorts for any")
		case len(list.Ports) > maxCiliumPorts:
			v.fail(at+".ports", "has %d ports, and the API takes %d: use ranges, or a second list", len(list.Ports), maxCiliumPorts)
		}
		for j, port := range list.Ports {
			v.ciliumPort(fmt.Sprintf("%s.ports[%d]", at, j), port)
		}
	}
}

func (v *validator) ciliumPort(field string, port CiliumPort) {
	switch strings.ToUpper(port.Protocol) {
	case "", "ANY", "TCP", "UDP", "SCTP":
	case "ICMP", "ICMPV6", "VRRP", "IGMP":
		v.fail(field+".protocol", "%s is not supported yet: use TCP, UDP, SCTP or ANY", port.Protocol)
	default:
		v.fail(field+".protocol", "%q is not one of TCP, UDP, SCTP, ANY%s", port.Protocol, protocolRemedy(port.Protocol, "TCP", "UDP", "SCTP", "ANY"))
	}
	number, err := strconv.ParseUint(port.Port, 10, 16)
	switch {
	case port.Port == "":
		v.fail(field+".port", "is missing: give a number, \"0\" for any, or a name")
	case err != nil && strings.Trim(port.Port, "0123456789") == "":
		v.fail(field+".port", "%s is not in 0–65535", port.Port)
	case err != nil:
		if problems := validation.IsValidPortName(strings.ToLower(port.Port)); problems != nil {
			v.fail(field+".port", "%q is neither a number nor the name of a port: %s", port.Port, problems[0])
		}
		if port.EndPort != 0 {
			v.fail(field+".endPort", "%d cannot end a range that begins at a name: give port as a number", port.EndPort)
		}
	case port.Port != strconv.FormatUint(number, 10):
		v.fail(field+".port", "%q: write %d", port.Port, number)
	case port.EndPort < 0 || port.EndPort > 65535:
		v.fail(field+".endPort", "%d is not in 0–65535", port.EndPort)
	case port.EndPort != 0 && number == 0:
		v.fail(field+".endPort", "%d ends a range that begins at 0, which is any port: begin at 1", port.EndPort)
	case port.EndPort != 0 && uint64(port.EndPort) < number:
		v.fail(field+".endPort", "%d is less than port %d: swap them", port.EndPort, number)
	}
}
