/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_REWRITE_H
#define WEIR_REWRITE_H

#include "decide.h"

#undef THIS_FILE
#define THIS_FILE FILE_REWRITE_H

/* From linux/bpf.h of kernel 6.16 (ead7f9b8de65): without it, a checksum that
 * a device has summed over the whole packet goes wrong for IPv6, where a
 * changed address is made up for by the L4 checksum.
 */
#define WEIR_F_IPV6 (1ULL << 7)

/* Whether the kernel has WEIR_F_IPV6; older ones refuse it. */
volatile const __u32 csum_ipv6;

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* RFC 1624, equation 3, with the difference already summed. */
static __always_inline __u16 csum_apply(__u16 check, __u32 diff)
{
	return csum_fold((__u64)(__u16)~check + diff);
}

/* Where the L4 checksum is; 0 for protocols that have none over addresses. */
static __always_inline __u32 csum_offset(const struct packet *pkt)
{
	switch (pkt->key.proto) {
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return offsetof(struct udphdr, check);
	case IPPROTO_ICMPV6:
		return offsetof(struct icmp6hdr, icmp6_cksum);
	}
	return 0;
}

/* Checksums by the helper, which knows of partial ones: there the addresses
 * count and the ports do not yet.
 */
static __always_inline int rewrite_l4_csum(struct __sk_buff *skb, struct packet *pkt,
					   const struct flow *flow)
{
	__u32 offset = csum_offset(pkt);
	__u64 flags = 0;

	if (!offset || pkt->fragment == FRAGMENT_LATER)
		return 0;
	offset += pkt->l4_off;
	if (pkt->key.proto == IPPROTO_UDP)
		flags = BPF_F_MARK_MANGLED_0;
	if (flow->port_diff &&
	    bpf_l4_csum_replace(skb, offset, 0, flow->port_diff, flags))
		return -1;
	flags |= BPF_F_PSEUDO_HDR;
	if (csum_ipv6 && pkt->key.family == FAMILY_IPV6)
		flags |= WEIR_F_IPV6;
	if (flow->addr_diff &&
	    bpf_l4_csum_replace(skb, offset, 0, flow->addr_diff, flags))
		return -1;
	return 0;
}

static __always_inline int has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

static __always_inline void rewrite_ip(struct iphdr *ip, const struct flow *flow)
{
	ip->saddr = flow->src.w[3];
	ip->daddr = flow->dst.w[3];
	ip->check = csum_apply(ip->check, flow->addr_diff);
}

static __always_inline void ttl_down(struct iphdr *ip)
{
	__u32 check = ip->check;

	check += bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
}

/* rewrite makes the packet what the flow says: addresses, ports, checksums,
 * hop limit and, for a local pod, MACs.
 */
static __always_inline int rewrite(struct __sk_buff *skb, struct packet *pkt,
				   const struct flow *flow)
{
	int routed = pkt->key.hook == HOOK_FROM_CONTAINER && flow->out != OUT_HOST;
	int translated = flow->flags & FLOW_TRANSLATED;
	struct ethhdr *eth;
	struct ports *ports;

	if (translated && rewrite_l4_csum(skb, pkt, flow))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	if (!translated && !routed)
		return REASON_NONE;

	eth = frame_start(skb);
	if (pkt->key.family == FAMILY_IPV4) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > frame_end(skb))
			return REFUSE(pkt, REASON_REWRITE_FAILED);
		if (translated)
			rewrite_ip(ip, flow);
		if (routed)
			ttl_down(ip);
	} else {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) > frame_end(skb))
			return REFUSE(pkt, REASON_REWRITE_FAILED);
		if (translated) {
			__builtin_memcpy(&ip6->saddr, &flow->src, sizeof(flow->src));
			__builtin_memcpy(&ip6->daddr, &flow->dst, sizeof(flow->dst));
		}
		if (routed)
			ip6->hop_limit--;
	}
	if (routed && flow->out == OUT_LOCAL) {
		__builtin_memcpy(eth->h_source, flow->smac, ETH_ALEN);
		__builtin_memcpy(eth->h_dest, flow->dmac, ETH_ALEN);
	}
	if (translated && has_ports(pkt->key.proto) && pkt->fragment != FRAGMENT_LATER) {
		ports = (void *)eth + (pkt->l4_off & MAX_L4_OFF);
		if ((void *)(ports + 1) > frame_end(skb))
			return REFUSE(pkt, REASON_REWRITE_FAILED);
		ports->src = flow->sport;
		ports->dst = flow->dport;
	}
	return REASON_NONE;
}

/* The differences that rewrite needs, once a flow. */
static __always_inline void flow_diffs(struct flow *flow, struct flow_key *key)
{
	struct ports from = { key->sport, key->dport };
	struct ports to = { flow->sport, flow->dport };
	__s64 diff;

	flow->addr_diff = 0;
	flow->port_diff = 0;
	if (addr_equal(&flow->src, &key->src) && addr_equal(&flow->dst, &key->dst) &&
	    from.src == to.src && from.dst == to.dst) {
		flow->flags &= ~FLOW_TRANSLATED;
		return;
	}
	flow->flags |= FLOW_TRANSLATED;
	diff = bpf_csum_diff(key->src.w, sizeof(struct addr), flow->src.w, sizeof(struct addr), 0);
	diff = bpf_csum_diff(key->dst.w, sizeof(struct addr), flow->dst.w, sizeof(struct addr), diff);
	flow->addr_diff = diff;
	flow->port_diff = bpf_csum_diff((void *)&from, sizeof(from), (void *)&to, sizeof(to), 0);
}

#endif
