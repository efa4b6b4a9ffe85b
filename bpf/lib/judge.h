/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_JUDGE_H
#define WEIR_JUDGE_H

#include "address.h"
#include "flow.h"
#include "policy.h"
#include "rewrite.h"
#include "route.h"
#include "service.h"

#undef THIS_FILE
#define THIS_FILE FILE_JUDGE_H

/* The slow path: packets of new flows, and of flows that were judged under
 * tables that have changed since.
 *
 *	pod A ---- from-container(A) ---+--- pod B		replies: from-container(B)
 *					+--- node's stack	replies: to-container(A)
 *					+--- device		replies: to-container(A)
 *	node, outside ---- to-container(B) ---- pod B		replies: from-container(B)
 */

static __always_inline const struct addr *endpoint_addr(const struct endpoint *ep, __u8 family)
{
	return family == FAMILY_IPV4 ? &ep->addr4 : &ep->addr6;
}

static __always_inline struct endpoint *endpoint_ready(struct packet *pkt, __u32 ifindex)
{
	struct endpoint_pair *pair = bpf_map_lookup_elem(&endpoints, &ifindex);
	struct endpoint *ep = NULL;

	if (pair)
		ep = GENERATION(pkt->epoch) ? &pair->half[1] : &pair->half[0];
	if (ep && !ep->set)
		ep = NULL;
	note_read(pkt, TABLE_ENDPOINTS, !!ep);
	return ep;
}

/* ICMP other than echo has no flow of its own, and its key may be that of an
 * echo with identifier 0: it is judged before flows are looked up.
 */
static __always_inline int judge_icmp(struct packet *pkt)
{
	__u8 type = pkt->icmp_type;

	if (pkt->key.family == FAMILY_IPV4 && pkt->key.proto == IPPROTO_ICMP) {
		switch (type) {
		case ICMP_ECHO:
		case ICMP_ECHOREPLY:
			return REASON_NONE;
		case ICMP_DEST_UNREACH:
		case ICMP_SOURCE_QUENCH:
		case ICMP_REDIRECT:
		case ICMP_TIME_EXCEEDED:
		case ICMP_PARAMETERPROB:
			return REFUSE(pkt, REASON_ICMP_NO_FLOW);
		}
		return REFUSE(pkt, REASON_ICMP_TYPE);
	}
	if (pkt->key.family == FAMILY_IPV6 && pkt->key.proto == IPPROTO_ICMPV6) {
		if (type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY)
			return REASON_NONE;
		if (type >= 1 && type <= 4)
			return REFUSE(pkt, REASON_ICMP_NO_FLOW);
		return REFUSE(pkt, REASON_ICMP_TYPE);
	}
	return REASON_NONE;
}

/* An echo reply begins no flow. */
static __always_inline int judge_echo(struct packet *pkt)
{
	if ((pkt->key.family == FAMILY_IPV4 && pkt->key.proto == IPPROTO_ICMP &&
	     pkt->icmp_type == ICMP_ECHOREPLY) ||
	    (pkt->key.family == FAMILY_IPV6 && pkt->key.proto == IPPROTO_ICMPV6 &&
	     pkt->icmp_type == ICMPV6_ECHO_REPLY))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	return REASON_NONE;
}

static __always_inline void flow_begin(struct packet *pkt, struct flow *flow)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->last_seen = pkt->now;
	flow->epoch = pkt->epoch;
	flow->src = pkt->key.src;
	flow->dst = pkt->key.dst;
	flow->sport = pkt->key.sport;
	flow->dport = pkt->key.dport;
	flow->seen = pkt->tcp_flags & (SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK);
}

static __always_inline void into_pod(struct flow *flow, __u32 ifindex, const struct endpoint *ep)
{
	flow->out = OUT_LOCAL;
	flow->ifindex = ifindex;
	__builtin_memcpy(flow->smac, ep->mac, sizeof(flow->smac));
	__builtin_memcpy(flow->dmac, ep->pod_mac, sizeof(flow->dmac));
}

/* The reply half of s->open, for packets that undo what the opening half does. */
static __always_inline void reply_half(struct packet *pkt, struct scratch *s)
{
	struct flow *reply = &s->reply;

	__builtin_memset(reply, 0, sizeof(*reply));
	reply->last_seen = pkt->now;
	reply->epoch = pkt->epoch;
	reply->src = pkt->key.dst;
	reply->dst = pkt->key.src;
	reply->sport = pkt->key.dport;
	reply->dport = pkt->key.sport;
	reply->service = s->open.service;
	reply->flags = FLOW_REPLY | (s->open.flags & FLOW_HAIRPIN);
	reply->other_ifindex = pkt->key.ifindex;
	reply->other_hook = pkt->key.hook;
	flow_other(&s->reply_key, &pkt->key, &s->open);
	flow_diffs(reply, &s->reply_key);
}

