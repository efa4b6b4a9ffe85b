/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_POD_H
#define WEIR_POD_H

#include "judge.h"

/* The slow path at a pod's device.
 *
 *	pod A ---- from-container(A) ---+--- pod B		replies: from-container(B)
 *					+--- node's stack	replies: to-container(A)
 *					+--- device		replies: to-container(A)
 *					+--- device, SNAT	replies: from-device
 *	node, outside ---- to-container(B) ---- pod B		replies: from-container(B)
 */

/* What a pod may not send, whatever policies say. */
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

/* Sets where s->open leads, and asks the policies of both ends. */
static __noinline int judge_destination(ctx_t *ctx, struct packet *pkt,
					const struct endpoint *ep, struct scratch *s)
{
	__u32 own = identity_of(ipcache_lookup(pkt, &pkt->key.src));
	struct endpoint *target = NULL;
	struct ipcache_entry *entry;
	int reason;

	entry = ipcache_lookup(pkt, &s->open.dst);
	pkt->src_identity = ep->identity;
	pkt->dst_identity = identity_of(entry);
	if (entry && entry->ifindex) {
		target = endpoint_lookup(pkt, entry->ifindex);
		if (!target)
			return REFUSE(pkt, REASON_NO_ENDPOINT);
		set_local_delivery(&s->open, entry->ifindex, target);
		s->open.other_hook = HOOK_FROM_CONTAINER;
		s->open.other_ifindex = entry->ifindex;
		if (entry->ifindex == pkt->key.ifindex) {
			s->open.flags |= FLOW_HAIRPIN;
			return REASON_NONE;
		}
	} else {
		s->open.other_hook = HOOK_TO_CONTAINER;
		s->open.other_ifindex = pkt->key.ifindex;
	}
	reason = policy_check(pkt, ep->set, DIRECTION_EGRESS, pkt->dst_identity, s->open.dport);
	if (reason)
		return reason;
	if (target)
		return policy_check(pkt, target->set, DIRECTION_INGRESS, own, s->open.dport);
	if (entry && (entry->flags & IPCACHE_HOST)) {
		s->open.out = OUT_HOST;
		return host_policy(pkt, DIRECTION_INGRESS, own, s->open.dport);
	}
	s->open.out = OUT_DEVICE;
	if (!entry || !(entry->flags & IPCACHE_NATIVE))
		masquerade(pkt, s);
	return route(ctx, pkt, &s->open);
}

/* A packet that opens a flow from a pod. */
static __noinline int judge_from_pod(ctx_t *ctx, struct packet *pkt,
				     struct scratch *s)
{
	const struct addr *hairpin;
	struct service *service;
	struct settings *ctl;
	struct endpoint *ep;
	__u32 zero = 0;
	int reason;

