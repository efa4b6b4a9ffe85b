/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_NEIGHBOUR_H
#define WEIR_NEIGHBOUR_H

#include "verdict.h"
#include "judge.h"
#include "rewrite.h"

/* The pods' gateway is no host: ARP (RFC 826) and neighbour solicitations (RFC 4861)
 * for it are answered here, with the MAC of the host's side of the pod's device.
 */

#define ARP_REQUEST	1
#define ARP_REPLY	2

struct arp {
	__be16 hw_type;
	__be16 proto_type;
	__u8 hw_len;
	__u8 proto_len;
	__be16 op;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
};

/* Compares with one branch. An empty address equals none: its third word is not that of
 * IPv4 addresses.
 */
static __always_inline int v4_equal(const __u8 *bytes, const struct addr *addr)
{
	__be32 v4;

	__builtin_memcpy(&v4, bytes, sizeof(v4));
	return !((v4 ^ addr->w[3]) | (addr->w[2] ^ bpf_htonl(0xffff)));
}

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	return !__builtin_memcmp(a, b, ETH_ALEN);
}

static __always_inline int arp_from_pod(ctx_t *ctx, struct packet *pkt)
{
	struct endpoint *ep;
	struct ethhdr *eth;
	__u8 target[4];
	struct arp *arp;

	ep = endpoint_lookup(pkt, pkt->key.ifindex);
	if (!ep)
		return drop(ctx, pkt, REFUSE(pkt, REASON_NO_ENDPOINT));
	linear(ctx, ETH_LEN + sizeof(*arp));
	eth = ctx_data(ctx);
	arp = (void *)(eth + 1);
	if ((void *)(arp + 1) > ctx_data_end(ctx))
		return drop(ctx, pkt, REFUSE(pkt, REASON_TRUNCATED));

	if (arp->hw_type != bpf_htons(1) || arp->proto_type != bpf_htons(ETH_P_IP) ||
	    arp->hw_len != ETH_ALEN || arp->proto_len != 4 ||
	    !v4_equal(arp->sender_ip, &ep->addr4))
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_ARP));
	if (arp->op == bpf_htons(ARP_REPLY) && mac_equal(arp->sender_mac, ep->pod_mac)) {
		pkt->out = OUT_HOST;
		pkt->where = HERE;
		return deliver_packet(ctx, pkt);
	}
	if (arp->op != bpf_htons(ARP_REQUEST) || !v4_equal(arp->target_ip, &ep->gateway4))
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_ARP));

	__builtin_memcpy(target, arp->target_ip, sizeof(target));
	arp->op = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	__builtin_memcpy(arp->sender_mac, ep->mac, ETH_ALEN);
	__builtin_memcpy(arp->sender_ip, target, 4);
	__builtin_memcpy(eth->h_dest, arp->target_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, ep->mac, ETH_ALEN);
	pkt->where = HERE;
	return answer(ctx, pkt, REASON_ARP_ANSWERED);
}

#define ND_ROUTER_SOLICIT	133
#define ND_NEIGHBOUR_SOLICIT	135
#define ND_NEIGHBOUR_ADVERT	136
#define ND_REDIRECT		137
#define ND_HOP_LIMIT		255
#define ND_OPTION_TARGET_MAC	2

struct nd {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 flags;		/* of an advertisement */
	struct addr target;
};

/* An advertisement with the option that an answer needs. */
struct nd_advert {
	struct nd nd;
	__u8 option;
	__u8 option_len;	/* in 8 bytes */
	__u8 mac[ETH_ALEN];
};

#define ND_ROUTER	0x80
#define ND_SOLICITED	0x40
#define ND_OVERRIDE	0x20

/* Whether a packet is neighbour discovery. icmp_type is 0 for other protocols. */
static __always_inline int is_nd(const struct packet *pkt)
{
	return pkt->key.family == FAMILY_IPV6 &&
	       pkt->icmp_type >= ND_ROUTER_SOLICIT && pkt->icmp_type <= ND_REDIRECT;
}

/* Neighbours' messages only: a pod sends and gets no router messages and redirects. */
static __always_inline int is_neighbour(const struct packet *pkt)
{
	return pkt->icmp_type == ND_NEIGHBOUR_SOLICIT || pkt->icmp_type == ND_NEIGHBOUR_ADVERT;
}

struct nd_answer {
	struct addr src;
	struct addr dst;
	__be32 len;
	__be32 next;
	struct nd_advert advert;
};

