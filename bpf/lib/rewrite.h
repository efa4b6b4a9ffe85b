/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_REWRITE_H
#define WEIR_REWRITE_H

#include "csum.h"
#include "verdict.h"

/* From linux/bpf.h of kernel 6.16 (ead7f9b8de65): without it, a checksum that
 * a device has summed over the whole packet goes wrong for IPv6, where a
 * changed address is made up for by the L4 checksum.
 */
#define WEIR_F_IPV6 (1ULL << 7)

/* Whether the kernel has WEIR_F_IPV6; older ones refuse it. */
volatile const __u32 csum_ipv6;

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
	case IPPROTO_ICMP:
		return offsetof(struct icmphdr, checksum);
	}
	return 0;
}

/* Adjusts a checksum by the helper, which knows of partial ones: these cover the
 * addresses and not yet the ports.
 */
static __always_inline int rewrite_l4_csum(ctx_t *ctx, struct packet *pkt,
					   const struct flow *flow)
{
	__u32 offset = csum_offset(pkt);
	__u64 flags = 0;

	if (!offset || pkt->fragment == FRAGMENT_LATER)
		return 0;
	/* ICMP of the other family is no known protocol. */
	if (pkt->key.proto == (pkt->key.family == FAMILY_IPV4 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return 0;
	offset += pkt->l4_off;
	if (pkt->key.proto == IPPROTO_UDP)
		flags = BPF_F_MARK_MANGLED_0;
	if (flow->port_diff &&
	    ctx_l4_csum_replace(ctx, offset, 0, flow->port_diff, flags))
		return -1;
	if (pkt->key.proto == IPPROTO_ICMP)
		return 0;	/* it has no pseudo header */
	flags |= BPF_F_PSEUDO_HDR;
	if (csum_ipv6 && pkt->key.family == FAMILY_IPV6)
		flags |= WEIR_F_IPV6;
	if (flow->addr_diff &&
	    ctx_l4_csum_replace(ctx, offset, 0, flow->addr_diff, flags))
		return -1;
	return 0;
}

static __always_inline int has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

/* Other protocols have icmp_type 0, which is that of IPv4's reply. */
static __noinline int is_echo(const struct packet *pkt)
{
	__u8 type = pkt->icmp_type;

	if (pkt->key.family == FAMILY_IPV4)
		return pkt->key.proto == IPPROTO_ICMP && (type == ICMP_ECHO || type == ICMP_ECHOREPLY);
	return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY;
}

/* Whether a source port, or an echo's identifier, may be another. SCTP's
 * checksum covers its ports, and is left alone.
 */
static __always_inline int changes_port(const struct packet *pkt)
{
	return has_ports(pkt->key.proto) || is_echo(pkt);
}

/* Whether the hook forwards as a router does: it decrements the TTL. */
static __always_inline int routes(__u8 hook, const struct flow *flow)
{
	return (is_hook(hook, HOOK_FROM_CONTAINER) || is_hook(hook, HOOK_FROM_DEVICE)) &&
	       flow->out != OUT_HOST;
}

static __always_inline int routed(const struct packet *pkt, const struct flow *flow)
{
	return routes(pkt->key.hook, flow);
}

/* Writes ports, or an echo's identifier: a request has it as source port, a reply as
 * destination port, and the other port is 0.
 */
static __always_inline int rewrite_ports(ctx_t *ctx, struct packet *pkt,
					 const struct flow *flow)
{
	void *l4 = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	struct ports *ports = l4;
	struct icmphdr *icmp = l4;

	if (pkt->fragment == FRAGMENT_LATER || !changes_port(pkt))
		return 0;
	/* A header with ports is at least as long. */
	if ((void *)(icmp + 1) > ctx_data_end(ctx))
		return -1;
	if (has_ports(pkt->key.proto)) {
		ports->src = flow->sport;
		ports->dst = flow->dport;
	} else {
		icmp->id = flow->sport | flow->dport;
	}
	return 0;
}

static __always_inline void rewrite_ip(struct iphdr *ip, const struct flow *flow)
{
	ip->saddr = flow->src.w[3];
	ip->daddr = flow->dst.w[3];
	ip->check = csum_apply(ip->check, flow->addr_diff);
}

static __always_inline void ttl_decrement4(struct iphdr *ip)
{
	__u32 check = ip->check;

	check += bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
}

/* The hop limit is in no checksum of IPv6. But a device may have summed the whole
 * packet: without this correction the pod's stack would find that sum wrong, and log
 * it.
 */
static __always_inline void ttl_decrement6(ctx_t *ctx, struct ipv6hdr *ip6)
{
	ip6->hop_limit--;
	ctx_csum_update(ctx, (__u16)~bpf_htons(1));
}

/* What is routed is a hop on its way. */
static __always_inline int ttl_decrement(ctx_t *ctx, const struct packet *pkt)
{
	struct ethhdr *eth = ctx_data(ctx);

	if (pkt->key.family == FAMILY_IPV4) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > ctx_data_end(ctx))
			return -1;
		ttl_decrement4(ip);
	} else {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) > ctx_data_end(ctx))
			return -1;
		ttl_decrement6(ctx, ip6);
	}
	return 0;
}