	ctl = bpf_map_lookup_elem(&control, &zero);
	ep = endpoint_lookup(pkt, pkt->key.ifindex);
	if (!ctl || !ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	reason = judge_sender(pkt, ep);
	if (reason)
		return reason;
	ct_init(pkt, &s->open);
	service = service_lookup(pkt, SCOPE_INSIDE);
	if (service) {
		reason = lb_select(pkt, s, service, ctl->seed);
		if (reason)
			return reason;
	} else if (service_lookup_address(pkt)) {
		return REFUSE(pkt, REASON_NO_FRONTEND);
	}
	reason = judge_destination(ctx, pkt, ep, s);
	if (reason)
		return reason;
	if (ttl_exceeded(pkt, &s->open))
		return REFUSE(pkt, REASON_TTL_EXCEEDED);
	s->open.origin = pkt->origin;

	if (s->open.flags & FLOW_HAIRPIN) {
		hairpin = pkt->key.family == FAMILY_IPV4 ? &ep->hairpin4 : &ep->hairpin6;
		if (addr_none(hairpin))
			return REFUSE(pkt, REASON_NO_SOURCE_PORT);
		s->open.src = *hairpin;
		s->open.flags |= FLOW_SOURCE;
	}
	ct_init_reply(pkt, s);
	if (s->open.out == OUT_HOST)
		s->reply.flags |= FLOW_HERE;
	set_local_delivery(&s->reply, pkt->key.ifindex, ep);
	reason = nat_source_port(pkt, s);
	if (reason)
		return reason;
	set_diffs(&s->open, &pkt->key);
	if (makes_no_flow(pkt, s))
		return REASON_NONE;
	return commit_flow(pkt, s);
}

/* A packet that opens a flow to a pod, from the node or through it. */
static __noinline int judge_to_pod(ctx_t *ctx, struct packet *pkt, struct scratch *s)
{
	const struct addr *own;
	struct ipcache_entry *entry;
	struct endpoint *ep;
	__u8 host = 0;
	int reason;

	ep = endpoint_lookup(pkt, pkt->key.ifindex);
	if (!ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	own = endpoint_addr(ep, pkt->key.family);
	/* :: stands for none: the pod has no address of this family. */
	if (addr_none(own) || !addr_equal(own, &pkt->key.dst))
		return REFUSE(pkt, REASON_NOT_FOR_ENDPOINT);
	entry = ipcache_lookup(pkt, &pkt->key.src);
	host = entry && (entry->flags & IPCACHE_HOST);
	if (host && !from_local_stack(ctx, pkt))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	if (!host && (martian(&pkt->key.src, pkt->key.family) ||
		      linklocal(&pkt->key.src, pkt->key.family)))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	/* No local pod sends here: from_container delivers its packets. */
	if (entry && entry->ifindex)
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	reason = judge_echo(pkt);
	if (reason)
		return reason;

	pkt->src_identity = identity_of(entry);
	pkt->dst_identity = ep->identity;
	ct_init(pkt, &s->open);
	if (host)
		s->open.flags |= FLOW_HERE;
	set_local_delivery(&s->open, pkt->key.ifindex, ep);
	s->open.other_hook = HOOK_FROM_CONTAINER;
	s->open.other_ifindex = pkt->key.ifindex;
	if (!host) {
		reason = policy_check(pkt, ep->set, DIRECTION_INGRESS, pkt->src_identity,
				      s->open.dport);
		if (reason)
			return reason;
	}
	s->open.origin = pkt->origin;
	ct_init_reply(pkt, s);
	clear_macs(&s->reply);
	s->reply.out = host ? OUT_HOST : OUT_DEVICE;
	reason = nat_source_port(pkt, s);
	if (reason)
		return reason;
	set_diffs(&s->open, &pkt->key);
	if (makes_no_flow(pkt, s))
		return REASON_NONE;
	return commit_flow(pkt, s);
}

/* Asks the policies again about a flow, by a packet of its reply direction. */
static __noinline int rejudge_policy(struct packet *pkt, struct flow *flow,
				     const struct endpoint *ep)
{
	struct ipcache_entry *entry;
	struct endpoint *opener;
	int reason;
	__u8 here;

	if (at(pkt, HOOK_TO_CONTAINER)) {
		entry = ipcache_lookup(pkt, &pkt->key.src);
		/* The address is a pod's of this node now. */
		if (entry && entry->ifindex)
			return REFUSE(pkt, REASON_SPOOFED_SOURCE);
		here = entry && (entry->flags & IPCACHE_HOST) ? FLOW_HERE : 0;
		if (here && pkt->transit)
			return REFUSE(pkt, REASON_MARTIAN_SOURCE);
		flow->flags = (flow->flags & ~FLOW_HERE) | here;
		set_pod_macs(flow, ep);
		reason = policy_check(pkt, ep->set, DIRECTION_EGRESS, identity_of(entry),
				      pkt->key.sport);
		if (reason || !here)
			return reason;
		return host_policy(pkt, DIRECTION_INGRESS,
				   identity_of(ipcache_lookup(pkt, &flow->dst)), pkt->key.sport);
	}
	if (flow->other_hook == HOOK_TO_DEVICE)
		return REASON_NONE;
	if (flow->other_hook == HOOK_FROM_DEVICE)
		return policy_check(pkt, ep->set, DIRECTION_INGRESS,
				    identity_of(ipcache_lookup(pkt, &flow->dst)), pkt->key.sport);
	if (flow->other_hook == HOOK_TO_CONTAINER) {
		entry = ipcache_lookup(pkt, &pkt->key.dst);
		if (entry && (entry->flags & IPCACHE_HOST)) {
			flow->out = OUT_HOST;
			flow->ifindex = 0;
			flow->routed = 0;
			return REASON_NONE;
		}
		flow->out = OUT_DEVICE;
		return policy_check(pkt, ep->set, DIRECTION_INGRESS, identity_of(entry),
				    pkt->key.sport);
	}
	opener = endpoint_lookup(pkt, flow->other_ifindex);
	if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	set_pod_macs(flow, opener);
	if (flow->flags & FLOW_HAIRPIN)
		return REASON_NONE;
	reason = policy_check(pkt, opener->set, DIRECTION_EGRESS,
			      identity_of(ipcache_lookup(pkt, &pkt->key.src)), pkt->key.sport);
	if (reason)
		return reason;
	return policy_check(pkt, ep->set, DIRECTION_INGRESS,
			    identity_of(ipcache_lookup(pkt, &flow->dst)), pkt->key.sport);
}

/* A reply at a pod's device to a flow that was judged before the tables changed. */
static __noinline int rejudge_pod(struct packet *pkt, struct flow *flow)
{
	const struct addr *own;
	struct endpoint *ep;
	int reason;

	ep = endpoint_lookup(pkt, pkt->key.ifindex);
	if (!ep)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	/* The device may be another pod's now. */
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