static __always_inline int same_translation(const struct flow *a, const struct flow *b)
{
	return addr_equal(&a->src, &b->src) && addr_equal(&a->dst, &b->dst) &&
	       a->sport == b->sport && a->dport == b->dport &&
	       a->other_ifindex == b->other_ifindex && a->other_hook == b->other_hook;
}

static __always_inline int port_taken(const struct flow_key *reply, __u64 now)
{
	return bpf_map_lookup_elem(&flows, reply) || flow_unanswered(reply, now);
}

/* Looks for a source port that no reply comes to: the packet's own, else one
 * of those that a hash leads to.
 */
static __always_inline int find_port(struct packet *pkt, struct scratch *s, __u32 seed)
{
	__u32 h = hash_tuple(&pkt->key, seed);
	__u32 i;

	for (i = 0; i < MAX_PORT_PROBES; i++) {
		if (!port_taken(&s->reply_key, pkt->now))
			return 0;
		s->open.sport = bpf_htons(1024 + (h + i * 7919) % 64512);
		s->reply_key.dport = s->open.sport;
	}
	return -1;
}

/* The reply half of a pod's flow to itself. */
static __always_inline void hairpin_reply(struct packet *pkt, struct scratch *s)
{
	reply_half(pkt, s);
	s->reply.out = OUT_LOCAL;
	s->reply.ifindex = s->open.ifindex;
	__builtin_memcpy(s->reply.smac, s->open.smac, sizeof(s->reply.smac));
	__builtin_memcpy(s->reply.dmac, s->open.dmac, sizeof(s->reply.dmac));
}

/* Takes a source port for a translated source, by writing the reply half where
 * there is none.
 */
static __noinline int take_port(struct packet *pkt, struct scratch *s, __u32 seed)
{
	struct flow *held;

	hairpin_reply(pkt, s);
	held = flow_answered(&s->reply_key);
	if (!held)
		held = flow_unanswered(&s->reply_key, pkt->now);
	if (held && same_translation(held, &s->reply)) {
		/* Ours already, from an earlier judgement. */
		if ((pkt->reused || flow_expired(held, pkt->key.proto, pkt->now)) &&
		    flow_store(&s->reply_key, &s->reply))
			return REFUSE(pkt, REASON_FLOW_TABLE_FULL);
		return REASON_NONE;
	}
	if (find_port(pkt, s, seed))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	hairpin_reply(pkt, s);
	if (flow_reserve(&s->reply_key, &s->reply, pkt->now))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	return REASON_NONE;
}

/* Stores both halves, the reply first: a flow that has no way back is none. */
static __noinline int remember(struct packet *pkt, struct scratch *s)
{
	struct flow *reply, *old = NULL;

	if (!(s->open.flags & FLOW_HAIRPIN)) {
		reply = flow_answered(&s->reply_key);
		if (!reply)
			reply = flow_unanswered(&s->reply_key, pkt->now);
		/* What was the opener's direction once may be in its place. */
		if (!reply || pkt->reused || !(reply->flags & FLOW_REPLY) ||
		    flow_expired(reply, pkt->key.proto, pkt->now) ||
		    !same_translation(reply, &s->reply)) {
			if (flow_store(&s->reply_key, &s->reply))
				return REFUSE(pkt, REASON_FLOW_TABLE_FULL);
		}
	}
	if (pkt->old && same_translation(&s->old, &s->open)) {
		old = flow_answered(&pkt->key);
		if (!old)
			old = flow_unanswered(&pkt->key, pkt->now);
	}
	if (old) {
		old->ifindex = s->open.ifindex;
		old->routed = s->open.routed;
		old->out = s->open.out;
		old->origin = s->open.origin;
		old->service = s->open.service;
		__builtin_memcpy(old->smac, s->open.smac, sizeof(old->smac));
		__builtin_memcpy(old->dmac, s->open.dmac, sizeof(old->dmac));
		old->epoch = s->open.epoch;
		return REASON_NONE;
	}
	if (flow_store(&pkt->key, &s->open))
		return REFUSE(pkt, REASON_FLOW_TABLE_FULL);
	return REASON_NONE;
}

/* A reset of nothing known is let through, and makes nothing. One of a flow
 * that is judged anew leaves it judged, where it goes on as it was.
 */
