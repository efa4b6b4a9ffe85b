/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_TUNNEL_H
#define WEIR_TUNNEL_H

#include "judge.h"
#include "refuse.h"
#include "icmp_error.h"

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

/* Whether UDP to GENEVE_PORT is a tunnel for the nodes. */
static __noinline int tunnel_is_udp(struct packet *pkt)
{
	struct node *self = node_lookup(pkt);

	return self && self->tunnel == TUNNEL_GENEVE;
}

/* Whether a packet that a service leads to another node would be taken there for a
 * tunnel's: its source is this node, and its payload the client's.
 */
static __noinline int tunnel_forged_by_client(struct packet *pkt, const struct flow *flow)
{
	return pkt->key.proto == IPPROTO_UDP && flow->dport == bpf_htons(GENEVE_PORT) &&
	       tunnel_is_udp(pkt);
}

/* Whether a packet of one of the node's sockets would be taken for the tunnel's by the
 * node of a pod: the tunnel's own packets do not pass here. Any pod on the node's
 * network may bind such a socket.
 */
static __noinline int tunnel_forged_by_socket(struct packet *pkt)
{
	struct ipcache_entry *entry;

	if (pkt->fragment || !pkt->plain || !tunnel_is_udp(pkt))
		return 0;
	entry = ipcache_lookup(pkt, &pkt->key.src);
	if (!entry || !(entry->flags & IPCACHE_HOST))
		return 0;
	entry = ipcache_lookup(pkt, &pkt->key.dst);
	return entry && !entry->ifindex && identity_is_pod(entry->identity);
}

/* Whether a service's replies would be taken for a tunnel's by the node of the client:
 * their source is the frontend, which may be an address of this node, and their payload
 * is the pod's.
 */
static __always_inline int tunnel_forged_by_reply(struct packet *pkt)
{
	return pkt->key.proto == IPPROTO_UDP && pkt->key.sport == bpf_htons(GENEVE_PORT) &&
	       identity_is_pod(pkt->src_identity) && tunnel_is_udp(pkt);
}

static __always_inline __u32 tunnel_overhead(__u32 ip_len, __u8 tunnel)
{
	return tunnel == TUNNEL_GENEVE ? ip_len + sizeof(struct udphdr) + sizeof(struct geneve) :
					 ip_len;
}

/* The size of a packet that fits into the tunnel, or 0 if this packet fits. The kernel
 * cuts a super-packet of TCP into segments that fit; the datagrams in a super-packet of
 * UDP keep their length.
 */
static __always_inline __u32 tunnel_mtu(ctx_t *ctx, struct packet *pkt)
{
	struct node *self = node_lookup(pkt);
	__u32 ip_len = pkt->key.family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u32 len = pkt->len, limit;

	if (!self)
		return 0;
	limit = self->mtu - tunnel_overhead(ip_len, self->tunnel);
	if (ctx_gso_size(ctx) && pkt->key.proto == IPPROTO_TCP)
		return 0;
	if (ctx_gso_size(ctx))
		len = pkt->l4_off - ETH_LEN + sizeof(struct udphdr) + ctx_gso_size(ctx);
	return len > limit ? limit : 0;
}

/* Prepares a checksum that the kernel has still to make: when the kernel makes it again
 * of the quote, over len bytes with f in the field, the sum is the complement of f. So
 * f is half of the complement of the sum without it. The error's own checksum covers f,
 * and is right before and after.
 */
static __noinline int csum_for_quote(ctx_t *ctx, struct packet *pkt)
{
	__u32 offset = csum_offset(pkt), len = sizeof(struct udphdr);
	__u8 quoted[sizeof(struct tcphdr)];
	__u16 none = 0, half, f;

	if (!offset || !csum_partial(ctx, pkt->l4_off + offset))
		return 0;
	if (pkt->key.proto == IPPROTO_TCP)
		len = sizeof(struct tcphdr);
	__builtin_memset(quoted, 0, sizeof(quoted));
	if (ctx_store_bytes(ctx, pkt->l4_off + offset, &none, sizeof(none), 0) ||
	    ctx_load_bytes(ctx, pkt->l4_off, quoted, len))
		return -1;
	half = csum_fold((__u32)bpf_csum_diff(NULL, 0, (void *)quoted, sizeof(quoted), 0));
	f = (half >> 1) | (half << 15);
	return ctx_store_bytes(ctx, pkt->l4_off + offset, &f, sizeof(f), 0);
}

#define FRAGMENT_LEN	8	/* of IPv6's header of a fragment */

/* Whether a packet is a first fragment without options or other extension headers. */
static __always_inline int is_first_fragment(const struct packet *pkt)
{
	__u32 len = pkt->key.family == FAMILY_IPV4 ? sizeof(struct iphdr) :
						     sizeof(struct ipv6hdr) + FRAGMENT_LEN;

	return pkt->fragment == FRAGMENT_FIRST && pkt->l4_off == ETH_LEN + len;
}

/* Turns the packet into an ICMP error for its sender; mtu is the size that fits (RFC
 * 1191, RFC 8201). Gives a reason other than NONE if that fails.
 */
