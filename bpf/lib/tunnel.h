/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_TUNNEL_H
#define WEIR_TUNNEL_H

#include "judge.h"
#include "refuse.h"
#include "related.h"

#undef THIS_FILE
#define THIS_FILE FILE_TUNNEL_H

/* Direct server return: the node that a client comes to sends the packet as it
 * is to the node of the backend, in an outer header to the backend's address;
 * there it is judged as if the client had come to that node, and the backend's
 * answers go straight to the client.
 *
 *	client --> node A ==[ A > pod [ client > frontend ] ]==> node B --> pod
 *	   ^-------------------- frontend > client -----------------v
 */

#define GENEVE_PORT	6081
#define OUTER_TTL	64
#define IP_DF		0x4000
#define IPPROTO_IPIP4	4
#define IPPROTO_IPIP6	41

struct geneve {
	__u8 options;		/* version and length of options */
	__u8 flags;
	__be16 proto;		/* an ethertype */
	__be32 vni;		/* 24 bits, and 8 reserved */
};

struct outer4 {
	struct iphdr ip;
	struct udphdr udp;
	struct geneve geneve;
};

struct outer6 {
	struct ipv6hdr ip6;
	struct udphdr udp;
	struct geneve geneve;
};

/* Whether what a service leads on would look like a node's tunnel to the node that
 * it goes to: it has the node's source, and who sent it wrote what is inside.
 */
static __noinline int poses_as_tunnel(struct packet *pkt, const struct flow *flow)
{
	struct node *self;

	if (pkt->key.proto != IPPROTO_UDP || flow->dport != bpf_htons(GENEVE_PORT))
		return 0;
	self = node_half(pkt);
	return self && self->tunnel == TUNNEL_GENEVE;
}

static __always_inline __u32 outer_len(const struct packet *pkt, __u8 tunnel)
{
	__u32 len = pkt->key.family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	return tunnel == TUNNEL_GENEVE ? len + sizeof(struct udphdr) + sizeof(struct geneve) : len;
}

/* What of a packet fits into the tunnel, or 0 where this one does. The kernel
 * cuts super-packets of TCP to what is left; the datagrams of one of UDP are as
 * long as they are.
 */
static __always_inline __u32 tunnel_limit(struct __sk_buff *skb, struct packet *pkt)
{
	struct node *self = node_half(pkt);
	__u32 len = pkt->len, limit;

	if (!self)
		return 0;
	limit = self->mtu - outer_len(pkt, self->tunnel);
	if (skb->gso_size && pkt->key.proto == IPPROTO_TCP)
		return 0;
	if (skb->gso_size)
		len = pkt->l4_off - ETH_LEN + sizeof(struct udphdr) + skb->gso_size;
	return len > limit ? limit : 0;
}

/* Makes the packet's checksum, where the kernel has still to make it, one that
 * the kernel makes of the quote again: the sum over len bytes with f in its field
 * is then the opposite of f, and f half of the opposite of the sum without it.
 * The error's own checksum covers f, and is right whether f is made or not.
 */
static __noinline int settle_csum(struct __sk_buff *skb, struct packet *pkt)
{
	struct tcphdr l4 = {};
	__u32 check, half;
	__u16 f;
	__s64 sum;

	if (pkt->key.proto == IPPROTO_TCP) {
		check = pkt->l4_off + offsetof(struct tcphdr, check);
		if (bpf_skb_load_bytes(skb, pkt->l4_off, &l4, sizeof(l4)))
			return -1;
		l4.check = 0;
	} else if (pkt->key.proto == IPPROTO_UDP) {
		struct udphdr *udp = (void *)&l4;

		check = pkt->l4_off + offsetof(struct udphdr, check);
		if (bpf_skb_load_bytes(skb, pkt->l4_off, &l4, sizeof(*udp)))
			return -1;
		udp->check = 0;
	} else {
		return 0;
	}
	if (!csum_partial(skb, check))
		return 0;
	sum = bpf_csum_diff(NULL, 0, (void *)&l4, sizeof(l4), 0);
	half = csum_fold((__u32)sum);
	f = (half >> 1) | (half << 15);
	return bpf_skb_store_bytes(skb, check, &f, sizeof(f), 0);
}

#define FRAGMENT_LEN	8	/* of IPv6's header of a fragment */

/* Whether a packet is the first part of another, and has no options. */
static __always_inline int first_part(const struct packet *pkt)
{
	__u32 len = pkt->key.family == FAMILY_IPV4 ? sizeof(struct iphdr) :
						     sizeof(struct ipv6hdr) + FRAGMENT_LEN;

	return pkt->fragment == FRAGMENT_FIRST && pkt->l4_off == ETH_LEN + len;
}

/* Makes the packet the word to its sender that mtu is what fits (RFC 1191, RFC
 * 8201). A reason other than NONE: it could not be made.
 */
