/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_NAT_H
#define WEIR_NAT_H

#include "conntrack.h"
#include "rewrite.h"
#include "service.h"

/* Translation of sources. A source port is taken by writing the reply half of
 * the flow where there is none (5.10 has no atomic operation that gives a value
 * back): the key holds the peer, so that a port serves as many flows as there
 * are peers.
 */

/* For a half whose packets do not go to a pod. */
static __always_inline void clear_macs(struct flow *flow)
{
	__builtin_memset(flow->smac, 0, sizeof(flow->smac) + sizeof(flow->dmac));
}

/* Makes the reply half of s->open, which undoes the translation of the opening half.
 * The caller sets its way out and its MACs.
 */
static __always_inline void ct_init_reply(struct packet *pkt, struct scratch *s)
{
	struct flow *reply = &s->reply;

	reply->last_seen = pkt->now;
	reply->routed = 0;
	reply->epoch = pkt->epoch;
	reply->ifindex = 0;
	reply->origin = 0;
	reply->src = pkt->key.dst;
	reply->dst = pkt->key.src;
	reply->sport = pkt->key.dport;
	reply->dport = pkt->key.sport;
	reply->service = s->open.service;
	reply->flags = FLOW_REPLY | (s->open.flags & FLOW_HAIRPIN);
	reply->other_ifindex = pkt->key.ifindex;
	reply->other_hook = pkt->key.hook;
	reply->seen = 0;
	reply->sent = 0;
	reply->acked = 0;
	ct_reverse_key(&s->reply_key, &pkt->key, &s->open);
	set_diffs(reply, &s->reply_key);
}

static __always_inline int nat_equal(const struct flow *a, const struct flow *b)
{
	__u32 ports_a, ports_b;

	__builtin_memcpy(&ports_a, &a->sport, sizeof(ports_a));
	__builtin_memcpy(&ports_b, &b->sport, sizeof(ports_b));
	return !(addr_differs(&a->src, &b->src) | addr_differs(&a->dst, &b->dst) |
		 (ports_a ^ ports_b) | (a->other_ifindex ^ b->other_ifindex) |
		 (a->other_hook ^ b->other_hook));
}

static __noinline struct node *node_lookup(struct packet *pkt)
{
	struct node_pair *pair;
	__u32 zero = 0;

	pair = bpf_map_lookup_elem(&nodes, &zero);
	if (!pair)
		return NULL;
	return &pair->half[GENERATION(pkt->epoch)];
}

/* The rule set of the node's own traffic; 0 where no policy selects the node. */
static __always_inline __u32 host_rule_set(struct packet *pkt)
{
	struct node *self = node_lookup(pkt);

	return self ? self->set : 0;
}

/* The address that stands for what is behind the node; NULL where there is none. */
static __always_inline const struct addr *masquerade_addr(const struct packet *pkt, const struct node *self)
{
	const struct addr *source;

	if (!self)
		return NULL;
	source = pkt->key.family == FAMILY_IPV4 ? &self->masquerade4 : &self->masquerade6;
	return addr_none(source) ? NULL : source;
}

static __noinline const struct addr *node_masquerade_addr(struct packet *pkt)
{
	return masquerade_addr(pkt, node_lookup(pkt));
}

/* Gives s->open the node's address, if it has one. Replies come in by a device. */
static __noinline int masquerade(struct packet *pkt, struct scratch *s)
{
	const struct addr *source = node_masquerade_addr(pkt);

	if (!source)
		return -1;
	s->open.src = *source;
	s->open.flags |= FLOW_SOURCE;
	s->open.other_hook = HOOK_FROM_DEVICE;
	s->open.other_ifindex = 0;
	return 0;
}

/* The source ports that a flow may be given. */
struct port_range {
	__u32 first;
	__u32 count;
	__u32 hash;		/* of the tuple: decides which ports are tried */
	__u32 shared;		/* by pods: each may take one port of a group */
};

static __always_inline void nat_port_range(struct packet *pkt, struct scratch *s, __u32 seed,
					   struct port_range *range)
{
	struct node *self = node_lookup(pkt);

