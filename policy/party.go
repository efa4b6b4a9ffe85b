// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model/manifest"
)

// FindParty brings a name that a person gives to the form in which the model
// knows it: an address, namespace/pod or the name of a node. A controller's name is
// that of the pod in place of its own.
func (i *Input) FindParty(text string) (string, error) {
	objs := i.Objects
	if _, err := netip.ParseAddr(text); err == nil {
		return text, nil
	}
	if kind, name, found := strings.Cut(text, "/"); found {
		// As kubectl takes a kind. A namespace of that name goes before: it was
		// meant wherever it has such a pod.
		switch strings.ToLower(kind) {
		case "node", "nodes", "no":
			if objs.Pods[text] == nil && objs.Nodes[name] != nil {
				return name, nil
			}
		case "pod", "pods", "po":
			if objs.Pods[text] == nil {
				text = name
			}
		}
		if called := manifest.ControllerKind(kind); called != "" && objs.Pods[text] == nil {
			return i.findController(called, name)
		}
	}
	names := []string{text, "default/" + text}
	if dot := strings.LastIndexByte(text, '.'); dot > 0 && !strings.Contains(text, "/") {
		names = append(names, text[dot+1:]+"/"+text[:dot])
	}
	for _, name := range names {
		if objs.Pods[name] != nil {
			return name, nil
		}
	}
	if node := strings.TrimPrefix(text, "node/"); objs.Nodes[node] != nil {
		return node, nil
	}
	have := slices.Sorted(maps.Keys(objs.Pods))
	const most = 10
	if len(have) > most {
		have = append(have[:most], "…")
	}
	return "", fmt.Errorf("there is no pod %q among the objects: name one as POD.NAMESPACE or NAMESPACE/POD, or give an address; there are %s", text, strings.Join(have, ", "))
}

// findController finds the pod in place of those of a controller: NAMESPACE/NAME, or
// NAME of namespace default.
func (i *Input) findController(kind, name string) (string, error) {
	namespace, own, found := strings.Cut(name, "/")
	if !found {
		namespace, own = "default", name
	}
	for n := range i.Substitutes {
		if s := &i.Substitutes[n]; s.Kind == kind && s.name == own && strings.HasPrefix(s.Pod, namespace+"/") {
			return s.Pod, nil
		}
	}
	return "", fmt.Errorf("there is no %s %s/%s without pods of its own among the objects: name one of its pods", kind, namespace, own)
}

// AddressesOf are those of a pod, a node or an address.
func AddressesOf(objs *manifest.Objects, name string) []netip.Addr {
	var texts []string
	switch pod, node := objs.Pods[name], objs.Nodes[name]; {
	case pod != nil:
		texts = append(texts, pod.Status.PodIP)
		for _, ip := range pod.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
	case node != nil:
		for _, a := range node.Status.Addresses {
			texts = append(texts, a.Address)
		}
	default:
		texts = []string{name}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// NamesBlocks is whether a policy names blocks that hold pods.
func NamesBlocks(objs *manifest.Objects) bool {
	for _, policy := range objs.NetworkPolicies {
		var peers []networkingv1.NetworkPolicyPeer
		for _, rule := range policy.Spec.Ingress {
			peers = append(peers, rule.From...)
		}
		for _, rule := range policy.Spec.Egress {
			peers = append(peers, rule.To...)
		}
		if slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return p.IPBlock != nil }) {
			return true
		}
	}
	for _, policy := range objs.ClusterNetworkPolicies {
		for _, rule := range policy.Spec.Egress {
			if slices.ContainsFunc(rule.To, func(p policyv1alpha2.ClusterNetworkPolicyEgressPeer) bool { return len(p.Networks) > 0 }) {
				return true
			}
		}
	}
	return false
}
