/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_REFUSE_H
#define WEIR_REFUSE_H

#include "decide.h"
#include "rewrite.h"

#undef THIS_FILE
#define THIS_FILE FILE_REFUSE_H

/* Refuses a packet by ICMP port unreachable (RFC 792, RFC 4443 3.1), from the
 * address that it was sent to, so that a connect fails at once and for TCP and
 * UDP alike. The quote is the IP header and the L4 header without options:
 * what a socket needs, and all that can be summed in one go. Packets with IP
 * options or extension headers are dropped without an answer.
 *
 * The quote of TCP has to reach over the checksum, since the kernel does not
 * cut a packet whose checksum is still to be made above it.
 */
#define REFUSE_TTL	64

static __always_inline void eth_swap(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

/* Cuts the packet to its quote and makes room for the headers before it. */
static __always_inline int refuse_room(struct __sk_buff *skb, __u32 quote, __u32 headers)
{
	if (bpf_skb_change_tail(skb, ETH_LEN + quote, 0))
		return -1;
	if (bpf_skb_adjust_room(skb, headers, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	return linear(skb, ETH_LEN + headers + quote);
}

static __always_inline int refuse_ipv4(struct __sk_buff *skb, struct packet *pkt, const __u32 l4)
{
	const __u32 quote = sizeof(struct iphdr) + l4;
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} made = {
		.ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(sizeof(made) + quote),
			.ttl = REFUSE_TTL,
			.protocol = IPPROTO_ICMP,
			.saddr = pkt->key.dst.w[3],
			.daddr = pkt->key.src.w[3],
		},
		.icmp = { .type = ICMP_DEST_UNREACH, .code = ICMP_PORT_UNREACH },
	};
	void *start;
	__s64 sum;

	if (refuse_room(skb, quote, sizeof(made)))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	start = frame_start(skb);
	if (start + ETH_LEN + sizeof(made) + quote > frame_end(skb))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	sum = bpf_csum_diff(NULL, 0, (void *)&made.ip, sizeof(made.ip), 0);
	made.ip.check = csum_fold((__u32)sum);
	sum = bpf_csum_diff(NULL, 0, (void *)&made.icmp, sizeof(made.icmp), 0);
	sum = bpf_csum_diff(NULL, 0, start + ETH_LEN + sizeof(made), quote, sum);
	made.icmp.checksum = csum_fold((__u32)sum);
	__builtin_memcpy(start + ETH_LEN, &made, sizeof(made));
	eth_swap(start);
	return REASON_NONE;
}

struct pseudo6 {
	struct addr src;
	struct addr dst;
	__be32 len;
	__be32 next;
};

static __always_inline int refuse_ipv6(struct __sk_buff *skb, struct packet *pkt, const __u32 l4)
{
	const __u32 quote = sizeof(struct ipv6hdr) + l4;
	struct icmp6hdr icmp = { .icmp6_type = ICMPV6_DEST_UNREACH, .icmp6_code = ICMPV6_PORT_UNREACH };
	struct ipv6hdr ip6 = {
		.version = 6,
		.payload_len = bpf_htons(sizeof(icmp) + quote),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = REFUSE_TTL,
	};
	struct pseudo6 pseudo = {
		.src = pkt->key.dst,
		.dst = pkt->key.src,
		.len = bpf_htonl(sizeof(icmp) + quote),
		.next = bpf_htonl(IPPROTO_ICMPV6),
	};
	void *start;
	__s64 sum;

	__builtin_memcpy(&ip6.saddr, &pkt->key.dst, sizeof(ip6.saddr));
	__builtin_memcpy(&ip6.daddr, &pkt->key.src, sizeof(ip6.daddr));
	if (refuse_room(skb, quote, sizeof(ip6) + sizeof(icmp)))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	start = frame_start(skb);
	if (start + ETH_LEN + sizeof(ip6) + sizeof(icmp) + quote > frame_end(skb))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	sum = bpf_csum_diff(NULL, 0, (void *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (void *)&icmp, sizeof(icmp), sum);
	sum = bpf_csum_diff(NULL, 0, start + ETH_LEN + sizeof(ip6) + sizeof(icmp), quote, sum);
	icmp.icmp6_cksum = csum_fold((__u32)sum);
	__builtin_memcpy(start + ETH_LEN, &ip6, sizeof(ip6));
	__builtin_memcpy(start + ETH_LEN + sizeof(ip6), &icmp, sizeof(icmp));
	eth_swap(start);
	return REASON_NONE;
}

/* refuse makes the packet its own refusal. A reason other than NONE: it could
 * not be made, and the packet is to be dropped.
 */
static __noinline int refuse(struct __sk_buff *skb, struct packet *pkt)
{
	if (!pkt->plain)
		return REFUSE(pkt, REASON_NO_BACKEND);
	if (pkt->key.proto == IPPROTO_TCP)
		return pkt->key.family == FAMILY_IPV4 ?
			refuse_ipv4(skb, pkt, sizeof(struct tcphdr)) :
			refuse_ipv6(skb, pkt, sizeof(struct tcphdr));
	if (pkt->key.proto == IPPROTO_UDP)
		return pkt->key.family == FAMILY_IPV4 ?
			refuse_ipv4(skb, pkt, sizeof(struct udphdr)) :
			refuse_ipv6(skb, pkt, sizeof(struct udphdr));
	return REFUSE(pkt, REASON_NO_BACKEND);
}

#endif