/* Makes the solicitation in skb its answer. */
static __noinline int nd_answer(ctx_t *ctx, struct packet *pkt,
				const struct endpoint *ep)
{
	struct nd_answer made = {
		.src = ep->gateway6,
		.dst = pkt->key.src,
		.len = bpf_htonl(sizeof(struct nd_advert)),
		.next = bpf_htonl(IPPROTO_ICMPV6),
		.advert = {
			.nd = { .type = ND_NEIGHBOUR_ADVERT, .target = ep->gateway6 },
			.option = ND_OPTION_TARGET_MAC,
			.option_len = 1,
		},
	};
	__u32 len = ETH_LEN + sizeof(struct ipv6hdr) + sizeof(struct nd_advert);
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	__s64 sum;

	made.advert.nd.flags = bpf_htonl((ND_ROUTER | ND_SOLICITED | ND_OVERRIDE) << 24);
	__builtin_memcpy(made.advert.mac, ep->mac, ETH_ALEN);
	/* One sum over the pseudo header and the message, which lie together. */
	sum = bpf_csum_diff(NULL, 0, (void *)&made, sizeof(made), 0);
	made.advert.nd.check = csum_fold((__u32)sum);

	if (ctx_change_tail(ctx, len, 0))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	linear(ctx, len);
	eth = ctx_data(ctx);
	ip6 = (void *)(eth + 1);
	if ((void *)ip6 + sizeof(*ip6) + sizeof(made.advert) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	__builtin_memcpy(eth->h_dest, ep->pod_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, ep->mac, ETH_ALEN);
	ip6->payload_len = bpf_htons(sizeof(made.advert));
	__builtin_memcpy(&ip6->saddr, &made.src, sizeof(made.src));
	__builtin_memcpy(&ip6->daddr, &made.dst, sizeof(made.dst));
	__builtin_memcpy(ip6 + 1, &made.advert, sizeof(made.advert));
	return REASON_NONE;
}

/* RFC 4861 7.1: what a neighbour may say; RFC 6980 5: never in fragments, which are
 * not plain.
 */
static __always_inline int nd_from_pod(ctx_t *ctx, struct packet *pkt)
{
	struct endpoint *ep;
	struct nd *nd;
	int own, reason;

	ep = endpoint_lookup(pkt, pkt->key.ifindex);
	if (!ep)
		return drop(ctx, pkt, REFUSE(pkt, REASON_NO_ENDPOINT));
	if (!pkt->plain || !is_neighbour(pkt))
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_NDP));
	linear(ctx, pkt->l4_off + sizeof(*nd));
	nd = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	if (pkt->l4_len < sizeof(*nd) || (void *)(nd + 1) > ctx_data_end(ctx))
		return drop(ctx, pkt, REFUSE(pkt, REASON_TRUNCATED));

	own = !addr_none(&ep->addr6) && (addr_equal(&pkt->key.src, &ep->addr6) ||
					 addr_linklocal6(&pkt->key.src));
	if (pkt->ttl != ND_HOP_LIMIT || nd->code || !own)
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_NDP));
	if (nd->type == ND_NEIGHBOUR_ADVERT && addr_equal(&nd->target, &ep->addr6)) {
		pkt->out = OUT_HOST;
		pkt->where = HERE;
		return deliver_packet(ctx, pkt);
	}
	if (nd->type != ND_NEIGHBOUR_SOLICIT || addr_none(&ep->gateway6) ||
	    !addr_equal(&nd->target, &ep->gateway6))
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_NDP));
	reason = nd_answer(ctx, pkt, ep);
	if (reason)
		return drop(ctx, pkt, reason);
	pkt->where = HERE;
	return answer(ctx, pkt, REASON_NDP_ANSWERED);
}

static __always_inline int nd_to_pod(ctx_t *ctx, struct packet *pkt)
{
	struct nd *nd;

	if (!pkt->plain || !is_neighbour(pkt))
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_NDP));
	linear(ctx, pkt->l4_off + sizeof(*nd));
	nd = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	if (pkt->l4_len < sizeof(*nd) || (void *)(nd + 1) > ctx_data_end(ctx))
		return drop(ctx, pkt, REFUSE(pkt, REASON_TRUNCATED));
	if (pkt->ttl != ND_HOP_LIMIT || nd->code)
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_NDP));
	pkt->out = OUT_LOCAL;
	pkt->out_ifindex = pkt->key.ifindex;
	pkt->where = HERE;
	return deliver_packet(ctx, pkt);
}

#endif
