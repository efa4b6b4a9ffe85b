// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// CiliumNetworkPolicy is a policy of Cilium's for pods of its own namespace
// (cilium.io/v2), as far as it is about addresses and ports.
//
// Fields of type json.RawMessage are known and not supported: Validate refuses
// them by name.
type CiliumNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   *CiliumRule     `json:"spec,omitempty"`
	Specs  []*CiliumRule   `json:"specs,omitzero"`
	Status json.RawMessage `json:"status,omitempty"` // not read
}

// CiliumClusterwideNetworkPolicy is a policy of Cilium's for pods of every
// namespace (cilium.io/v2).
type CiliumClusterwideNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   *CiliumRule     `json:"spec,omitempty"`
	Specs  []*CiliumRule   `json:"specs,omitzero"`
	Status json.RawMessage `json:"status,omitempty"` // not read
}

// CiliumRule is what one spec of a policy says. Keys of labels in its selectors
// may begin with the label's source: k8s:, reserved:, or any:, which is what
// none means.
type CiliumRule struct {
	EndpointSelector *metav1.LabelSelector `json:"endpointSelector,omitempty"`
	NodeSelector     *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	Ingress     []CiliumIngressRule `json:"ingress,omitzero"`
	IngressDeny []CiliumIngressRule `json:"ingressDeny,omitzero"`
	Egress      []CiliumEgressRule  `json:"egress,omitzero"`
	EgressDeny  []CiliumEgressRule  `json:"egressDeny,omitzero"`

	EnableDefaultDeny CiliumDefaultDeny `json:"enableDefaultDeny,omitzero"`

	Description string          `json:"description,omitempty"`
	Labels      json.RawMessage `json:"labels,omitempty"` // of the rule, for people
	Log         json.RawMessage `json:"log,omitempty"`
}

// CiliumDefaultDeny says whether a rule isolates the pods that it selects. By
// default it does so in the directions in which it has rules.
type CiliumDefaultDeny struct {
	Ingress *bool `json:"ingress,omitempty"`
	Egress  *bool `json:"egress,omitempty"`
}

// CiliumIngressRule is an entry of ingress or ingressDeny. A list that is not
// there does not restrict; one that is empty matches nobody.
type CiliumIngressRule struct {
	FromEndpoints []metav1.LabelSelector `json:"fromEndpoints,omitzero"`
	FromRequires  []metav1.LabelSelector `json:"fromRequires,omitzero"`
	FromCIDR      []string               `json:"fromCIDR,omitzero"`
	FromCIDRSet   []CiliumCIDRRule       `json:"fromCIDRSet,omitzero"`
	FromEntities  []string               `json:"fromEntities,omitzero"`
	ToPorts       []CiliumPortRule       `json:"toPorts,omitzero"`
	ICMPs         []CiliumICMPRule       `json:"icmps,omitzero"`

	FromNodes      json.RawMessage `json:"fromNodes,omitempty"`
	FromGroups     json.RawMessage `json:"fromGroups,omitempty"`
	Authentication json.RawMessage `json:"authentication,omitempty"`
}

// CiliumEgressRule is an entry of egress or egressDeny.
type CiliumEgressRule struct {
	ToEndpoints []metav1.LabelSelector `json:"toEndpoints,omitzero"`
	ToRequires  []metav1.LabelSelector `json:"toRequires,omitzero"`
	ToCIDR      []string               `json:"toCIDR,omitzero"`
	ToCIDRSet   []CiliumCIDRRule       `json:"toCIDRSet,omitzero"`
	ToEntities  []string               `json:"toEntities,omitzero"`
	ToServices  []CiliumService        `json:"toServices,omitzero"`
	ToPorts     []CiliumPortRule       `json:"toPorts,omitzero"`
	ICMPs       []CiliumICMPRule       `json:"icmps,omitzero"`

	ToNodes        json.RawMessage `json:"toNodes,omitempty"`
	ToGroups       json.RawMessage `json:"toGroups,omitempty"`
	ToFQDNs        json.RawMessage `json:"toFQDNs,omitempty"`
	Authentication json.RawMessage `json:"authentication,omitempty"`
}

// CiliumCIDRRule is an address block without some blocks in it.
type CiliumCIDRRule struct {
	CIDR   string   `json:"cidr,omitempty"`
	Except []string `json:"except,omitzero"`

	CIDRGroupRef      json.RawMessage `json:"cidrGroupRef,omitempty"`
	CIDRGroupSelector json.RawMessage `json:"cidrGroupSelector,omitempty"`
}

// CiliumService stands for who serves some services: by name, or by labels of
// the services. An empty namespace is any.
type CiliumService struct {
	ByName *struct {
		ServiceName string `json:"serviceName,omitempty"`
		Namespace   string `json:"namespace,omitempty"`
	} `json:"k8sService,omitempty"`
	BySelector *struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Namespace string               `json:"namespace,omitempty"`
	} `json:"k8sServiceSelector,omitempty"`
}

// CiliumPortRule is a list of ports, one of which has to be the destination's.
type CiliumPortRule struct {
	Ports []CiliumPort `json:"ports,omitzero"`

	Rules          json.RawMessage `json:"rules,omitempty"`
	TerminatingTLS json.RawMessage `json:"terminatingTLS,omitempty"`
	OriginatingTLS json.RawMessage `json:"originatingTLS,omitempty"`
	ServerNames    json.RawMessage `json:"serverNames,omitempty"`
	Listener       json.RawMessage `json:"listener,omitempty"`
}

// CiliumPort is a port by number or by name, or a range of numbers.
type CiliumPort struct {
	Port     string `json:"port"`              // "0": any
	EndPort  int32  `json:"endPort,omitempty"` // 0: none
	Protocol string `json:"protocol,omitempty"`
}

// CiliumICMPRule is a list of kinds of ICMP messages, one of which the packet
// has to be.
type CiliumICMPRule struct {
	Fields []CiliumICMP `json:"fields,omitzero"`
}

// CiliumICMP is a kind of ICMP messages.
type CiliumICMP struct {
	Family string              `json:"family,omitempty"` // IPv4, which none means, or IPv6
	Type   *intstr.IntOrString `json:"type"`             // by number, or by Cilium's name for it
}