static __noinline int refuse_size(struct __sk_buff *skb, struct packet *pkt, __u32 mtu)
{
	int is_tcp = pkt->key.proto == IPPROTO_TCP;

	/* RFC 1122 3.2.2, RFC 4443 2.4: no error about an error. */
	if (is_icmp_error(pkt))
		return REFUSE(pkt, REASON_TOO_BIG);
	/* What comes in parts is told of by the first. It has no checksum of its
	 * own, and the kernel none to make.
	 */
	if (first_part(pkt))
		return pkt->key.family == FAMILY_IPV4 ?
			refuse_ipv4(skb, pkt, ICMP_FRAG_NEEDED, mtu, sizeof(struct udphdr)) :
			refuse_ipv6(skb, pkt, ICMPV6_PKT_TOOBIG, 0, mtu,
				    FRAGMENT_LEN + sizeof(struct udphdr));
	if (!pkt->plain)
		return REFUSE(pkt, REASON_TOO_BIG);
	if (settle_csum(skb, pkt))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	if (pkt->key.family == FAMILY_IPV4)
		return is_tcp ? refuse_ipv4(skb, pkt, ICMP_FRAG_NEEDED, mtu, sizeof(struct tcphdr)) :
				refuse_ipv4(skb, pkt, ICMP_FRAG_NEEDED, mtu, sizeof(struct udphdr));
	return is_tcp ? refuse_ipv6(skb, pkt, ICMPV6_PKT_TOOBIG, 0, mtu, sizeof(struct tcphdr)) :
			refuse_ipv6(skb, pkt, ICMPV6_PKT_TOOBIG, 0, mtu, sizeof(struct udphdr));
}

static __always_inline void outer_udp(struct packet *pkt, struct udphdr *udp, struct geneve *geneve,
				      __u32 len)
{
	/* RFC 8926 3.3: the source port is the entropy of the flow inside. */
	udp->source = bpf_htons(0xc000 | (hash_tuple(&pkt->key, 0) & 0x3fff));
	udp->dest = bpf_htons(GENEVE_PORT);
	udp->len = bpf_htons(len);
	udp->check = 0;	/* RFC 6935: the inner packet has its own */
	geneve->options = 0;
	geneve->flags = 0;
	geneve->proto = pkt->key.family == FAMILY_IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	geneve->vni = 0;
}

static __noinline int wrap4(struct __sk_buff *skb, struct packet *pkt, const struct flow *flow,
			    const struct node *self)
{
	__u32 len = outer_len(pkt, self->tunnel);
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	struct outer4 outer = {};
	__s64 sum;

	if (bpf_skb_load_bytes(skb, ETH_LEN + offsetof(struct iphdr, tos), &outer.ip.tos, 1))
		return -1;
	outer.ip.version = 4;
	outer.ip.ihl = 5;
	outer.ip.tot_len = bpf_htons(pkt->len + len);
	outer.ip.frag_off = bpf_htons(IP_DF);
	outer.ip.ttl = OUTER_TTL;
	outer.ip.protocol = self->tunnel == TUNNEL_GENEVE ? IPPROTO_UDP : IPPROTO_IPIP4;
	outer.ip.saddr = self->masquerade4.w[3];
	outer.ip.daddr = flow->dst.w[3];
	sum = bpf_csum_diff(NULL, 0, (void *)&outer.ip, sizeof(outer.ip), 0);
	outer.ip.check = csum_fold((__u32)sum);
	outer_udp(pkt, &outer.udp, &outer.geneve, pkt->len + len - sizeof(outer.ip));
	if (pkt->key.proto == IPPROTO_UDP)
		flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
	if (self->tunnel == TUNNEL_GENEVE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (bpf_skb_adjust_room(skb, len, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	if (self->tunnel == TUNNEL_GENEVE)
		return bpf_skb_store_bytes(skb, ETH_LEN, &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM);
	return bpf_skb_store_bytes(skb, ETH_LEN, &outer.ip, sizeof(outer.ip), BPF_F_RECOMPUTE_CSUM);
}

static __noinline int wrap6(struct __sk_buff *skb, struct packet *pkt, const struct flow *flow,
			    const struct node *self)
{
	__u32 len = outer_len(pkt, self->tunnel);
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	struct outer6 outer = {};

	/* Version, traffic class and flow label are the inner packet's. */
	if (bpf_skb_load_bytes(skb, ETH_LEN, &outer.ip6, 4))
		return -1;
	outer.ip6.payload_len = bpf_htons(pkt->len + len - sizeof(outer.ip6));
	outer.ip6.nexthdr = self->tunnel == TUNNEL_GENEVE ? IPPROTO_UDP : IPPROTO_IPIP6;
	outer.ip6.hop_limit = OUTER_TTL;
	__builtin_memcpy(&outer.ip6.saddr, &self->masquerade6, sizeof(outer.ip6.saddr));
	__builtin_memcpy(&outer.ip6.daddr, &flow->dst, sizeof(outer.ip6.daddr));
	outer_udp(pkt, &outer.udp, &outer.geneve, pkt->len + len - sizeof(outer.ip6));
	if (pkt->key.proto == IPPROTO_UDP)
		flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
	if (self->tunnel == TUNNEL_GENEVE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (bpf_skb_adjust_room(skb, len, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	if (self->tunnel == TUNNEL_GENEVE)
		return bpf_skb_store_bytes(skb, ETH_LEN, &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM);
	return bpf_skb_store_bytes(skb, ETH_LEN, &outer.ip6, sizeof(outer.ip6),
				   BPF_F_RECOMPUTE_CSUM);
}

/* Puts a packet into the tunnel to flow->dst. */
static __noinline int wrap(struct __sk_buff *skb, struct packet *pkt, const struct flow *flow)
{
	struct node *self = node_half(pkt);
	int failed;

	if (!self || !node_source(pkt))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	failed = pkt->key.family == FAMILY_IPV4 ? wrap4(skb, pkt, flow, self) :
						  wrap6(skb, pkt, flow, self);
	return failed ? REFUSE(pkt, REASON_REWRITE_FAILED) : REASON_NONE;
}

#endif
