/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_UPLINK_H
#define WEIR_UPLINK_H

#include "tunnel.h"

/* The slow path at the node's devices: who comes for a frontend, and what the
 * node itself sends.
 *
 *	client ---- from-device ---+--- pod of this node	replies: from-container
 *				   +--- node's own socket	replies: to-device
 *				   +--- elsewhere, SNAT		replies: from-device
 *	node ---- to-device -------+--- pod of this node	replies: from-container
 *				   +--- elsewhere		replies: from-device
 */

/* Whether a packet comes from a node's tunnel and is for a pod of this node. Tunnels
 * between pods are judged as any packet.
 */
static __noinline int is_encapped(struct packet *pkt)
{
	struct ipcache_entry *entry;
	__u8 tunnel = 0;
	struct node *self;

	if (pkt->key.proto == IPPROTO_UDP && pkt->key.dport == bpf_htons(GENEVE_PORT))
		tunnel = TUNNEL_GENEVE;
	else if (pkt->key.proto == (pkt->key.family == FAMILY_IPV4 ? IPPROTO_IPIP4 : IPPROTO_IPIP6))
		tunnel = TUNNEL_IPIP;
	if (!tunnel || pkt->fragment || !pkt->plain)
		return 0;
	self = node_lookup(pkt);
	if (!self || self->tunnel != tunnel)
		return 0;
	entry = ipcache_lookup(pkt, &pkt->key.src);
	if (!entry || !(entry->flags & IPCACHE_NODE))
		return 0;
	entry = ipcache_lookup(pkt, &pkt->key.dst);
	return entry && entry->ifindex;
}

