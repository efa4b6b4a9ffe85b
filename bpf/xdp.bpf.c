//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* Proves that the headers serve XDP too: what comes by a device for a frontend is
 * parsed, judged, refused, translated and forwarded by the functions of from_device.
 * It is built and tested, and attached to nothing.
 */

#define OBJECT_XDP
#define OBJECT_HOOKS (1 << HOOK_FROM_DEVICE)

#include "lib/forward.h"
#include "lib/uplink.h"

static __always_inline int judge_new(ctx_t *ctx, struct packet *pkt, struct scratch *s, __u8 hook)
{
	struct service *service = service_lookup_outside(pkt);

	return service ? judge_from_device(ctx, pkt, s, service) : judge_no_frontend(pkt);
}

static __always_inline int rejudge_reply(struct packet *pkt, struct flow *flow)
{
	return rejudge_device(pkt, flow);
}

static __always_inline int forward_tunnel(ctx_t *ctx, struct packet *pkt, struct flow *flow)
{
	return drop(ctx, pkt, REFUSE(pkt, REASON_NO_ROUTE));
}

/* Leaves a packet to the kernel. */
static __always_inline int leave(ctx_t *ctx, struct packet *pkt)
{
	pkt->kernel_forwards = 1;
	pkt->out = OUT_HOST;
	pkt->where = HERE;
	return deliver_packet(ctx, pkt);
}

SEC("xdp")
int xdp_from_device(ctx_t *ctx)
{
	struct settings *ctl;
	struct packet *pkt;
	struct flow *flow;
	struct scratch *s;
	__u32 zero = 0;
	int reason;

	s = bpf_map_lookup_elem(&scratch, &zero);
	ctl = bpf_map_lookup_elem(&control, &zero);
	/* Arrays have all their elements: this is for the verifier. */
	if (!s || !ctl)
		return CTX_DROP;
	pkt = &s->pkt;
	packet_init(s, HOOK_FROM_DEVICE, 0, ctl);
	if (!is_ip(ctx))
		return leave(ctx, pkt);
	reason = parse(ctx, pkt);
	if (reason)
		return drop(ctx, pkt, reason);
	if (is_icmp(pkt) && !is_echo(pkt))
		return leave(ctx, pkt);
	flow = ct_lookup(pkt, HOOK_FROM_DEVICE);
	if (pkt->stray)
		return drop(ctx, pkt, pkt->stray);
	if (flow && (flow->epoch == pkt->epoch || (flow->flags & FLOW_REPLY)))
		return forward_known(ctx, s, flow, ctl, HOOK_FROM_DEVICE);
	if (flow)
		save_old_flow(s, flow);
	if (!service_lookup_outside(pkt) && !service_lookup_address(pkt))
		return leave(ctx, pkt);
	return judge(ctx, s, HOOK_FROM_DEVICE);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
