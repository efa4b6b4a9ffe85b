//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The hooks of a pod's host-side veth.
 *
 *	pod eth0 ~~~~ veth --ingress--> from_container --> pod, node's stack, device
 *	                   <--egress--- to_container   <-- node's stack
 *
 * What one pod sends to another of the node goes straight into the other's
 * namespace; its to_container does not see it.
 */

#define OBJECT_HOOKS (1 << HOOK_FROM_CONTAINER | 1 << HOOK_TO_CONTAINER)

#include "lib/forward.h"
#include "lib/neighbour.h"
#include "lib/pod.h"

static __always_inline int refuse_ethertype(const ctx_t *ctx, struct packet *pkt)
{
	if (ctx_has_vlan(ctx) || ctx_protocol(ctx) == bpf_htons(ETH_P_8021Q) ||
	    ctx_protocol(ctx) == bpf_htons(ETH_P_8021AD))
		return REFUSE(pkt, REASON_VLAN);
	return REFUSE(pkt, REASON_UNKNOWN_ETHERTYPE);
}

static __always_inline int judge_new(ctx_t *ctx, struct packet *pkt, struct scratch *s,
				     __u8 hook)
{
	if (hook == HOOK_FROM_CONTAINER)
		return judge_from_pod(ctx, pkt, s);
	return judge_to_pod(ctx, pkt, s);
}

static __always_inline int rejudge_reply(struct packet *pkt, struct flow *flow)
{
	return rejudge_pod(pkt, flow);
}

/* No pod's flow leads into a tunnel. */
static __always_inline int forward_tunnel(ctx_t *ctx, struct packet *pkt, struct flow *flow)
{
	return drop(ctx, pkt, REFUSE(pkt, REASON_NO_ROUTE));
}

/* An ICMP error goes the way of the flow that it is about. */
static __noinline int forward_icmp_error(ctx_t *ctx, struct scratch *s)
{
	struct packet *pkt = &s->pkt;
	int reason;

	reason = icmp_error(ctx, pkt, s, pkt->key.hook);
	if (reason)
		return drop(ctx, pkt, reason);
	pkt->where = HERE;
	return forward_new(ctx, s, 0);
}

static __always_inline int hook(ctx_t *ctx, __u8 hook)
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
	packet_init(s, hook, ctx_ifindex(ctx), ctl);
	pkt->transit = hook == HOOK_TO_CONTAINER && ctx_ingress_ifindex(ctx);
	if (ctx_has_vlan(ctx) || !is_ip(ctx)) {
		if (ctx_has_vlan(ctx) || ctx_protocol(ctx) != bpf_htons(ETH_P_ARP))
			return drop(ctx, pkt, refuse_ethertype(ctx, pkt));
		if (hook == HOOK_FROM_CONTAINER)
			return arp_from_pod(ctx, pkt);
		pkt->out = OUT_LOCAL;
		pkt->out_ifindex = pkt->key.ifindex;
		pkt->where = HERE;
		return deliver_packet(ctx, pkt);
	}
	reason = parse(ctx, pkt);
	if (reason)
		return drop(ctx, pkt, reason);
	if (is_nd(pkt))
		return hook == HOOK_FROM_CONTAINER ? nd_from_pod(ctx, pkt) : nd_to_pod(ctx, pkt);
	if (is_icmp_error(pkt))
		return forward_icmp_error(ctx, s);
	reason = judge_icmp(pkt);
	if (reason)
		return drop(ctx, pkt, reason);
	flow = ct_lookup(pkt, hook);
	if (pkt->stray)
		return drop(ctx, pkt, pkt->stray);
	if (flow && (flow->epoch == pkt->epoch || (flow->flags & FLOW_REPLY)))
		return forward_known(ctx, s, flow, ctl, hook);
	if (flow)
		save_old_flow(s, flow);
	return judge(ctx, s, hook);
}

SEC("tc")
int from_container(ctx_t *ctx)
{
	/* Answers that to_container made for the sender: pods' packets have no mark. */
	if ((ctx_mark(ctx) & MARK_MASK) == MARK_ANSWER)
		return CTX_PASS;
	return hook(ctx, HOOK_FROM_CONTAINER);
}

SEC("tc")
int to_container(ctx_t *ctx)
{
	/* Answers that from_container made for this pod, and packets that to_device
	 * sends to it. All others are judged, marked or not: MARK_DECIDED is for other
	 * ways out than a pod's device.
	 */
	if ((ctx_mark(ctx) & MARK_MASK) == MARK_ANSWER || (ctx_mark(ctx) & MARK_MASK) == MARK_DELIVERED)
		return CTX_PASS;
	return hook(ctx, HOOK_TO_CONTAINER);
}

/* For the collector: the loader passes it, by BPF_PROG_TEST_RUN, a frame with the
 * entries that have timed out. An entry is marked dead only if no packet has touched it
 * since. User space cannot do that: its update would replace the element while a packet
 * holds it.
 */
struct expired {
	struct flow_key key;
	__u32 pad;
	__u64 last_seen;
};

#define EXPIRED_BATCH 64

SEC("tc")
int mark_expired(ctx_t *ctx)
{
	struct expired expired;
	struct flow *flow;
	__u32 i, off = ETH_LEN, marked = 0;

	for (i = 0; i < EXPIRED_BATCH; i++) {
		if (ctx_load_bytes(ctx, off, &expired, sizeof(expired)))
			break;
		off += sizeof(expired);
		flow = bpf_map_lookup_elem(&ct_answered, &expired.key);
		if (flow && flow->last_seen == expired.last_seen) {
			flow->flags |= FLOW_DEAD;
			marked++;
		}
	}
	return marked;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Only types that are used reach BTF, and Go. Numbers that user space needs
 * are used here.
 */
struct mirror {
	enum reason reason;
	enum source_file source_file;
	enum hook hook;
	enum out out;
	enum verdict verdict;
	enum lookup lookup;
	enum mark mark;
	enum note note;
	enum table table;
	enum event_kind event_kind;
	enum event_version event_version;
	enum event_flags event_flags;
	enum flow_flags flow_flags;
	enum flow_seen flow_seen;
	enum ipcache_flags ipcache_flags;
	enum direction direction;
	enum rule_action rule_action;
	enum family family;
	enum backend_state backend_state;
	enum scope scope;
	enum service_flags service_flags;
	enum tunnel tunnel;
	struct expired expired;
	struct event event;
};

struct mirror *mirror __attribute__((unused));
