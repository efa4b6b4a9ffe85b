/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_ICMP_ERROR_H
#define WEIR_ICMP_ERROR_H

#include "judge.h"
#include "rewrite.h"

/* ICMP errors quote a packet of a flow. An error goes the way of that packet's
 * replies, so it is looked up as one: the quoted tuple turned round, at this
 * hook. What the flow's entry does to replies is done to the error, and undone
 * in the quote: who gets it finds there the packet that it sent.
 *
 *	A --- VIP ---> B		B answers: unreachable { A -> B }
 *	entry at B: B -> A is VIP -> A	A gets it: unreachable { A -> VIP }
 */

/* The part of a quoted transport header that is read. */
struct quoted {
	struct ports ports;	/* of ICMP: type, code, checksum */
	__be16 id;
	__be16 rest;
};

static __always_inline __u32 quote_off(const struct packet *pkt)
{
	return pkt->l4_off + sizeof(struct icmphdr);
}

/* Only the family's own ICMP has a type that is not 0. */
static __always_inline int is_icmp_error(const struct packet *pkt)
{
	if (pkt->key.family == FAMILY_IPV4)
		return pkt->icmp_type == ICMP_DEST_UNREACH ||
		       pkt->icmp_type == ICMP_TIME_EXCEEDED ||
		       pkt->icmp_type == ICMP_PARAMETERPROB;
	return pkt->icmp_type >= 1 && pkt->icmp_type <= 4;
}

/* The quoted packet's ports, turned round. An echo request has its identifier
 * as source port, so its reply has it as destination port. Of the family's ICMP only
 * that request, whose code is 0, opens a flow; the other family's is a protocol
 * without ports.
 */
static __noinline int reverse_ports(struct flow_key *key, const struct quoted *quoted,
				    __u8 icmp, __u8 request)
{
	switch (key->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		key->sport = quoted->ports.dst;
		key->dport = quoted->ports.src;
		return 0;
	}
	if (key->proto != icmp)
		return 0;
	if (quoted->ports.src != bpf_htons(request << 8))
		return -1;
	key->dport = quoted->id;
	return 0;
}

/* The bytes that are read here are inside of l4_len. */
static __always_inline int icmp_error_read4(ctx_t *ctx, struct packet *pkt,
					    struct flow_key *key)
{
	__u32 need = sizeof(struct icmphdr) + sizeof(struct quoted);
	struct quoted quoted;
	struct iphdr ip;

	if (pkt->l4_len < need + sizeof(ip))
		return REFUSE(pkt, REASON_TRUNCATED);
	ctx_load_bytes(ctx, quote_off(pkt), &ip, sizeof(ip));
	/* A later fragment has no ports. */
	if (ip.version != 4 || ip.ihl < 5 || (ip.frag_off & bpf_htons(IP_OFFSET)))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	if (pkt->l4_len < need + ip.ihl * 4)
		return REFUSE(pkt, REASON_TRUNCATED);
	pkt->quoted_l4 = sizeof(struct icmphdr) + ip.ihl * 4;
	ctx_load_bytes(ctx, pkt->l4_off + pkt->quoted_l4, &quoted, sizeof(quoted));
	addr_from4(&key->src, ip.daddr);
	addr_from4(&key->dst, ip.saddr);
	key->proto = ip.protocol;
	if (reverse_ports(key, &quoted, IPPROTO_ICMP, ICMP_ECHO))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	return REASON_NONE;
}

/* Steps over an extension header of a quoted packet. */
static __noinline int icmp_error_extension(ctx_t *ctx, struct packet *pkt,
					   struct flow_key *key)
{
	__u32 off = pkt->quoted_l4;
	struct extension ext;

	if (pkt->l4_len < off + sizeof(ext))
		return REFUSE(pkt, REASON_TRUNCATED);
	ctx_load_bytes(ctx, pkt->l4_off + off, &ext, sizeof(ext));
	/* A later fragment has no ports. */
	if (key->proto == NEXT_FRAGMENT && ((((__u32)ext.type << 8) | ext.left) & IP6_OFFSET))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	off += key->proto == NEXT_FRAGMENT ? sizeof(ext) : ((__u32)ext.len + 1) * 8;
	pkt->quoted_l4 = off;
	key->proto = ext.next;
	return REASON_NONE;
}

