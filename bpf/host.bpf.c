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

#include "lib/carry.h"
#include "lib/neighbour.h"
#include "lib/uplink.h"

#undef THIS_FILE
#define THIS_FILE FILE_HOST_BPF_C

/* The way that the kernel goes on with a packet. */
static __always_inline void way_of_kernel(const struct __sk_buff *skb, struct packet *pkt,
					  __u8 hook)
{
	pkt->as_it_is = 1;
	pkt->out = is_hook(hook, HOOK_FROM_DEVICE) ? OUT_HOST : OUT_DEVICE;
	pkt->out_ifindex = is_hook(hook, HOOK_FROM_DEVICE) ? 0 : skb->ifindex;
}

/* Lets the kernel go on with a packet. */
static __noinline int pass(struct __sk_buff *skb, struct packet *pkt, __u8 hook)
{
	int reason;

	if (pkt->unwrapped)
		return drop(skb, pkt, REFUSE(pkt, REASON_BAD_TUNNEL));
	/* Neighbours are asked and told by whatever address they have. */
	if (is_hook(hook, HOOK_FROM_DEVICE) && pkt->key.family && !(is_nd(pkt) && !pkt->fragment)) {
		reason = judge_foreign(pkt);
		/* The kernel would send it on, mostly to where it came from. */
		if (!reason && service_address(pkt))
			reason = REFUSE(pkt, REASON_NO_FRONTEND);
		if (reason)
			return drop(skb, pkt, reason);
	}
	pkt->where = HERE;
	way_of_kernel(skb, pkt, hook);
	return let_go(skb, pkt);
}

static __always_inline int judge_new(struct __sk_buff *skb, struct packet *pkt, struct scratch *s,
				     __u8 hook)
{
	struct service *service;

	if (is_hook(hook, HOOK_FROM_DEVICE)) {
		service = frontend_outside(pkt);
		if (service)
			return judge_from_device(skb, pkt, s, service);
		return service_address(pkt) ? judge_stray(pkt) : judge_for_node(pkt, s);
	}
	service = service_of(pkt, SCOPE_INSIDE);
	return judge_to_device(skb, pkt, s, service);
}

static __always_inline int rejudge_reply(struct packet *pkt, struct flow *flow)
{
	return rejudge_device(pkt, flow);
}

/* Carries a packet into a tunnel, or tells its sender what would fit. No policy is
 * asked about it here: the other node judges it.
 */
static __noinline int carry_tunnel(struct __sk_buff *skb, struct packet *pkt, struct flow *flow)
{
	__u32 limit = tunnel_limit(skb, pkt);
	int reason;

	if (limit) {
		reason = REFUSE(pkt, REASON_TOO_BIG);
		if (refuse_size(skb, pkt, limit))
			return drop(skb, pkt, reason);
		return answer(skb, pkt, reason);
	}
	/* It leaves as it came, but for the hop. */
	reason = hop_down(skb, pkt) ? REFUSE(pkt, REASON_REWRITE_FAILED) : REASON_NONE;
	if (!reason)
		reason = wrap(skb, pkt, flow);
	if (reason)
		return drop(skb, pkt, reason);
	pkt->out = OUT_TUNNEL;
	pkt->out_ifindex = flow->ifindex;
	return let_go(skb, pkt);
}

/* Whether a packet is for a judgement, of none or of an old flow. One that policies
 * had asked about, and was given another source port, keeps that when they are gone.
 */
static __noinline int is_ours(struct packet *pkt, const struct flow *old, __u8 hook)
{
	struct address *own;

	/* Nobody answers it from there, whatever port it leaves from. */
	if (no_host(&pkt->key.dst, pkt->key.family))
		return 0;
	if (guarded(pkt) && !pkt->unwrapped)
		return 1;
	if (old && !old->service && old->sport != pkt->key.sport)
		return 1;
	if (is_hook(hook, HOOK_FROM_DEVICE))
		return frontend_outside(pkt) ||
		       (!pkt->unwrapped && (service_address(pkt) || serves_here(pkt)));
	own = address_of(pkt, &pkt->key.src);
	if (!own || !(own->flags & ADDRESS_HOST))
		return 0;
	if (service_of(pkt, SCOPE_INSIDE) || service_address(pkt))
		return 1;
	return (pkt->old || !(pkt->tcp_flags & TCP_FLAG_RST)) && is_tracked(pkt);
}

/* An ICMP error of a flow that is known here goes its way. */
static __noinline int carry_error(struct __sk_buff *skb, struct scratch *s, __u8 hook)
{
	struct packet *pkt = &s->pkt;
	int reason;

	reason = related(skb, pkt, s, hook);
	if (reason == REASON_REWRITE_FAILED || reason == REASON_ICMP_MTU)
		return drop(skb, pkt, reason);
	if (reason)
		return pass(skb, pkt, hook);
	pkt->where = HERE;
	return carry_made(skb, s, 0);
}

/* Whether what is wrong with a packet is no matter of the kernel's: it would lead
 * the packet on to where nobody has judged it, or the tables would take one
 * family's address for the other's.
 */
