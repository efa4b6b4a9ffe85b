/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_JUDGE_H
#define WEIR_JUDGE_H

#include "address.h"
#include "flow.h"
#include "masquerade.h"
#include "policy.h"
#include "rewrite.h"
#include "route.h"
#include "service.h"

#undef THIS_FILE
#define THIS_FILE FILE_JUDGE_H

/* The slow path: packets of new flows, and of flows that were judged under
 * tables that have changed since. What all hooks do; who may open what is in
 * pod.h and uplink.h.
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

/* Stores both halves, the reply first: a flow that has no way back is none. */
static __noinline int remember(struct packet *pkt, struct scratch *s)
{
	struct flow *reply, *old = NULL;

	/* One whose source is translated has its reply half since it has a port. */
	if (!(s->open.flags & FLOW_SOURCE) && s->open.out != OUT_TUNNEL) {
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
	if (s->sticky)
		stay(pkt, s);
	return REASON_NONE;
}

static __always_inline int ttl_spent(struct packet *pkt, const struct flow *flow)
{
	return routed(pkt, flow) && pkt->ttl <= 1;
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
	if (flow->other_hook == HOOK_TO_DEVICE)
		return REASON_NONE;
	if (flow->other_hook == HOOK_FROM_DEVICE)
		return policy(pkt, ep->set, DIRECTION_INGRESS,
			      identity_of(address_of(pkt, &flow->dst)), pkt->key.sport);
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

/* The same at the node's devices. What a pod has opened is asked of its policy;
 * what came for a frontend whose backend is elsewhere, or was opened by the node
 * itself, is nobody's to refuse here.
 */
static __noinline int rejudge_device(struct packet *pkt, struct flow *flow)
{
	struct endpoint *opener;
	int reason;

	if (pkt->key.hook == HOOK_FROM_DEVICE && flow->other_hook == HOOK_FROM_CONTAINER) {
		opener = endpoint_ready(pkt, flow->other_ifindex);
		if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))
			return REFUSE(pkt, REASON_NO_ENDPOINT);
		into_pod(flow, flow->other_ifindex, opener);
		reason = policy(pkt, opener->set, DIRECTION_EGRESS,
				identity_of(address_of(pkt, &pkt->key.src)), pkt->key.sport);
		if (reason)
			return reason;
	}
	flow->epoch = pkt->epoch;
	return REASON_NONE;
}

/* A reply to a flow that was judged before the tables changed. */
static __noinline int rejudge_reply(struct packet *pkt, struct flow *flow)
{
	const struct addr *own;
	struct endpoint *ep;
	int reason;

	if (!pkt->key.ifindex)
		return rejudge_device(pkt, flow);
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