	range->first = 1024;
	range->count = 64512;
	range->hash = hash_tuple(&pkt->key, seed);
	range->shared = 0;
	if (!self || (s->open.flags & FLOW_HAIRPIN) || !self->last_port)
		return;
	range->first = self->first_port;
	range->count = self->last_port - range->first + 1;
	range->shared = at(pkt, HOOK_FROM_CONTAINER) &&
			addr_differs(&s->open.src, &pkt->key.src) && changes_port(pkt);
	/* Some ports are for the node alone, so that pods cannot take them all. */
	if (!self->own_ports)
		return;
	if (at(pkt, HOOK_TO_DEVICE)) {
		range->count = self->own_ports;
	} else {
		range->first += self->own_ports;
		range->count -= self->own_ports;
	}
}

static __always_inline void nat_try_port(struct scratch *s, const struct port_range *range, __u32 n)
{
	s->open.sport = bpf_htons(range->first + (range->hash + n * 7919) % range->count);
	s->reply_key.dport = s->open.sport;
}

/* Whether a masqueraded flow may not keep its source port. A port outside of the range
 * may be one of the node itself or of a frontend: their packets would be taken for this
 * flow's answers. Some ports of the range are kept for the node.
 */
static __always_inline int nat_port_outside(struct packet *pkt, struct scratch *s,
					    const struct port_range *range)
{
	__u32 port = bpf_ntohs(s->open.sport);

	if (at(pkt, HOOK_TO_DEVICE) || (s->open.flags & FLOW_HAIRPIN))
		return 0;
	return port < range->first || port - range->first >= range->count;
}

/* Whether a pod would exceed its share if it took the port in the scratch's reply_key:
 * a quarter of the ports towards one peer. Ports that are a quarter of the range apart
 * are a group, and a pod takes one port of a group at most: so nothing is counted and
 * nothing is given back. Flows that others have opened to the pod by such a port do not
 * count. The function is global so that the verifier checks it once and not for each
 * port that is tried.
 */
__noinline int nat_port_over_share(__u32 opener, __u32 first, __u32 count)
{
	__u32 apart = (count + PORT_GROUP - 1) / PORT_GROUP;
	struct flow_key key;
	struct scratch *s;
	struct flow *flow;
	__u32 zero = 0;
	__u32 i, nth;

	s = bpf_map_lookup_elem(&scratch, &zero);
	if (!s)
		return 0;
	key = s->reply_key;
	nth = bpf_ntohs(key.dport) - first;
	for (i = 1; i < PORT_GROUP; i++) {
		nth += apart;
		if (nth >= apart * PORT_GROUP)
			nth -= apart * PORT_GROUP;
		key.dport = bpf_htons(first + nth);
		flow = ct_lookup_held(&key, s->pkt.now);
		if (flow && (flow->flags & FLOW_REPLY) && flow->other_ifindex == opener)
			return 1;
	}
	return 0;
}

static __always_inline int nat_over_share(const struct packet *pkt, const struct port_range *range)
{
	return range->shared && nat_port_over_share(pkt->key.ifindex, range->first, range->count);
}

/* Looks for a source port for which there is no reply half: first the flow's own, then
 * those that the hash gives. A port whose reply half has timed out is taken last: its
 * opening half may be alive, and keeps it alive; ct_reserve finds that out. To look for
 * it here would cost the verifier of 5.10 four times the instructions of the whole
 * program.
 */
static __always_inline int nat_find_port(struct packet *pkt, struct scratch *s,
					 const struct port_range *range, int changes, int own_taken)
{
	struct flow *there;
	__be16 spare = 0;
	__u32 i;

	if (!own_taken && !bpf_map_lookup_elem(&ct_answered, &s->reply_key) && !nat_over_share(pkt, range))
		return 0;
	if (!changes)
		return -1;
	for (i = 1; i <= MAX_PORT_PROBES; i++) {
		nat_try_port(s, range, i);
		if (bpf_map_lookup_elem(&ct_answered, &s->reply_key))
			continue;
		there = bpf_map_lookup_elem(&ct_unanswered, &s->reply_key);
		if (there && !ct_expired(there, s->reply_key.proto, pkt->now))
			continue;
		if (nat_over_share(pkt, range))
			continue;
		if (!there)
			return 0;
		spare = s->open.sport;
	}
	if (!spare)
		return -1;
	s->open.sport = spare;
	s->reply_key.dport = spare;
	return 0;
}