static __noinline int refuse_too_big(ctx_t *ctx, struct packet *pkt, __u32 mtu)
{
	int is_tcp = pkt->key.proto == IPPROTO_TCP;

	/* RFC 1122 3.2.2, RFC 4443 2.4: no error about an error. No other ICMP is sent
	 * by the tunnel.
	 */
	if (pkt->icmp_type || !may_refuse(pkt))
		return REFUSE(pkt, REASON_TOO_BIG);
	/* The first fragment stands for all. The kernel has no checksum to make for it:
	 * each fragment has a part of the payload only.
	 */
	if (is_first_fragment(pkt))
		return pkt->key.family == FAMILY_IPV4 ?
			refuse_ipv4(ctx, pkt, ICMP_FRAG_NEEDED, mtu, sizeof(struct udphdr)) :
			refuse_ipv6(ctx, pkt, ICMPV6_PKT_TOOBIG << 8, mtu,
				    FRAGMENT_LEN + sizeof(struct udphdr));
	if (!pkt->plain)
		return REFUSE(pkt, REASON_TOO_BIG);
	if (csum_for_quote(ctx, pkt))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	if (pkt->key.family == FAMILY_IPV4)
		return is_tcp ? refuse_ipv4(ctx, pkt, ICMP_FRAG_NEEDED, mtu, sizeof(struct tcphdr)) :
				refuse_ipv4(ctx, pkt, ICMP_FRAG_NEEDED, mtu, sizeof(struct udphdr));
	return is_tcp ? refuse_ipv6(ctx, pkt, ICMPV6_PKT_TOOBIG << 8, mtu, sizeof(struct tcphdr)) :
			refuse_ipv6(ctx, pkt, ICMPV6_PKT_TOOBIG << 8, mtu, sizeof(struct udphdr));
}

static __always_inline void encap_udp(struct packet *pkt, struct udphdr *udp, struct geneve *geneve,
				      __u32 len, __u16 proto)
{
	/* RFC 8926 3.3: the source port is a hash of the inner flow. */
	udp->source = bpf_htons(0xc000 | (hash_tuple(&pkt->key, 0) & 0x3fff));
	udp->dest = bpf_htons(GENEVE_PORT);
	udp->len = bpf_htons(len);
	udp->check = 0;	/* RFC 6935: no checksum, since the inner packet has its own */
	geneve->options = 0;
	geneve->flags = 0;
	geneve->proto = bpf_htons(proto);
	geneve->vni = 0;
}

/* Puts a tunnel's headers before the packet. By the flags, the kernel makes the inner
 * checksums and cuts super-packets; datagrams in a super-packet of UDP keep their
 * length.
 */
static __noinline int encap_push(ctx_t *ctx, const struct packet *pkt, const void *outer,
				 __u32 len, __u64 flags)
{
	if (pkt->key.proto == IPPROTO_UDP)
		flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
	if (ctx_adjust_room(ctx, len, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return ctx_store_bytes(ctx, ETH_LEN, outer, len, BPF_F_RECOMPUTE_CSUM);
}

static __noinline int encap4(ctx_t *ctx, struct packet *pkt, const struct flow *flow,
			     const struct node *self)
{
	__u32 len = tunnel_overhead(sizeof(struct iphdr), self->tunnel);
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	struct outer4 outer;
	__s64 sum;

	outer.ip.version = 4;
	outer.ip.ihl = 5;
	ctx_load_bytes(ctx, ETH_LEN + offsetof(struct iphdr, tos), &outer.ip.tos, 1);
	outer.ip.tot_len = bpf_htons(pkt->len + len);
	outer.ip.id = 0;
	outer.ip.frag_off = bpf_htons(IP_DF);
	outer.ip.ttl = OUTER_TTL;
	outer.ip.protocol = IPPROTO_IPIP4;
	outer.ip.check = 0;
	outer.ip.saddr = self->masquerade4.w[3];
	outer.ip.daddr = flow->dst.w[3];
	if (self->tunnel == TUNNEL_GENEVE) {
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
		outer.ip.protocol = IPPROTO_UDP;
		encap_udp(pkt, &outer.udp, &outer.geneve, pkt->len + len - sizeof(outer.ip), ETH_P_IP);
	}
	sum = bpf_csum_diff(NULL, 0, (void *)&outer.ip, sizeof(outer.ip), 0);
	outer.ip.check = csum_fold((__u32)sum);
	return encap_push(ctx, pkt, &outer, len, flags);
}

static __noinline int encap6(ctx_t *ctx, struct packet *pkt, const struct flow *flow,
			     const struct node *self)
{
	__u32 len = tunnel_overhead(sizeof(struct ipv6hdr), self->tunnel);
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	struct outer6 outer;

	outer.ip6.payload_len = bpf_htons(pkt->len + len - sizeof(outer.ip6));
	outer.ip6.nexthdr = IPPROTO_IPIP6;
	outer.ip6.hop_limit = OUTER_TTL;
	__builtin_memcpy(&outer.ip6.saddr, &self->masquerade6, sizeof(outer.ip6.saddr));
	__builtin_memcpy(&outer.ip6.daddr, &flow->dst, sizeof(outer.ip6.daddr));
	if (self->tunnel == TUNNEL_GENEVE) {
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
		outer.ip6.nexthdr = IPPROTO_UDP;
		encap_udp(pkt, &outer.udp, &outer.geneve, pkt->len + len - sizeof(outer.ip6),
			  ETH_P_IPV6);
	}
	/* Version, traffic class and flow label are the inner packet's. */
	ctx_load_bytes(ctx, ETH_LEN, &outer.ip6, 4);
	return encap_push(ctx, pkt, &outer, len, flags);
}

/* Puts a packet into the tunnel to flow->dst. */
static __noinline int encap(ctx_t *ctx, struct packet *pkt, const struct flow *flow)
{
	struct node *self = node_lookup(pkt);
	int failed;

	if (!self || !node_masquerade_addr(pkt))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	failed = pkt->key.family == FAMILY_IPV4 ? encap4(ctx, pkt, flow, self) :
						  encap6(ctx, pkt, flow, self);
	return failed ? REFUSE(pkt, REASON_REWRITE_FAILED) : REASON_NONE;
}

#endif
