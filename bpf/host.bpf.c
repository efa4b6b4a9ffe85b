//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The hooks of the node's devices towards others.
 *
 *	outside ~~~~ uplink --ingress--> from_device --> pod, device, node's stack
 *		            <--egress--- to_device   <-- node's stack
 *
 * They see only what no hook of the node has judged: frontends that outsiders
 * and the node itself use, and replies to what has the node's source. All else
 * goes on untouched, whatever is wrong with it: the node's stack is the judge of
 * its own packets, and to_container of those that it leads to pods.
 */

#define OBJECT_HOOKS (1 << HOOK_FROM_DEVICE | 1 << HOOK_TO_DEVICE)

#include "lib/forward.h"
#include "lib/neighbour.h"
#include "lib/uplink.h"

/* Notes that the kernel goes on with the packet, up its stack or out by this device. */
static __always_inline void set_kernel_way(const ctx_t *ctx, struct packet *pkt,
					   __u8 hook)
{
	pkt->kernel_forwards = 1;
	pkt->out = is_hook(hook, HOOK_FROM_DEVICE) ? OUT_HOST : OUT_DEVICE;
	pkt->out_ifindex = is_hook(hook, HOOK_FROM_DEVICE) ? 0 : ctx_ifindex(ctx);
}

/* Lets the kernel go on with a packet. */
static __noinline int pass_to_kernel(ctx_t *ctx, struct packet *pkt, __u8 hook)
{
	int reason;

	if (pkt->decapped)
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_TUNNEL));
	/* Neighbour discovery may have any source: the kernel judges it. */
	if (is_hook(hook, HOOK_FROM_DEVICE) && pkt->key.family && !(is_nd(pkt) && !pkt->fragment)) {
		reason = judge_outside_source(pkt);
		/* The kernel would route it, and mostly back to where it came from. */
		if (!reason && service_lookup_address(pkt))
			reason = REFUSE(pkt, REASON_NO_FRONTEND);
		if (reason)
			return drop(ctx, pkt, reason);
	}
	pkt->where = HERE;
	set_kernel_way(ctx, pkt, hook);
	return deliver_packet(ctx, pkt);
}

static __always_inline int judge_new(ctx_t *ctx, struct packet *pkt, struct scratch *s,
				     __u8 hook)
{
	struct service *service;

	if (is_hook(hook, HOOK_FROM_DEVICE)) {
		service = service_lookup_outside(pkt);
		if (service)
			return judge_from_device(ctx, pkt, s, service);
		return service_lookup_address(pkt) ? judge_no_frontend(pkt) : judge_to_host(pkt, s);
	}
	service = service_lookup(pkt, SCOPE_INSIDE);
	return judge_to_device(ctx, pkt, s, service);
}

static __always_inline int rejudge_reply(struct packet *pkt, struct flow *flow)
{
	return rejudge_device(pkt, flow);
}

/* Carries a packet into a tunnel, or tells its sender what would fit. No policy is
 * asked about it here: the other node judges it.
 */
static __noinline int forward_tunnel(ctx_t *ctx, struct packet *pkt, struct flow *flow)
{
	__u32 limit = tunnel_mtu(ctx, pkt);
	int reason;

	if (limit) {
		reason = REFUSE(pkt, REASON_TOO_BIG);
		if (refuse_too_big(ctx, pkt, limit))
			return drop(ctx, pkt, reason);
		return answer(ctx, pkt, reason);
	}
	/* Only the TTL of the inner packet changes. */
	reason = ttl_decrement(ctx, pkt) ? REFUSE(pkt, REASON_REWRITE_FAILED) : REASON_NONE;
	if (!reason)
		reason = encap(ctx, pkt, flow);
	if (reason)
		return drop(ctx, pkt, reason);
	pkt->out = OUT_TUNNEL;
	pkt->out_ifindex = flow->ifindex;
	return deliver_packet(ctx, pkt);
}

/* Whether a packet without a current flow has to be judged. A flow that got another
 * source port while policies selected the node keeps that port after they are gone.
 */
static __noinline int needs_judging(struct packet *pkt, const struct flow *old, __u8 hook)
{
	struct ipcache_entry *own;

	/* No answer comes from there: the source port need not be kept. */
	if (is_no_host(&pkt->key.dst, pkt->key.family))
		return 0;
	if (host_firewall_applies(pkt) && !pkt->decapped)
		return 1;
	if (old && !old->service && old->sport != pkt->key.sport)
		return 1;
	if (is_hook(hook, HOOK_FROM_DEVICE))
		return service_lookup_outside(pkt) ||
		       (!pkt->decapped && (service_lookup_address(pkt) || is_local_backend(pkt)));
	own = ipcache_lookup(pkt, &pkt->key.src);
	if (!own || !(own->flags & IPCACHE_HOST))
		return 0;
	if (service_lookup(pkt, SCOPE_INSIDE) || service_lookup_address(pkt))
		return 1;
	return (pkt->old || !(pkt->tcp_flags & TCP_FLAG_RST)) && is_port_tracked(pkt);
}

/* An ICMP error of a flow that is known here goes its way. */
static __noinline int forward_icmp_error(ctx_t *ctx, struct scratch *s, __u8 hook)
{
	struct packet *pkt = &s->pkt;
	int reason;

	reason = icmp_error(ctx, pkt, s, hook);
	if (reason == REASON_REWRITE_FAILED || reason == REASON_ICMP_MTU)
		return drop(ctx, pkt, reason);
	if (reason)
		return pass_to_kernel(ctx, pkt, hook);
	pkt->where = HERE;
	return forward_new(ctx, s, 0);
}

