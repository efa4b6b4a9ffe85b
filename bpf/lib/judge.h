/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_JUDGE_H
#define WEIR_JUDGE_H

#include "ipcache.h"
#include "conntrack.h"
#include "nat.h"
#include "source.h"
#include "policy.h"
#include "rewrite.h"
#include "route.h"
#include "ct_share.h"
#include "lb.h"

/* The slow path: packets of new flows, and of flows that were judged under
 * tables that have changed since. What all hooks do; who may open what is in
 * pod.h and uplink.h.
 */

static __always_inline const struct addr *endpoint_addr(const struct endpoint *ep, __u8 family)
{
	return family == FAMILY_IPV4 ? &ep->addr4 : &ep->addr6;
}

static __noinline struct endpoint *endpoint_lookup(struct packet *pkt, __u32 ifindex)
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

static __always_inline int is_icmp(const struct packet *pkt)
{
	return pkt->key.proto == (pkt->key.family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __noinline int judge_icmp_type(struct packet *pkt)
{
	if (is_echo(pkt))
		return REASON_NONE;
	if (pkt->key.family == FAMILY_IPV4 &&
	    (pkt->icmp_type == ICMP_SOURCE_QUENCH || pkt->icmp_type == ICMP_REDIRECT))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	return REFUSE(pkt, REASON_ICMP_TYPE);
}

/* Judges ICMP that is no echo, and no error. It has no flow, and its key may be the key
 * of an echo with identifier 0: so it is judged before flows are looked up. Errors do
 * not come here.
 */
static __always_inline int judge_icmp(struct packet *pkt)
{
	return is_icmp(pkt) ? judge_icmp_type(pkt) : REASON_NONE;
}

/* An echo reply opens no flow. */
static __noinline int judge_echo(struct packet *pkt)
{
	if (is_icmp(pkt) &&
	    pkt->icmp_type == (pkt->key.family == FAMILY_IPV4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY))
		return REFUSE(pkt, REASON_ICMP_NO_FLOW);
	return REASON_NONE;
}

static __noinline int ct_init(struct packet *pkt, struct flow *flow)
{
	pkt->opened = 1;
	flow->last_seen = pkt->now;
	flow->routed = 0;
	flow->epoch = pkt->epoch;
	flow->ifindex = 0;
	flow->service = 0;
	flow->origin = 0;
	flow->src = pkt->key.src;
	flow->dst = pkt->key.dst;
	flow->sport = pkt->key.sport;
	flow->dport = pkt->key.dport;
	flow->other_ifindex = 0;
	flow->other_hook = 0;
	flow->out = OUT_NONE;
	flow->flags = 0;
	flow->seen = 0;
	flow->sent = 0;
	flow->acked = 0;
	if (!pkt->traceless)
		ct_track_tcp(pkt, flow);
	clear_macs(flow);
	return 0;
}

/* Sets the MACs of frames for a pod: they may have changed since. */
static __noinline int set_pod_macs(struct flow *flow, const struct endpoint *ep)
{
	__builtin_memcpy(flow->smac, ep->mac, sizeof(flow->smac));
	__builtin_memcpy(flow->dmac, ep->pod_mac, sizeof(flow->dmac));
	return 0;
}

static __always_inline void set_local_delivery(struct flow *flow, __u32 ifindex, const struct endpoint *ep)
{
	flow->out = OUT_LOCAL;
	flow->ifindex = ifindex;
	set_pod_macs(flow, ep);
}

/* Stores the reply's entry, unless it is there. The one of a flow that continues is kept
 * even if the flow has timed out and was not collected yet: storing it again would make
 * it younger, and the packet may be one that must not refresh its flow.
 */
static __always_inline int commit_reply(struct packet *pkt, struct scratch *s)
{
	struct flow *reply;

	/* nat_source_port() has stored the reply's entry with the source port. */
	if (s->open.flags & FLOW_SOURCE)
		return 0;
	/* The side that answers may be silent for longer than the side that opens. */
	reply = flow_continues(pkt, s) ? ct_lookup_reverse(&pkt->key, &s->open) :
					 ct_lookup_alive(&s->reply_key, pkt->now);
	/* The entry there may be of an older flow's opening direction, which is overwritten.
	 * Another flow's reply cannot be there: this flow would have got a source port.
	 */
	if (reply && !pkt->reused && (reply->flags & FLOW_REPLY))
		return 0;
	return ct_store(&s->reply_key, &s->reply);
}

/* Stores both entries, the reply's first: a flow whose reply cannot be stored is dropped. */
static __noinline int commit_flow(struct packet *pkt, struct scratch *s)
{
	struct flow *old = NULL;

	if (!is_tunnel(s->open.out) && commit_reply(pkt, s))
		return REFUSE(pkt, REASON_FLOW_TABLE_FULL);
	if (flow_continues(pkt, s)) {
		/* ct_lookup() has found it. It may have timed out while its other half
		 * has not: its flags still count.
		 */
		old = ct_lookup_any(&pkt->key);
	}
	if (old) {
		old->ifindex = s->open.ifindex;
		old->routed = s->open.routed;
		old->out = s->open.out;
		old->origin = s->open.origin;
		old->service = s->open.service;
		if (OBJECT_HOOKS & (1 << HOOK_TO_CONTAINER))
			old->flags = (old->flags & ~FLOW_HERE) | (s->open.flags & FLOW_HERE);
		__builtin_memcpy(old->smac, s->open.smac, sizeof(old->smac) + sizeof(old->dmac));
		old->epoch = s->open.epoch;
		return REASON_NONE;
	}
	if (ct_store(&pkt->key, &s->open))
		return REFUSE(pkt, REASON_FLOW_TABLE_FULL);
	share_charge_flow(&pkt->key);
	if (s->affinity_group)
		affinity_update(pkt, s->affinity_group, &s->open.dst, s->open.dport);
	return REASON_NONE;
}

/* Asks the policy of the node itself; nothing is denied if no policy selects it. */
static __noinline int host_policy(struct packet *pkt, __u32 direction, __u32 peer, __be16 port)
{
	__u32 set = host_rule_set(pkt);

	return set ? policy_check(pkt, set, direction, peer, port) : REASON_NONE;
}

static __always_inline int ttl_exceeded(struct packet *pkt, const struct flow *flow)
{
	return routed(pkt, flow) && pkt->ttl <= 1;
}

/* Each hook's own: a reply to a flow that was judged before the tables changed. */
static int rejudge_reply(struct packet *pkt, struct flow *flow);

#endif
