/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_REASONS_H
#define WEIR_REASONS_H

/* Why a packet was dropped or answered. The numbers are kept for ever: they
 * are in counters and events that outlive an upgrade. Go names them by these
 * names in lower case with hyphens, without REASON_.
 */
enum reason {
	REASON_NONE = 0,

	/* The frame and its headers. */
	REASON_TRUNCATED = 1,		/* a header does not fit in the frame */
	REASON_UNKNOWN_ETHERTYPE = 2,	/* neither IPv4, IPv6 nor ARP */
	REASON_VLAN = 3,		/* a VLAN tag, in the frame or beside it */
	REASON_BAD_IP_HEADER = 4,	/* version, or header length under 20 */
	REASON_BAD_IP_LENGTH = 5,	/* length beyond the frame or under the header */
	REASON_BAD_TCP_HEADER = 6,	/* data offset under 20 or beyond the packet */
	REASON_BAD_TCP_FLAGS = 7,	/* none of SYN, ACK, RST; SYN+FIN; SYN+RST */
	REASON_BAD_UDP_LENGTH = 8,	/* under 8 or beyond the packet */
	REASON_BAD_UDP_CHECKSUM = 9,	/* none, over IPv6 */
	REASON_EXTENSION_LIMIT = 10,	/* more IPv6 extension headers than read */
	REASON_ROUTING_HEADER = 11,	/* IPv6, type 0 (RFC 5095), or with segments left */
	REASON_FRAGMENT = 12,		/* a fragment that belongs to nothing known */
	REASON_SOURCE_ROUTE = 13,	/* IPv4 option LSRR or SSRR */
	REASON_BAD_IP_OPTIONS = 14,	/* an IPv4 option that its header does not hold */
	REASON_STRAY_SYN = 15,		/* a connection opened where another's answers go */
	REASON_OUT_OF_WINDOW = 16,	/* a FIN or RST that no end of the connection has sent */

	/* Addresses. */
	REASON_MARTIAN_SOURCE = 20,	/* not the address of a host */
	REASON_MARTIAN_DESTINATION = 21,
	REASON_SPOOFED_SOURCE = 22,	/* not the sender's address */
	REASON_SAME_ADDRESS = 23,	/* source = destination */
	REASON_NOT_FOR_ENDPOINT = 24,	/* led to a pod that has another address */
	REASON_TTL_EXCEEDED = 25,	/* TTL or hop limit 0 or 1 where it is routed */

	/* Protocols between neighbours. */
	REASON_BAD_ARP = 30,		/* malformed, or not for the gateway */
	REASON_BAD_NDP = 31,		/* malformed, forged, or not for the gateway */

	/* ICMP. */
	REASON_ICMP_TYPE = 40,		/* a type that is not let through */
	REASON_ICMP_NO_FLOW = 41,	/* a reply or an error of no known flow */
	REASON_ICMP_MTU = 42,		/* an error that claims less than any link carries */

	/* Tunnels. */
	REASON_BAD_TUNNEL = 45,		/* a tunnel's packet for nobody here, or what would look like one */

	/* Services. */
	REASON_NO_FRONTEND = 46,	/* a service's address, and no port of it */

	/* Let through, and told: what a policy's denial would have dropped. */
	REASON_AUDIT_EGRESS = 48,
	REASON_AUDIT_INGRESS = 49,

	/* Decisions. */
	REASON_NO_ENDPOINT = 50,	/* no endpoint, or one without policy state */
	REASON_POLICY_EGRESS = 51,
	REASON_POLICY_INGRESS = 52,
	REASON_NO_BACKEND = 53,		/* refused: the service has nobody */
	REASON_NO_ROUTE = 54,
	REASON_FLOW_TABLE_FULL = 55,
	REASON_NO_SOURCE_PORT = 56,	/* every source port tried is taken */
	REASON_REWRITE_FAILED = 57,	/* the kernel refused to change the packet */
	REASON_SOURCE_RANGE = 58,	/* the service is not for this source */
	REASON_NO_LOCAL_BACKEND = 59,	/* the service has nobody on this node */

	/* Answers. */
	REASON_ARP_ANSWERED = 60,
	REASON_NDP_ANSWERED = 61,
	REASON_TOO_BIG = 62,		/* for the tunnel: the sender is told what fits */

	REASON_MAX = 128,	/* room for those to come; a note and a packet have 8 bits */
};

#endif