static __always_inline int makes_nothing(const struct packet *pkt, const struct scratch *s)
{
	return (pkt->tcp_flags & TCP_FLAG_RST) &&
	       !(pkt->old && same_translation(&s->old, &s->open));
}

/* What a pod may not send, whatever its policy. */
static __always_inline int judge_sender(struct packet *pkt, const struct endpoint *ep)
{
	const struct addr *own = endpoint_addr(ep, pkt->key.family);

	if (addr_none(own) || !addr_equal(own, &pkt->key.src)) {
		if (martian(&pkt->key.src, pkt->key.family) ||
		    linklocal(&pkt->key.src, pkt->key.family))
			return REFUSE(pkt, REASON_MARTIAN_SOURCE);
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	}
	if (addr_equal(&pkt->key.src, &pkt->key.dst))
		return REFUSE(pkt, REASON_SAME_ADDRESS);
	if (martian(&pkt->key.dst, pkt->key.family))
		return REFUSE(pkt, REASON_MARTIAN_DESTINATION);
	if (pkt->key.family == FAMILY_IPV6 && addr_linklocal6(&pkt->key.dst))
		return REFUSE(pkt, REASON_MARTIAN_DESTINATION);
	return judge_echo(pkt);
}

static __always_inline int ttl_spent(struct packet *pkt, const struct flow *flow)
{
	return pkt->key.hook == HOOK_FROM_CONTAINER && flow->out != OUT_HOST && pkt->ttl <= 1;
}

/* Where s->open leads, and whether both ends' policies agree. */
static __noinline int judge_way(struct __sk_buff *skb, struct packet *pkt,
				const struct endpoint *ep, struct scratch *s)
{
	struct endpoint *target = NULL;
	struct address *address;
	int reason;

	address = address_of(pkt, &s->open.dst);
	pkt->src_identity = ep->identity;
	pkt->dst_identity = identity_of(address);
	if (address && address->ifindex) {
		target = endpoint_ready(pkt, address->ifindex);
		if (!target)
			return REFUSE(pkt, REASON_NO_ENDPOINT);
		into_pod(&s->open, address->ifindex, target);
		s->open.other_hook = HOOK_FROM_CONTAINER;
		s->open.other_ifindex = address->ifindex;
		if (address->ifindex == pkt->key.ifindex) {
			s->open.flags |= FLOW_HAIRPIN;
			return REASON_NONE;
		}
	} else {
		s->open.other_hook = HOOK_TO_CONTAINER;
		s->open.other_ifindex = pkt->key.ifindex;
	}
	reason = policy(pkt, ep->set, DIRECTION_EGRESS, pkt->dst_identity, s->open.dport);
	if (reason)
		return reason;
	if (target)
		return policy(pkt, target->set, DIRECTION_INGRESS, ep->identity, s->open.dport);
	if (address && (address->flags & ADDRESS_HOST)) {
		s->open.out = OUT_HOST;
		return REASON_NONE;
	}
	s->open.out = OUT_DEVICE;
	return route(skb, pkt, &s->open);
}

/* A packet that opens a flow from a pod. */
static __noinline int judge_from(struct __sk_buff *skb, struct packet *pkt,
				 struct scratch *s)
{
	const struct addr *hairpin;
	struct settings *ctl;
	struct endpoint *ep;
	__u32 zero = 0;
	int reason;

