/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_POD_H
#define WEIR_POD_H

#include "judge.h"

#undef THIS_FILE
#define THIS_FILE FILE_POD_H

/* The slow path at a pod's device.
 *
 *	pod A ---- from-container(A) ---+--- pod B		replies: from-container(B)
 *					+--- node's stack	replies: to-container(A)
 *					+--- device		replies: to-container(A)
 *					+--- device, SNAT	replies: from-device
 *	node, outside ---- to-container(B) ---- pod B		replies: from-container(B)
 */

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
	if (addr_linklocal6(&pkt->key.dst))
		return REFUSE(pkt, REASON_MARTIAN_DESTINATION);
	return judge_echo(pkt);
}

/* Where s->open leads, and whether both ends' policies agree. */
static __noinline int judge_way(struct __sk_buff *skb, struct packet *pkt,
				const struct endpoint *ep, struct scratch *s)
{
	__u32 own = identity_of(address_of(pkt, &pkt->key.src));
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
		return policy(pkt, target->set, DIRECTION_INGRESS, own, s->open.dport);
	if (address && (address->flags & ADDRESS_HOST)) {
		s->open.out = OUT_HOST;
		return node_policy(pkt, DIRECTION_INGRESS, own, s->open.dport);
	}
	s->open.out = OUT_DEVICE;
	if (!address || !(address->flags & ADDRESS_NATIVE))
		masquerade(pkt, s);
	return route(skb, pkt, &s->open);
}

/* A packet that opens a flow from a pod. */
static __noinline int judge_from(struct __sk_buff *skb, struct packet *pkt,
				 struct scratch *s)
{
	const struct addr *hairpin;
	struct service *service;
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
	service = service_of(pkt, SCOPE_INSIDE);
	if (service) {
		reason = choose(pkt, s, service, ctl->seed);
		if (reason)
			return reason;
	} else if (service_address(pkt)) {
		return REFUSE(pkt, REASON_NO_FRONTEND);
	}
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
		s->open.flags |= FLOW_SOURCE;
	}
	reply_half(pkt, s);
	if (s->open.out == OUT_HOST)
		s->reply.flags |= FLOW_HERE;
	into_pod(&s->reply, pkt->key.ifindex, ep);
	reason = own_port(pkt, s);
	if (reason)
		return reason;
	flow_diffs(&s->open, &pkt->key);
	if (makes_nothing(pkt, s))
		return REASON_NONE;
	return remember(pkt, s);
}

/* A packet that opens a flow to a pod, from the node or through it. */
static __noinline int judge_to(struct __sk_buff *skb, struct packet *pkt, struct scratch *s)
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
	if (host && !made_here(skb, pkt))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
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
	if (host)
		s->open.flags |= FLOW_HERE;
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
	no_macs(&s->reply);
	s->reply.out = host ? OUT_HOST : OUT_DEVICE;
	reason = own_port(pkt, s);
	if (reason)
		return reason;
	flow_diffs(&s->open, &pkt->key);
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
	__u8 here;

	if (at(pkt, HOOK_TO_CONTAINER)) {
		address = address_of(pkt, &pkt->key.src);
		/* A pod of this node has that address by now. */
		if (address && address->ifindex)
			return REFUSE(pkt, REASON_SPOOFED_SOURCE);
		here = address && (address->flags & ADDRESS_HOST) ? FLOW_HERE : 0;
		if (here && pkt->led)
			return REFUSE(pkt, REASON_MARTIAN_SOURCE);
		flow->flags = (flow->flags & ~FLOW_HERE) | here;
		pod_macs(flow, ep);
		reason = policy(pkt, ep->set, DIRECTION_EGRESS, identity_of(address),
				pkt->key.sport);
		if (reason || !here)
			return reason;
		return node_policy(pkt, DIRECTION_INGRESS,
				   identity_of(address_of(pkt, &flow->dst)), pkt->key.sport);
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
			flow->ifindex = 0;
			flow->routed = 0;
			return REASON_NONE;
		}
		flow->out = OUT_DEVICE;
		return policy(pkt, ep->set, DIRECTION_INGRESS, identity_of(address),
			      pkt->key.sport);
	}
	opener = endpoint_ready(pkt, flow->other_ifindex);
	if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	pod_macs(flow, opener);
	if (flow->flags & FLOW_HAIRPIN)
		return REASON_NONE;
	reason = policy(pkt, opener->set, DIRECTION_EGRESS,
			identity_of(address_of(pkt, &pkt->key.src)), pkt->key.sport);
	if (reason)
		return reason;
	return policy(pkt, ep->set, DIRECTION_INGRESS,
		      identity_of(address_of(pkt, &flow->dst)), pkt->key.sport);
}

/* A reply at a pod's device to a flow that was judged before the tables changed. */
static __noinline int rejudge_pod(struct packet *pkt, struct flow *flow)
{
	const struct addr *own;
	struct endpoint *ep;
	int reason;

	ep = endpoint_ready(pkt, pkt->key.ifindex);
	if (!ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	/* The device may be another pod's by now. */
	own = endpoint_addr(ep, pkt->key.family);
	if (at(pkt, HOOK_FROM_CONTAINER) && !addr_equal(own, &pkt->key.src))
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	if (at(pkt, HOOK_TO_CONTAINER) && !addr_equal(own, &flow->dst))
		return REFUSE(pkt, REASON_NOT_FOR_ENDPOINT);
	reason = rejudge_policy(pkt, flow, ep);
	if (reason)
		return reason;
	flow->epoch = pkt->epoch;
	return REASON_NONE;
}

#endif
