// SPDX-License-Identifier: Apache-2.0

package model

// Why a frame is dropped or answered, by the names of bpf/lib/reasons.h.
const (
	ReasonNone               Reason = "" // forwarded
	ReasonTruncated          Reason = "truncated"
	ReasonUnknownEthertype   Reason = "unknown-ethertype"
	ReasonVLAN               Reason = "vlan"
	ReasonBadIPHeader        Reason = "bad-ip-header"
	ReasonBadIPLength        Reason = "bad-ip-length"
	ReasonBadTCPHeader       Reason = "bad-tcp-header"
	ReasonBadTCPFlags        Reason = "bad-tcp-flags"
	ReasonBadUDPLength       Reason = "bad-udp-length"
	ReasonBadUDPChecksum     Reason = "bad-udp-checksum"
	ReasonExtensionLimit     Reason = "extension-limit"
	ReasonRoutingHeader      Reason = "routing-header"
	ReasonFragment           Reason = "fragment"
	ReasonMartianSource      Reason = "martian-source"
	ReasonMartianDestination Reason = "martian-destination"
	ReasonSpoofedSource      Reason = "spoofed-source"
	ReasonSameAddress        Reason = "same-address"
	ReasonNotForEndpoint     Reason = "not-for-endpoint"
	ReasonTTLExceeded        Reason = "ttl-exceeded"
	ReasonBadARP             Reason = "bad-arp"
	ReasonBadNDP             Reason = "bad-ndp"
	ReasonICMPType           Reason = "icmp-type"
	ReasonICMPNoFlow         Reason = "icmp-no-flow"
	ReasonBadTunnel          Reason = "bad-tunnel"
	ReasonNoEndpoint         Reason = "no-endpoint"
	ReasonPolicyEgress       Reason = "policy-egress"
	ReasonPolicyIngress      Reason = "policy-ingress"
	ReasonNoBackend          Reason = "no-backend"
	ReasonNoRoute            Reason = "no-route"
	ReasonFlowTableFull      Reason = "flow-table-full"
	ReasonNoSourcePort       Reason = "no-source-port"
	ReasonRewriteFailed      Reason = "rewrite-failed"
	ReasonSourceRange        Reason = "source-range"
	ReasonNoLocalBackend     Reason = "no-local-backend"
	ReasonTooBig             Reason = "too-big"
	ReasonARPAnswered        Reason = "arp-answered"
	ReasonNDPAnswered        Reason = "ndp-answered"
)