static __always_inline int misleads(__u8 hook, int reason)
{
	if (reason == REASON_MARTIAN_SOURCE || reason == REASON_MARTIAN_DESTINATION)
		return 1;
	return is_hook(hook, HOOK_FROM_DEVICE) &&
	       (reason == REASON_SOURCE_ROUTE || reason == REASON_ROUTING_HEADER ||
		reason == REASON_BAD_IP_OPTIONS);
}

/* What no flow can be found for. Of the node's own, while policies select it,
 * nothing that cannot be judged may pass: the kernel would put together from
 * fragments what none of them was. UDP without a checksum over IPv6 is of tunnels
 * (RFC 6935), and asked packet by packet.
 */
static __noinline int pass_odd(struct __sk_buff *skb, struct scratch *s, int reason, __u8 hook)
{
	struct packet *pkt = &s->pkt;

	if (!pkt->unwrapped && misleads(hook, reason))
		return drop(skb, pkt, reason);
	/* Without a family nothing is read of it, and the kernel refuses it. */
	if (pkt->unwrapped || !pkt->key.family || reason == REASON_ICMP_NO_FLOW || !guarded(pkt))
		return pass(skb, pkt, hook);
	if (reason == REASON_BAD_UDP_CHECKSUM) {
		reason = is_hook(hook, HOOK_FROM_DEVICE) ? judge_visitor(pkt) :
			 node_policy(pkt, DIRECTION_EGRESS,
				     identity_of(address_of(pkt, &pkt->key.dst)), pkt->key.dport);
	}
	if (reason)
		return drop(skb, pkt, reason);
	pkt->where = HERE;
	way_of_kernel(skb, pkt, hook);
	if (pkt->audit)
		audited(skb, pkt);
	return let_go(skb, pkt);
}

/* Judges a packet, or leaves it to the kernel. */
static __always_inline int meet(struct __sk_buff *skb, struct scratch *s, __u8 hook,
				const struct settings *ctl)
{
	struct packet *pkt = &s->pkt;
	struct flow *flow;
	int reason;

	if (skb->vlan_present || !is_ip(skb))
		return pass(skb, pkt, hook);
	reason = parse(skb, pkt);
	/* Geneve over IPv6 has no checksum. */
	if ((!reason || reason == REASON_BAD_UDP_CHECKSUM) && is_hook(hook, HOOK_FROM_DEVICE) &&
	    is_wrapped(pkt)) {
		if (unwrap(skb, s))
			return drop(skb, pkt, REFUSE(pkt, REASON_BAD_TUNNEL));
		/* All else is written anew. */
		pkt->key.sport = 0;
		pkt->key.dport = 0;
		pkt->unwrapped = 1;
		reason = parse(skb, pkt);
	}
	/* What cannot be read has no port. */
	if (is_hook(hook, HOOK_TO_DEVICE) && pkt->key.proto == IPPROTO_UDP &&
	    pkt->key.dport == bpf_htons(GENEVE_PORT) && feigns_tunnel(pkt))
		return drop(skb, pkt, REFUSE(pkt, REASON_BAD_TUNNEL));
	if (!reason && is_nd(pkt)) {
		if (!pkt->fragment)
			return pass(skb, pkt, hook);
		/* RFC 6980 5: nobody's. */
		reason = REFUSE(pkt, REASON_BAD_NDP);
	}
	if (!reason && is_icmp_error(pkt))
		return carry_error(skb, s, hook);
	if (!reason)
		reason = judge_icmp(pkt);
	if (reason)
		return pass_odd(skb, s, reason, hook);
	flow = find(pkt, hook);
	if (pkt->stray)
		return drop(skb, pkt, pkt->stray);
	/* The node that chose the backend may have chosen another since. */
	if (flow && pkt->unwrapped && !(flow->flags & FLOW_REPLY) &&
	    !addr_equal(&flow->dst, &s->pod)) {
		pkt->reused = 1;
		flow = NULL;
	}
	if (flow && (flow->epoch == pkt->epoch || (flow->flags & FLOW_REPLY)))
		return known(skb, s, flow, ctl, hook);
	if (flow)
		keep_old(s, flow);
	if (!is_ours(pkt, flow, hook))
		return pass(skb, pkt, hook);
	return judge(skb, s, hook);
}

static __always_inline int hook(struct __sk_buff *skb, __u8 hook)
{
	struct settings *ctl;
	struct scratch *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&scratch, &zero);
	ctl = bpf_map_lookup_elem(&control, &zero);
	/* Arrays have all their elements: this is for the verifier. */
	if (!s || !ctl)
		return TC_ACT_SHOT;
	begin(s, hook, 0, ctl);
	return meet(skb, s, hook, ctl);
}

SEC("tc")
int from_device(struct __sk_buff *skb)
{
	/* Made by to_device for the node: it comes in where it was to leave. */
	if ((skb->mark & MARK_MASK) == MARK_ANSWER)
		return TC_ACT_OK;
	return hook(skb, HOOK_FROM_DEVICE);
}

SEC("tc")
int to_device(struct __sk_buff *skb)
{
	if (skb->mark & MARK_MASK)
		return TC_ACT_OK;
	return hook(skb, HOOK_TO_DEVICE);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