/* Whether a broken packet must not be left to the kernel. The kernel would forward a
 * source-routed packet to a destination that nobody has judged; and an IPv4-mapped
 * address in an IPv6 packet would match the tables' entries of IPv4.
 */
static __always_inline int must_drop(__u8 hook, int reason)
{
	if (reason == REASON_MARTIAN_SOURCE || reason == REASON_MARTIAN_DESTINATION)
		return 1;
	return is_hook(hook, HOOK_FROM_DEVICE) &&
	       (reason == REASON_SOURCE_ROUTE || reason == REASON_ROUTING_HEADER ||
		reason == REASON_BAD_IP_OPTIONS);
}

/* A packet for which no flow can be looked up. While policies select the node, its
 * packets that cannot be judged are dropped: the kernel would reassemble fragments that
 * nobody has judged. UDP over IPv6 without a checksum is mostly a tunnel's (RFC 6935):
 * each packet is checked against the policies.
 */
static __noinline int pass_unjudged(ctx_t *ctx, struct scratch *s, int reason, __u8 hook)
{
	struct packet *pkt = &s->pkt;

	if (!pkt->decapped && must_drop(hook, reason))
		return drop(ctx, pkt, reason);
	/* A packet without a family was not parsed: the kernel drops it. */
	if (pkt->decapped || !pkt->key.family || reason == REASON_ICMP_NO_FLOW || !host_firewall_applies(pkt))
		return pass_to_kernel(ctx, pkt, hook);
	if (reason == REASON_BAD_UDP_CHECKSUM) {
		reason = is_hook(hook, HOOK_FROM_DEVICE) ? judge_host_ingress(pkt) :
			 host_policy(pkt, DIRECTION_EGRESS,
				     identity_of(ipcache_lookup(pkt, &pkt->key.dst)), pkt->key.dport);
	}
	if (reason)
		return drop(ctx, pkt, reason);
	pkt->where = HERE;
	set_kernel_way(ctx, pkt, hook);
	if (pkt->audit)
		emit_audit(ctx, pkt);
	return deliver_packet(ctx, pkt);
}

/* Judges a packet, or leaves it to the kernel. */
static __always_inline int process(ctx_t *ctx, struct scratch *s, __u8 hook,
				   const struct settings *ctl)
{
	struct packet *pkt = &s->pkt;
	struct flow *flow;
	int reason;

	if (ctx_has_vlan(ctx) || !is_ip(ctx))
		return pass_to_kernel(ctx, pkt, hook);
	reason = parse(ctx, pkt);
	/* The outer UDP header of Geneve over IPv6 has no checksum. */
	if ((!reason || reason == REASON_BAD_UDP_CHECKSUM) && is_hook(hook, HOOK_FROM_DEVICE) &&
	    is_encapped(pkt)) {
		if (decap(ctx, s))
			return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_TUNNEL));
		/* parse() writes the other fields again. */
		pkt->key.sport = 0;
		pkt->key.dport = 0;
		pkt->decapped = 1;
		reason = parse(ctx, pkt);
	}
	/* Only a packet that could be parsed has a port here. */
	if (is_hook(hook, HOOK_TO_DEVICE) && pkt->key.proto == IPPROTO_UDP &&
	    pkt->key.dport == bpf_htons(GENEVE_PORT) && tunnel_forged_by_socket(pkt))
		return drop(ctx, pkt, REFUSE(pkt, REASON_BAD_TUNNEL));
	if (!reason && is_nd(pkt)) {
		if (!pkt->fragment)
			return pass_to_kernel(ctx, pkt, hook);
		/* RFC 6980 5: neighbour discovery is never fragmented. */
		reason = REFUSE(pkt, REASON_BAD_NDP);
	}
	if (!reason && is_icmp_error(pkt))
		return forward_icmp_error(ctx, s, hook);
	if (!reason)
		reason = judge_icmp(pkt);
	if (reason)
		return pass_unjudged(ctx, s, reason, hook);
	flow = ct_lookup(pkt, hook);
	if (pkt->stray)
		return drop(ctx, pkt, pkt->stray);
	/* The node in front may have chosen another backend for this tuple since. */
	if (flow && pkt->decapped && !(flow->flags & FLOW_REPLY) &&
	    !addr_equal(&flow->dst, &s->pod)) {
		pkt->reused = 1;
		flow = NULL;
	}
	if (flow && (flow->epoch == pkt->epoch || (flow->flags & FLOW_REPLY)))
		return forward_known(ctx, s, flow, ctl, hook);
	if (flow)
		save_old_flow(s, flow);
	if (!needs_judging(pkt, flow, hook))
		return pass_to_kernel(ctx, pkt, hook);
	return judge(ctx, s, hook);
}

static __always_inline int hook(ctx_t *ctx, __u8 hook)
{
	struct settings *ctl;
	struct scratch *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&scratch, &zero);
	ctl = bpf_map_lookup_elem(&control, &zero);
	/* Arrays have all their elements: this is for the verifier. */
	if (!s || !ctl)
		return CTX_DROP;
	packet_init(s, hook, 0, ctl);
	return process(ctx, s, hook, ctl);
}

SEC("tc")
int from_device(ctx_t *ctx)
{
	/* An answer that to_device made for the node: it comes in here. */
	if ((ctx_mark(ctx) & MARK_MASK) == MARK_ANSWER)
		return CTX_PASS;
	return hook(ctx, HOOK_FROM_DEVICE);
}

SEC("tc")
int to_device(ctx_t *ctx)
{
	if (ctx_mark(ctx) & MARK_MASK)
		return CTX_PASS;
	return hook(ctx, HOOK_TO_DEVICE);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