/* Flows are looked up by the header behind the extension headers (RFC 4443 2.4 d): a
 * router tells a sender of fragments its MTU by such errors (RFC 8201 4).
 */
static __always_inline int icmp_error_read6(ctx_t *ctx, struct packet *pkt,
					    struct flow_key *key)
{
	struct quoted quoted;
	struct ipv6hdr ip6;
	int i, reason;

	pkt->quoted_l4 = sizeof(struct icmphdr) + sizeof(ip6);
	if (pkt->l4_len < pkt->quoted_l4 + sizeof(quoted))
		return REFUSE(pkt, REASON_TRUNCATED);
	ctx_load_bytes(ctx, quote_off(pkt), &ip6, sizeof(ip6));
	addr_from6(&key->src, &ip6.daddr);
	addr_from6(&key->dst, &ip6.saddr);
	key->proto = ip6.nexthdr;
	if (ip6.version != 6)
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
#pragma unroll
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(key->proto))
			break;
		reason = icmp_error_extension(ctx, pkt, key);
		if (reason)
			return reason;
	}
	if (is_extension(key->proto))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	if (pkt->l4_len < pkt->quoted_l4 + sizeof(quoted))
		return REFUSE(pkt, REASON_TRUNCATED);
	ctx_load_bytes(ctx, pkt->l4_off + pkt->quoted_l4, &quoted, sizeof(quoted));
	if (reverse_ports(key, &quoted, IPPROTO_ICMPV6, ICMPV6_ECHO_REQUEST))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	return REASON_NONE;
}

/* Writes into the quote what its packet was before translation, and mends the
 * error's checksum, of which the sum over a quoted IPv4 header is no part: it stays
 * as it is. The quoted L4 checksum stays: nobody can judge it.
 */
static __always_inline int icmp_error_rewrite(ctx_t *ctx, struct packet *pkt,
					      const struct flow_key *key, const struct flow *flow)
{
	__u32 check = pkt->l4_off + offsetof(struct icmphdr, checksum);
	struct ports ports = { flow->dport, flow->sport };
	__u32 off = quote_off(pkt);
	__u64 diff = 0;

	if (pkt->key.family == FAMILY_IPV4) {
		struct iphdr ip;

		ctx_load_bytes(ctx, off, &ip, sizeof(ip)); /* read_quote4 has read it */
		ip.saddr = flow->dst.w[3];
		ip.daddr = flow->src.w[3];
		ip.check = csum_apply(ip.check, flow->addr_diff);
		if (ctx_store_bytes(ctx, off, &ip, sizeof(ip), 0))
			return -1;
	} else {
		struct addr addrs[2] = { flow->dst, flow->src };

		diff = csum_half(flow->addr_diff);
		if (ctx_store_bytes(ctx, off + offsetof(struct ipv6hdr, saddr), addrs,
				    sizeof(addrs), 0))
			return -1;
	}
	off = pkt->l4_off + pkt->quoted_l4;
	if (has_ports(key->proto)) {
		diff += csum_half(flow->port_diff);
		if (ctx_store_bytes(ctx, off, &ports, sizeof(ports), 0))
			return -1;
	} else if (key->dport != flow->dport) { /* an echo request's identifier */
		diff += csum_half(flow->port_diff);
		if (ctx_store_bytes(ctx, off + offsetof(struct icmphdr, id), &ports.src, 2, 0))
			return -1;
	}
	return ctx_l4_csum_replace(ctx, check, 0, diff, 0);
}

