/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_FORWARD_H
#define WEIR_FORWARD_H

#include "clock.h"
#include "judge.h"
#include "refuse.h"
#include "icmp_error.h"

/* What every hook does with a packet once it knows the tuple. */

static __always_inline int is_ip(const ctx_t *ctx)
{
	return ctx_protocol(ctx) == bpf_htons(ETH_P_IP) || ctx_protocol(ctx) == bpf_htons(ETH_P_IPV6);
}

/* Begins a packet: all that is not written here is zero. */
static __always_inline void packet_init(struct scratch *s, __u8 hook, __u32 ifindex,
					const struct settings *ctl)
{
	struct packet *pkt = &s->pkt;

	__builtin_memset(pkt, 0, sizeof(*pkt));
	s->affinity_group = 0;
	pkt->key.hook = hook;
	pkt->key.ifindex = ifindex;
	pkt->epoch = ctl->epoch;
	pkt->now = now(ctl);
}

/* Keeps those fields of a flow of an older epoch that a new judgement reads. */
static __noinline int save_old_flow(struct scratch *s, const struct flow *flow)
{
	struct flow *old = &s->old;

	s->pkt.old = 1;
	old->src = flow->src;
	old->dst = flow->dst;
	old->sport = flow->sport;
	old->dport = flow->dport;
	old->other_hook = flow->other_hook;
	old->other_ifindex = flow->other_ifindex;
	old->service = flow->service;
	return 0;
}

/* Each object's own: make s->open and store the flow; encapsulate a packet. */
static int judge_new(ctx_t *ctx, struct packet *pkt, struct scratch *s, __u8 hook);
static int forward_tunnel(ctx_t *ctx, struct packet *pkt, struct flow *flow);

/* Sets where the flow's packet leaves. */
static __always_inline void set_way_out(const ctx_t *ctx, struct packet *pkt,
					const struct flow *flow, __u8 hook)
{
	pkt->out = flow->out;
	pkt->out_ifindex = flow->ifindex;
	if (is_hook(hook, HOOK_FROM_DEVICE) && flow->out == OUT_HOST)
		pkt->kernel_forwards = 1;
	/* At to_device alone: the kernel has chosen the device already. */
	if (OBJECT_HOOKS & (1 << HOOK_TO_DEVICE) && flow->out == OUT_DEVICE && !flow->routed) {
		pkt->kernel_forwards = 1;
		pkt->out_ifindex = ctx_ifindex(ctx);
	}
}

/* Rewrites and sends a packet of a flow whose way out is known. */
static __always_inline int forward(ctx_t *ctx, struct packet *pkt, struct flow *flow,
				   __u8 hook, int fast)
{
	int reason;

	if (routes(hook, flow) && pkt->ttl <= 1)
		return drop(ctx, pkt, REFUSE(pkt, REASON_TTL_EXCEEDED));
	if (is_tunnel(flow->out))
		return forward_tunnel(ctx, pkt, flow);
	reason = rewrite(ctx, pkt, flow, hook, fast);
	if (reason)
		return drop(ctx, pkt, reason);
	if (pkt->audit)
		emit_audit(ctx, pkt);
	return deliver(ctx, pkt, hook);
}

/* Does the same for s->open, which this packet has made, and emits an event if it was
 * judged. Slow path: one copy for all callers.
 */
static __noinline int forward_new(ctx_t *ctx, struct scratch *s, int judged)
{
	struct packet *pkt = &s->pkt;

	set_way_out(ctx, pkt, &s->open, pkt->key.hook);
	if (judged && !pkt->audit)
		emit_event(ctx_len(ctx), EVENT_VERDICT, VERDICT_FORWARD, REASON_NONE);
	return forward(ctx, pkt, &s->open, pkt->key.hook, 0);
}

/* Drops a packet that is not let through, or refuses it: its sender gets a reset or an
 * ICMP error. The reason is read from memory: else the verifier would follow each reason
 * through all the code that makes answers.
 */
static __noinline int drop_or_refuse(ctx_t *ctx, struct packet *pkt)
{
	__u8 reason = pkt->denied;
	int told;

	told = pkt->refused || reason == REASON_NO_BACKEND || reason == REASON_NO_FRONTEND;
	told = told && !refuse(ctx, pkt);
	if (!told)
		return drop(ctx, pkt, reason);
	return answer(ctx, pkt, reason);
}

static __always_inline int deny(ctx_t *ctx, struct packet *pkt, int reason)
{
	pkt->denied = reason;
	return drop_or_refuse(ctx, pkt);
}

/* Judges a packet that opens a flow, or whose flow was judged under older tables. hook
 * is an argument so that the verifier follows the code of one hook only.
 */
static __noinline int judge(ctx_t *ctx, struct scratch *s, __u8 hook)
{
	struct packet *pkt = &s->pkt;
	int reason;

	pkt->lookup = pkt->old ? LOOKUP_REJUDGED : LOOKUP_NEW;
	reason = judge_new(ctx, pkt, s, hook);
	if (reason)
		return deny(ctx, pkt, reason);
	pkt->where = HERE;
	return forward_new(ctx, s, 1);
}

/* At to_device the kernel has routed the packet. Only a packet to a service is routed
 * again: to its backend, by the route that was found when its flow was judged.
 */
static __always_inline int needs_route(const struct flow *flow, __u8 hook)
{
	if (flow->out != OUT_DEVICE && !is_tunnel(flow->out))
		return 0;
	return routes(hook, flow) || (is_hook(hook, HOOK_TO_DEVICE) && flow->routed);
}

static __always_inline int forward_known(ctx_t *ctx, struct scratch *s, struct flow *flow,
					 const struct settings *ctl, __u8 hook)
{
	struct packet *pkt = &s->pkt;
	int reason;

	pkt->lookup = LOOKUP_KNOWN;
	pkt->where = HERE;
	if (flow->epoch != pkt->epoch) {
		pkt->lookup = LOOKUP_REJUDGED;
		reason = rejudge_reply(pkt, flow);
		if (reason)
			return deny(ctx, pkt, reason);
	}
	if (needs_route(flow, hook) && (!flow->routed || pkt->now - flow->routed >= ROUTE_CACHE)) {
		reason = route(ctx, pkt, flow);
		if (reason)
			return drop(ctx, pkt, reason);
	}
	set_way_out(ctx, pkt, flow, hook);
	if (ctl->trace)
		emit_event(ctx_len(ctx), EVENT_FORWARD, VERDICT_FORWARD, REASON_NONE);
	return forward(ctx, pkt, flow, hook,
		       hook == HOOK_FROM_CONTAINER || hook == HOOK_FROM_DEVICE);
}

#endif