/* Translates the packet: its tuple becomes what the flow says. */
static __always_inline int translate(ctx_t *ctx, struct packet *pkt,
				const struct flow *flow)
{
	struct ethhdr *eth;

	if (rewrite_l4_csum(ctx, pkt, flow))
		return -1;
	eth = ctx_data(ctx);
	if (pkt->key.family == FAMILY_IPV4) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > ctx_data_end(ctx))
			return -1;
		rewrite_ip(ip, flow);
	} else {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) > ctx_data_end(ctx))
			return -1;
		__builtin_memcpy(&ip6->saddr, &flow->src, sizeof(flow->src));
		__builtin_memcpy(&ip6->daddr, &flow->dst, sizeof(flow->dst));
	}
	return rewrite_ports(ctx, pkt, flow);
}

/* The same as a call, for slow paths: a call costs some ns. */
static __noinline int translate_slow(ctx_t *ctx, struct packet *pkt,
				     const struct flow *flow)
{
	return translate(ctx, pkt, flow);
}

/* rewrite makes the packet what the flow says: addresses, ports, checksums, hop limit
 * and, for a local pod, MACs. hook is an argument so that the compiler leaves out what
 * others do. fast says that the flow is known, and the packet comes from a pod or by a
 * device of the node.
 */
static __always_inline int rewrite(ctx_t *ctx, struct packet *pkt,
				   const struct flow *flow, __u8 hook, int fast)
{
	struct ethhdr *eth;

	if ((flow->flags & FLOW_TRANSLATED) &&
	    (fast ? translate(ctx, pkt, flow) : translate_slow(ctx, pkt, flow)))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	if (routes(hook, flow) && ttl_decrement(ctx, pkt))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	if (flow->out == OUT_LOCAL && !is_hook(hook, HOOK_TO_CONTAINER)) {
		eth = ctx_data(ctx);
		if ((void *)(eth + 1) > ctx_data_end(ctx))
			return REFUSE(pkt, REASON_REWRITE_FAILED);
		__builtin_memcpy(eth->h_source, flow->smac, ETH_ALEN);
		__builtin_memcpy(eth->h_dest, flow->dmac, ETH_ALEN);
	}
	return REASON_NONE;
}

/* For a flow whose packets are not translated. */
static __always_inline void clear_diffs(struct flow *flow)
{
	flow->addr_diff = 0;
	flow->port_diff = 0;
}

/* Computes the checksum differences of a flow once, for rewrite. */
static __noinline int set_diffs(struct flow *flow, struct flow_key *key)
{
	struct ports from = { key->sport, key->dport };
	struct ports to = { flow->sport, flow->dport };
	__s64 diff;

	if (addr_equal(&flow->src, &key->src) && addr_equal(&flow->dst, &key->dst) &&
	    from.src == to.src && from.dst == to.dst) {
		flow->flags &= ~FLOW_TRANSLATED;
		clear_diffs(flow);
		return 0;
	}
	flow->flags |= FLOW_TRANSLATED;
	diff = bpf_csum_diff(key->src.w, sizeof(struct addr), flow->src.w, sizeof(struct addr), 0);
	diff = bpf_csum_diff(key->dst.w, sizeof(struct addr), flow->dst.w, sizeof(struct addr), diff);
	flow->addr_diff = diff;
	flow->port_diff = bpf_csum_diff((void *)&from, sizeof(from), (void *)&to, sizeof(to), 0);
	return 0;
}

#endif