/* Whether a flow that is judged again keeps its translation, and so the reply's key. */
static __noinline int flow_continues(const struct packet *pkt, const struct scratch *s)
{
	return pkt->old && nat_equal(&s->old, &s->open);
}

/* A reset that belongs to no known flow is let through, and stores no flow. A reset of a
 * flow that is judged again stores the judgement if the flow keeps its translation.
 */
static __noinline int makes_no_flow(const struct packet *pkt, const struct scratch *s)
{
	return (pkt->tcp_flags & TCP_FLAG_RST) && !flow_continues(pkt, s);
}

/* Takes a source port for s->open: the one of an earlier judgement, else the packet's
 * own if it may be kept, else another. A reset of an unknown flow takes none for good:
 * nobody would free it for a minute.
 */
static __noinline int nat_take_port(struct packet *pkt, struct scratch *s, __u32 seed)
{
	int changes = changes_port(pkt);
	struct port_range range;
	struct flow *held;

	nat_port_range(pkt, s, seed, &range);
	if (pkt->old && addr_equal(&s->old.src, &s->open.src)) {
		s->open.sport = s->old.sport;
		s->reply_key.dport = s->open.sport;
	} else if (changes && nat_port_outside(pkt, s, &range)) {
		nat_try_port(s, &range, 0);
	}
	s->reply.flags |= FLOW_SOURCE;
	set_diffs(&s->reply, &s->reply_key);
	held = ct_lookup_held(&s->reply_key, pkt->now);
	if (held && nat_equal(held, &s->reply)) {
		/* This flow has the port already. Its reply half is stored again if it
		 * has timed out, or if it is an old flow's opening half.
		 */
		if (!makes_no_flow(pkt, s) &&
		    (pkt->reused || !(held->flags & FLOW_REPLY) ||
		     (!flow_continues(pkt, s) && ct_expired(held, pkt->key.proto, pkt->now))) &&
		    ct_store(&s->reply_key, &s->reply))
			return REFUSE(pkt, REASON_FLOW_TABLE_FULL);
		return REASON_NONE;
	}
	if (nat_find_port(pkt, s, &range, changes, !!held))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	set_diffs(&s->reply, &s->reply_key);
	if (makes_no_flow(pkt, s))
		return REASON_NONE;
	if (ct_reserve(&s->reply_key, &s->reply, pkt->now))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	return REASON_NONE;
}

/* Whether s->open has to look for a source port because the replies of another flow
 * have the same tuple. Two services of one pod, a service and its pod, or two nodes
 * that lead one client to one pod may cause that. A flow that was given another source
 * port before keeps it.
 */
static __noinline int nat_reply_taken(struct packet *pkt, struct scratch *s)
{
	struct flow *held;

	if (is_tunnel(s->open.out))
		return 0;
	if (pkt->old && s->old.sport != pkt->key.sport &&
	    addr_equal(&s->old.src, &s->open.src))
		return 1;
	held = ct_lookup_alive(&s->reply_key, pkt->now);
	return held && !nat_equal(held, &s->reply);
}

/* Gives s->open a source port of its own where it needs one. */
static __noinline int nat_source_port(struct packet *pkt, struct scratch *s)
{
	struct settings *ctl;
	__u32 zero = 0;

	if (!(s->open.flags & FLOW_SOURCE)) {
		if (!nat_reply_taken(pkt, s))
			return REASON_NONE;
		s->open.flags |= FLOW_SOURCE;
	}
	ctl = bpf_map_lookup_elem(&control, &zero);
	return ctl ? nat_take_port(pkt, s, ctl->seed) : REFUSE(pkt, REASON_NO_SOURCE_PORT);
}

#endif