/* The flow entry that the replies to a quoted packet match. */
static __noinline struct flow *icmp_error_lookup(struct packet *pkt, const struct flow_key *key)
{
	struct flow *flow = ct_lookup_answered(key);

	note_read(pkt, TABLE_CT_ANSWERED, !!flow);
	if (!flow || !(flow->flags & FLOW_ANSWERED)) {
		flow = ct_lookup_alive(key, pkt->now);
		note_read(pkt, TABLE_CT_UNANSWERED, !!flow);
	}
	return flow;
}

/* Who may send an error about a flow: its other end, or a router on the way. A pod of
 * this node is no router.
 */
static __noinline int icmp_error_source(ctx_t *ctx, struct packet *pkt,
					const struct flow_key *key)
{
	struct ipcache_entry *entry;

	/* Its address may have become this node's or a pod's since. */
	if (addr_equal(&key->src, &pkt->key.src))
		return at(pkt, HOOK_FROM_DEVICE) ? judge_outside_source(pkt) : REASON_NONE;
	/* A pod sends errors from its own address only. */
	if (at(pkt, HOOK_FROM_CONTAINER))
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	entry = ipcache_lookup(pkt, &pkt->key.src);
	if (entry && (entry->flags & IPCACHE_HOST))
		return from_local_stack(ctx, pkt) ? REASON_NONE : REFUSE(pkt, REASON_MARTIAN_SOURCE);
	if (entry && entry->ifindex)
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	if (martian(&pkt->key.src, pkt->key.family) || linklocal(&pkt->key.src, pkt->key.family))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	return REASON_NONE;
}

/* Whether an error about an opening packet may pass if the tables have changed since
 * the flow was judged.
 */
static __noinline int icmp_error_rejudge(struct packet *pkt, struct scratch *s, struct flow *flow)
{
	struct flow_key *key = &pkt->key;
	struct addr teller = key->src;
	__u8 proto = key->proto;
	int reason;

	key->src = s->reply_key.src;
	key->sport = s->reply_key.sport;
	key->proto = s->reply_key.proto;
	reason = rejudge_reply(pkt, flow);
	key->src = teller;
	key->sport = 0;
	key->proto = proto;
	return reason;
}

/* Whether an error claims an MTU that no link has: under 68 for IPv4 (RFC 791;
 * 0 is an old router's "less", RFC 1191 5), under 1280 for IPv6 (RFC 8201 4). Who
 * believes it sends tiny packets for minutes.
 */
static __noinline int icmp_error_bad_mtu(ctx_t *ctx, const struct packet *pkt)
{
	struct icmp6hdr icmp;
	__u32 mtu;

	ctx_load_bytes(ctx, pkt->l4_off, &icmp, sizeof(icmp)); /* parse() has read it */
	mtu = bpf_ntohl(icmp.icmp6_mtu);
	if (pkt->key.family == FAMILY_IPV6)
		return icmp.icmp6_type == ICMPV6_PKT_TOOBIG && mtu < 1280;
	mtu &= 0xffff;
	return icmp.icmp6_type == ICMP_DEST_UNREACH && icmp.icmp6_code == ICMP_FRAG_NEEDED &&
	       mtu && mtu < 68;
}

/* Makes s->open what is done to an error: the flow's way, and its addresses, but that
 * a router on the way keeps its own.
 */
static __always_inline void icmp_error_init(const struct packet *pkt, struct scratch *s,
					    const struct flow_key *key, const struct flow *flow)
{
	struct flow *open = &s->open;

	open->src = addr_equal(&key->src, &pkt->key.src) ? flow->src : pkt->key.src;
	open->dst = flow->dst;
	open->sport = 0;
	open->dport = 0;
	open->out = flow->out;
	open->ifindex = flow->ifindex;
	open->routed = flow->routed;
	open->flags = flow->flags;
	__builtin_memcpy(open->smac, flow->smac, sizeof(open->smac));
	__builtin_memcpy(open->dmac, flow->dmac, sizeof(open->dmac));
}

/* Leads an error on whose flow this node may not know: a router's error about an answer
 * of direct server return comes to any node that has the service's address. Where all
 * nodes choose the same backend, the error goes to that backend's node, unchanged, and
 * is judged there.
 */