	ctl = bpf_map_lookup_elem(&control, &zero);
	ep = endpoint_ready(pkt, pkt->key.ifindex);
	if (!ctl || !ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	reason = judge_sender(pkt, ep);
	if (reason)
		return reason;
	flow_begin(pkt, &s->open);
	reason = translate(pkt, s, ctl->seed);
	if (reason)
		return reason;
	reason = judge_way(skb, pkt, ep, s);
	if (reason)
		return reason;
	if (ttl_spent(pkt, &s->open))
		return REFUSE(pkt, REASON_TTL_EXCEEDED);
	s->open.origin = pkt->origin;

	if (s->open.flags & FLOW_HAIRPIN) {
		hairpin = pkt->key.family == FAMILY_IPV4 ? &ep->hairpin4 : &ep->hairpin6;
		if (addr_none(hairpin))
			return REFUSE(pkt, REASON_NO_SOURCE_PORT);
		s->open.src = *hairpin;
		if (pkt->old && addr_equal(&s->old.src, hairpin))
			s->open.sport = s->old.sport;
		reason = take_port(pkt, s, ctl->seed);
		if (reason)
			return reason;
	} else {
		reply_half(pkt, s);
		into_pod(&s->reply, pkt->key.ifindex, ep);
	}
	flow_diffs(&s->open, &pkt->key);
	if (makes_nothing(pkt, s))
		return REASON_NONE;
	return remember(pkt, s);
}

/* A packet that opens a flow to a pod, from the node or through it. */
static __noinline int judge_to(struct packet *pkt, struct scratch *s)
{
	const struct addr *own;
	struct address *address;
	struct endpoint *ep;
	__u8 host = 0;
	int reason;

	ep = endpoint_ready(pkt, pkt->key.ifindex);
	if (!ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	own = endpoint_addr(ep, pkt->key.family);
	/* A pod without an address of the family has :: in the table. */
	if (addr_none(own) || !addr_equal(own, &pkt->key.dst))
		return REFUSE(pkt, REASON_NOT_FOR_ENDPOINT);
	address = address_of(pkt, &pkt->key.src);
	host = address && (address->flags & ADDRESS_HOST);
	if (!host && (martian(&pkt->key.src, pkt->key.family) ||
		      linklocal(&pkt->key.src, pkt->key.family)))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	/* From pod to pod never leads here: from-container has decided it. */
	if (address && address->ifindex)
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	reason = judge_echo(pkt);
	if (reason)
		return reason;

	pkt->src_identity = identity_of(address);
	pkt->dst_identity = ep->identity;
	flow_begin(pkt, &s->open);
	into_pod(&s->open, pkt->key.ifindex, ep);
	s->open.other_hook = HOOK_FROM_CONTAINER;
	s->open.other_ifindex = pkt->key.ifindex;
	if (!host) {
		reason = policy(pkt, ep->set, DIRECTION_INGRESS, pkt->src_identity,
				s->open.dport);
		if (reason)
			return reason;
	}
	s->open.origin = pkt->origin;
	reply_half(pkt, s);
	s->reply.out = host ? OUT_HOST : OUT_DEVICE;
	if (makes_nothing(pkt, s))
		return REASON_NONE;
	return remember(pkt, s);
}

/* Policy of the opening direction, for a packet that replies. */
static __noinline int rejudge_policy(struct packet *pkt, struct flow *flow,
				     const struct endpoint *ep)
{
	struct address *address;
	struct endpoint *opener;
	int reason;

	if (pkt->key.hook == HOOK_TO_CONTAINER) {
		address = address_of(pkt, &pkt->key.src);
		/* A pod of this node has that address by now. */
		if (address && address->ifindex)
			return REFUSE(pkt, REASON_SPOOFED_SOURCE);
		return policy(pkt, ep->set, DIRECTION_EGRESS, identity_of(address),
			      pkt->key.sport);
	}
	if (flow->other_hook == HOOK_TO_CONTAINER) {
		address = address_of(pkt, &pkt->key.dst);
		if (address && (address->flags & ADDRESS_HOST)) {
			flow->out = OUT_HOST;
			return REASON_NONE;
		}
		flow->out = OUT_DEVICE;
		return policy(pkt, ep->set, DIRECTION_INGRESS, identity_of(address),
			      pkt->key.sport);
	}
	opener = endpoint_ready(pkt, flow->other_ifindex);
	if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	into_pod(flow, flow->other_ifindex, opener);
	if (flow->flags & FLOW_HAIRPIN)
		return REASON_NONE;
	reason = policy(pkt, opener->set, DIRECTION_EGRESS, ep->identity, pkt->key.sport);
	if (reason)
		return reason;
	return policy(pkt, ep->set, DIRECTION_INGRESS, opener->identity, pkt->key.sport);
}

/* A reply to a flow that was judged before the tables changed. */
static __noinline int rejudge_reply(struct packet *pkt, struct flow *flow)
{
	const struct addr *own;
	struct endpoint *ep;
	int reason;

	ep = endpoint_ready(pkt, pkt->key.ifindex);
	if (!ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	/* The device may be another pod's by now. */
	own = endpoint_addr(ep, pkt->key.family);
	if (pkt->key.hook == HOOK_FROM_CONTAINER && !addr_equal(own, &pkt->key.src))
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	if (pkt->key.hook == HOOK_TO_CONTAINER && !addr_equal(own, &flow->dst))
		return REFUSE(pkt, REASON_NOT_FOR_ENDPOINT);
	reason = rejudge_policy(pkt, flow, ep);
	if (reason)
		return reason;
	flow->epoch = pkt->epoch;
	return REASON_NONE;
}

#endif