/* Removes the outer headers. The caller parses the packet again. */
static __noinline int decap(ctx_t *ctx, struct scratch *s)
{
	struct packet *pkt = &s->pkt;
	struct geneve geneve;
	__s32 len = pkt->l4_off - ETH_LEN;
	__be16 start;
	__u16 ecn;

	if (pkt->key.proto == IPPROTO_UDP) {
		if (ctx_load_bytes(ctx, pkt->l4_off + sizeof(struct udphdr), &geneve, sizeof(geneve)))
			return -1;
		if (geneve.options || geneve.proto != ctx_protocol(ctx))
			return -1;
		len += sizeof(struct udphdr) + sizeof(geneve);
	}
	/* The first two octets have the ECN bits: RFC 791 3.1, RFC 8200 3. */
	ctx_load_bytes(ctx, ETH_LEN, &start, sizeof(start)); /* parse() has read it */
	ecn = pkt->key.family == FAMILY_IPV4 ? bpf_ntohs(start) : bpf_ntohs(start) >> 4;
	if (len < 20 || len > 56)
		return -1;
	s->pod = pkt->key.dst;
	if (ctx_adjust_room(ctx, -len, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	/* RFC 6040 4.2: a congestion mark of the outer header is copied to the inner one; an
	 * inner packet that does not support marks is dropped. The kernel marks the header
	 * where it knows it to be, and so the headers are pulled first.
	 */
	if ((ecn & 3) != 3)
		return 0;
	pull_headers(ctx);
	return ctx_ecn_set_ce(ctx) ? 0 : -1;
}

/* Whether a client may send to a frontend, by its source address. */
static __noinline int judge_client(struct packet *pkt, const struct ipcache_entry *client)
{
	if (client && client->ifindex)
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	if (martian(&pkt->key.src, pkt->key.family) ||
	    linklocal(&pkt->key.src, pkt->key.family) ||
	    (client && (client->flags & IPCACHE_HOST)))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	if (addr_equal(&pkt->key.src, &pkt->key.dst))
		return REFUSE(pkt, REASON_SAME_ADDRESS);
	return REASON_NONE;
}

/* The frontend of a packet that came by a device. A packet that another node has
 * encapsulated has that node's address as its destination: its node port is found
 * under the unspecified address, where this node has all node ports. No packet on a
 * wire has that destination.
 */
static __noinline struct service *service_lookup_outside(struct packet *pkt)
{
	struct service *service;
	struct ipcache_entry *entry;
	struct addr dst;

	service = service_lookup(pkt, SCOPE_OUTSIDE);
	if (service || !pkt->decapped)
		return service;
	entry = ipcache_lookup(pkt, &pkt->key.dst);
	if (!entry || !(entry->flags & IPCACHE_NODE))
		return NULL;
	dst = pkt->key.dst;
	__builtin_memset(&pkt->key.dst, 0, sizeof(pkt->key.dst));
	if (pkt->key.family == FAMILY_IPV4)
		addr_from4(&pkt->key.dst, 0);
	service = service_lookup(pkt, SCOPE_OUTSIDE);
	pkt->key.dst = dst;
	return service;
}

/* Whether a backend on another node can answer the client itself. It has to be a pod:
 * a node that is the backend decapsulates nothing. The client has to be outside of the
 * cluster: a pod may be on the backend's node, where its packets come from inside.
 */
static __always_inline int dsr_allowed(const struct packet *pkt)
{
	return identity_is_pod(pkt->dst_identity) && !identity_is_pod(pkt->src_identity) && !pkt->from_node;
}

/* Makes s->open lead to its backend. */
static __noinline int judge_backend(ctx_t *ctx, struct packet *pkt,
				    struct scratch *s, __u32 flags)
{
	struct ipcache_entry *backend = ipcache_lookup(pkt, &s->open.dst);
	struct endpoint *target;

	pkt->dst_identity = identity_of(backend);
	if (backend && backend->ifindex) {
		target = endpoint_lookup(pkt, backend->ifindex);
		if (!target)
			return REFUSE(pkt, REASON_NO_ENDPOINT);
		set_local_delivery(&s->open, backend->ifindex, target);
		s->open.other_hook = HOOK_FROM_CONTAINER;
		s->open.other_ifindex = backend->ifindex;
		return policy_check(pkt, target->set, DIRECTION_INGRESS, pkt->src_identity,
				    s->open.dport);
	}
	if (backend && (backend->flags & IPCACHE_HOST)) {
		s->open.out = OUT_HOST;
		s->open.other_hook = HOOK_TO_DEVICE;
		return host_policy(pkt, DIRECTION_INGRESS, pkt->src_identity, s->open.dport);
	}
	if ((flags & SERVICE_DSR) && dsr_allowed(pkt)) {
		/* Checked before the flow is stored: no packet of it could leave. */
		if (!node_masquerade_addr(pkt))
			return REFUSE(pkt, REASON_NO_SOURCE_PORT);
		s->open.out = OUT_TUNNEL;
		return route(ctx, pkt, &s->open);
	}
	if (tunnel_forged_by_client(pkt, &s->open))
		return REFUSE(pkt, REASON_BAD_TUNNEL);
	s->open.out = OUT_DEVICE;
	if (masquerade(pkt, s))
		return REFUSE(pkt, REASON_NO_SOURCE_PORT);
	return route(ctx, pkt, &s->open);
}

/* Finishes a flow whose opening half is made. */
static __noinline int finish_flow(struct packet *pkt, struct scratch *s, __u8 reply_out)
{
	int reason;

	s->open.origin = pkt->origin;
	ct_init_reply(pkt, s);
	clear_macs(&s->reply);
	s->reply.out = reply_out;
	reason = nat_source_port(pkt, s);
	if (reason)
		return reason;
	if (s->open.out == OUT_TUNNEL)
		clear_diffs(&s->open);
	else
		set_diffs(&s->open, &pkt->key);
	if (makes_no_flow(pkt, s))
		return REASON_NONE;
	return commit_flow(pkt, s);
}

/* A packet that opens a flow from outside to a frontend. */
static __noinline int judge_from_device(ctx_t *ctx, struct packet *pkt,
					struct scratch *s, const struct service *service)
{
	struct settings *ctl;
	struct ipcache_entry *client;
	__u32 zero = 0;
	int reason;

	ctl = bpf_map_lookup_elem(&control, &zero);
	if (!ctl)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	client = ipcache_lookup(pkt, &pkt->key.src);
	reason = judge_client(pkt, client);
	if (reason)
		return reason;
	pkt->src_identity = identity_of(client);
	pkt->from_node = client && (client->flags & IPCACHE_NODE);
	if (tunnel_forged_by_reply(pkt))
		return REFUSE(pkt, REASON_BAD_TUNNEL);
	ct_init(pkt, &s->open);
	reason = lb_select(pkt, s, service, ctl->seed);
	if (reason)
		return reason;
	reason = judge_backend(ctx, pkt, s, service->flags);
	if (reason)
		return reason;
	if (ttl_exceeded(pkt, &s->open))
		return REFUSE(pkt, REASON_TTL_EXCEEDED);
	return finish_flow(pkt, s, OUT_DEVICE);
}

/* A packet from outside to an address of services, at a port that no service has. */
static __noinline int judge_no_frontend(struct packet *pkt)
{
	struct ipcache_entry *client = ipcache_lookup(pkt, &pkt->key.src);
	int reason = judge_client(pkt, client);

	if (reason)
		return reason;
	pkt->src_identity = identity_of(client);
	if (tunnel_forged_by_reply(pkt))
		return REFUSE(pkt, REASON_BAD_TUNNEL);
	return REFUSE(pkt, REASON_NO_FRONTEND);
}

/* Whether policies select the node, and the packet is for it or from it. */
static __noinline int host_firewall_applies(struct packet *pkt)
{
	if (!host_rule_set(pkt) || is_no_host(&pkt->key.dst, pkt->key.family))
		return 0;
	return is_host_address(pkt, at(pkt, HOOK_FROM_DEVICE) ? &pkt->key.dst : &pkt->key.src);
}

/* Whether the packet's destination is a backend that is a socket of the node. A client
 * may come to it directly and by a service with one tuple, and the replies to both have
 * one tuple too.
 */
static __noinline int is_local_backend(struct packet *pkt)
{
	struct backend_key key = {
		.addr = pkt->key.dst,
		.port = pkt->key.dport,
		.proto = pkt->key.proto,
	};
	struct backend_pair *pair = bpf_map_lookup_elem(&backends, &key);

	return pair && (GENERATION(pkt->epoch) ? pair->half[1].state : pair->half[0].state);
}

/* Whether a packet may come to the node itself. */
static __noinline int judge_host_ingress(struct packet *pkt)
{
	struct ipcache_entry *client = ipcache_lookup(pkt, &pkt->key.src);

	if (client && client->ifindex)
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	if (martian(&pkt->key.src, pkt->key.family) || (client && (client->flags & IPCACHE_HOST)))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	pkt->src_identity = identity_of(client);
	pkt->dst_identity = IDENTITY_HOST;
	return host_policy(pkt, DIRECTION_INGRESS, pkt->src_identity, pkt->key.dport);
}

/* A packet that opens a flow to the node itself. */
static __noinline int judge_to_host(struct packet *pkt, struct scratch *s)
{
	int reason;

	reason = judge_echo(pkt);
	if (!reason)
		reason = judge_host_ingress(pkt);
	if (reason)
		return reason;
	ct_init(pkt, &s->open);
	s->open.out = OUT_HOST;
	s->open.other_hook = HOOK_TO_DEVICE;
	return finish_flow(pkt, s, OUT_DEVICE);
}

/* Whether a flow of the node's own has a source port that masquerading could give to a
 * pod's flow. Multicast is left out: its answers come from other addresses.
 */
static __noinline int is_port_tracked(struct packet *pkt)
{
	struct node *self = node_lookup(pkt);
	const struct addr *source = masquerade_addr(pkt, self);
	__u32 port = bpf_ntohs(pkt->key.sport);

	if (!source || !self || !addr_equal(source, &pkt->key.src))
		return 0;
	if (!has_ports(pkt->key.proto) && pkt->key.proto != IPPROTO_SCTP && !is_echo(pkt))
		return 0;
	return port >= self->first_port && port <= self->last_port;
}

/* A packet that the node sends. Its flow is stored in three cases: it goes to a service;
 * its source port is one of those that masquerading gives to pods, so that no pod gets
 * it; policies select the node.
 */
static __noinline int judge_to_device(ctx_t *ctx, struct packet *pkt,
				      struct scratch *s, const struct service *service)
{
	struct endpoint *target = NULL;
	struct settings *ctl;
	struct ipcache_entry *peer;
	int reason, tracked;
	__u32 zero = 0;

	ctl = bpf_map_lookup_elem(&control, &zero);
	if (!ctl)
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	reason = judge_echo(pkt);
	if (reason)
		return reason;
	if (!service && service_lookup_address(pkt))
		return REFUSE(pkt, REASON_NO_FRONTEND);
	pkt->src_identity = IDENTITY_HOST;
	ct_init(pkt, &s->open);
	if (service) {
		reason = lb_select(pkt, s, service, ctl->seed);
		if (reason)
			return reason;
	}
	peer = ipcache_lookup(pkt, &s->open.dst);
	pkt->dst_identity = identity_of(peer);
	if (service || is_port_tracked(pkt))
		s->open.flags |= FLOW_SOURCE;
	/* The kernel does not take in what it has sent out itself. */
	if (service && peer && (peer->flags & IPCACHE_HOST))
		return REFUSE(pkt, REASON_NO_ROUTE);
	if (service && peer && peer->ifindex) {
		target = endpoint_lookup(pkt, peer->ifindex);
		if (!target)
			return REFUSE(pkt, REASON_NO_ENDPOINT);
		set_local_delivery(&s->open, peer->ifindex, target);
		s->open.other_hook = HOOK_FROM_CONTAINER;
		s->open.other_ifindex = peer->ifindex;
	} else {
		if (service && tunnel_forged_by_client(pkt, &s->open))
			return REFUSE(pkt, REASON_BAD_TUNNEL);
		s->open.out = OUT_DEVICE;
		s->open.other_hook = HOOK_FROM_DEVICE;
		reason = host_policy(pkt, DIRECTION_EGRESS, pkt->dst_identity, s->open.dport);
		if (reason)
			return reason;
		reason = service ? route(ctx, pkt, &s->open) : REASON_NONE;
		if (reason)
			return reason;
	}
	tracked = s->open.flags & FLOW_SOURCE;
	reason = finish_flow(pkt, s, OUT_HOST);
	if (!reason || service || !tracked)
		return reason;
	/* No source port is free: the packet leaves as it is, and reserves none. What an
	 * earlier judgement has stored for it is deleted.
	 */
	bpf_map_delete_elem(&ct_answered, &pkt->key);
	bpf_map_delete_elem(&ct_unanswered, &pkt->key);
	ct_init(pkt, &s->open);
	s->open.out = OUT_DEVICE;
	return REASON_NONE;
}

/* A reply at the node's devices to a flow that was judged before the tables changed.
 * A flow that a pod opened is judged by the pod's policy, and one that the node opened
 * or received by the node's. A flow of a frontend whose backend is on another node is
 * judged there.
 */
static __noinline int rejudge_device(struct packet *pkt, struct flow *flow)
{
	struct endpoint *opener;
	int reason = REASON_NONE;

	if (at(pkt, HOOK_FROM_DEVICE)) {
		reason = judge_outside_source(pkt);
		if (reason)
			return reason;
	}
	if (at(pkt, HOOK_FROM_DEVICE) && flow->other_hook == HOOK_FROM_CONTAINER) {
		opener = endpoint_lookup(pkt, flow->other_ifindex);
		if (!opener || !addr_equal(endpoint_addr(opener, pkt->key.family), &flow->dst))
			return REFUSE(pkt, REASON_NO_ENDPOINT);
		set_pod_macs(flow, opener);
		reason = policy_check(pkt, opener->set, DIRECTION_EGRESS,
				      identity_of(ipcache_lookup(pkt, &pkt->key.src)), pkt->key.sport);
	} else if (at(pkt, HOOK_FROM_DEVICE) && flow->other_hook == HOOK_TO_DEVICE) {
		reason = host_policy(pkt, DIRECTION_EGRESS,
				     identity_of(ipcache_lookup(pkt, &pkt->key.src)), pkt->key.sport);
	} else if (at(pkt, HOOK_TO_DEVICE)) {
		reason = host_policy(pkt, DIRECTION_INGRESS,
				     identity_of(ipcache_lookup(pkt, &flow->dst)), pkt->key.sport);
	}
	if (reason)
		return reason;
	flow->epoch = pkt->epoch;
	return REASON_NONE;
}

#endif