static __noinline int icmp_error_to_backend(ctx_t *ctx, struct packet *pkt, struct scratch *s)
{
	struct flow_key outer = pkt->key;
	struct ipcache_entry *entry;
	struct service *service;
	int alike = 0;

	if (pkt->decapped || !service_lookup_address(pkt) ||
	    icmp_error_source(ctx, pkt, &s->reply_key) || icmp_error_bad_mtu(ctx, pkt))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	pkt->key = s->reply_key;
	ct_init(pkt, &s->open);
	entry = ipcache_lookup(pkt, &pkt->key.src);
	service = service_lookup(pkt, SCOPE_OUTSIDE);
	if (service && (service->flags & SERVICE_DSR) && !identity_is_pod(identity_of(entry)) &&
	    !(entry && (entry->flags & IPCACHE_NODE)))
		alike = service->count == 1 || (service->table_size && !service->affinity);
	if (alike)
		alike = !lb_select_backend(pkt, service, 0, &s->open.dst, &s->open.dport);
	pkt->key = outer;
	pkt->opened = 0; /* s->open is of the quoted packet */
	entry = ipcache_lookup(pkt, &s->open.dst);
	if (!alike || !entry || entry->ifindex || !identity_is_pod(entry->identity))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	s->open.out = OUT_TUNNEL;
	return route(ctx, pkt, &s->open);
}

/* An ICMP error: fills s->open with what is done to it. hook is an argument so that the
 * verifier follows the code of one hook only.
 */
static __noinline int icmp_error(ctx_t *ctx, struct packet *pkt, struct scratch *s, __u8 hook)
{
	struct flow_key *key = &s->reply_key;
	struct flow *flow;
	int reason;

	if (pkt->fragment)
		return REFUSE(pkt, REASON_FRAGMENT);
	key->sport = 0;
	key->dport = 0;
	key->family = pkt->key.family;
	key->hook = pkt->key.hook;
	key->pad = 0;
	key->ifindex = pkt->key.ifindex;
	reason = pkt->key.family == FAMILY_IPV4 ? icmp_error_read4(ctx, pkt, key) :
						  icmp_error_read6(ctx, pkt, key);
	if (reason)
		return reason;
	flow = icmp_error_lookup(pkt, key);
	/* An error goes to the sender of the packet that it quotes. */
	if (!addr_equal(&key->dst, &pkt->key.dst))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	if (flow) {
		reason = icmp_error_source(ctx, pkt, key);
		if (reason)
			return reason;
		if (icmp_error_bad_mtu(ctx, pkt))
			return REFUSE(pkt, REASON_ICMP_MTU);
		pkt->lookup = LOOKUP_KNOWN;
		if (flow->epoch != pkt->epoch && !ct_unchanged(pkt, key, flow))
			pkt->lookup = LOOKUP_REJUDGED;
		/* About a reply: dropped, since the opener's next packet is judged anew
		 * and the error then comes again. To a backend it goes at once.
		 */
		if (pkt->lookup == LOOKUP_REJUDGED && !(flow->flags & FLOW_REPLY))
			flow = NULL;
	}
	if (!flow)
		return is_hook(hook, HOOK_FROM_DEVICE) ? icmp_error_to_backend(ctx, pkt, s) :
							 REFUSE(pkt, REASON_ICMP_NO_FLOW);
	if (pkt->lookup == LOOKUP_REJUDGED) {
		reason = icmp_error_rejudge(pkt, s, flow);
		if (reason)
			return reason;
	}
	icmp_error_init(pkt, s, key, flow);
	set_diffs(&s->open, &pkt->key);
	/* In a tunnel the quote stays as the other node knows it. */
	if ((flow->flags & FLOW_TRANSLATED) && icmp_error_rewrite(ctx, pkt, key, flow))
		return REFUSE(pkt, REASON_REWRITE_FAILED);
	if ((s->open.out == OUT_DEVICE || is_tunnel(s->open.out)) && routed(pkt, &s->open))
		return route(ctx, pkt, &s->open);
	return REASON_NONE;
}

#endif
