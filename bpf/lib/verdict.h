/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_VERDICT_H
#define WEIR_VERDICT_H

#include "mark.h"
#include "packet.h"

/* How a program ends: every way out notes its decision in skb->cb, counts it
 * and may tell it. Tests read the same notes that production writes.
 */

enum verdict {
	VERDICT_NONE = 0,
	VERDICT_FORWARD = 1,
	VERDICT_DROP = 2,
	VERDICT_REPLY = 3,
	VERDICT_AUDIT = 4,	/* in events: forwarded, though a policy denies it */
};

enum out {
	OUT_NONE = 0,
	OUT_LOCAL = 1,
	OUT_HOST = 2,
	OUT_DEVICE = 3,
	OUT_TUNNEL = 4,
	OUT_PROXY = 5,
	OUT_SELF = 6,
};

/* Whether packets go into a tunnel. Only from_device sends any there. */
static __always_inline int is_tunnel(__u8 out)
{
	return (OBJECT_HOOKS & (1 << HOOK_FROM_DEVICE)) && out == OUT_TUNNEL;
}

enum lookup {
	LOOKUP_NONE = 0,
	LOOKUP_NEW = 1,
	LOOKUP_KNOWN = 2,
	LOOKUP_REJUDGED = 3,
};

/* Two bits for each table in packet.tables: it was read, and had an entry. */
enum table {
	TABLE_ENDPOINTS = 0,
	TABLE_CT_ANSWERED = 1,
	TABLE_CT_UNANSWERED = 2,
	TABLE_SERVICES = 3,
	TABLE_SLOTS = 4,
	TABLE_BACKENDS = 5,
	TABLE_IPCACHE = 6,
	TABLE_IPCACHE_CIDRS = 7,
	TABLE_RULES_EGRESS = 8,
	TABLE_RULES_INGRESS = 9,
	TABLE_ROUTES = 10,
	TABLE_AFFINITIES = 11,
};

static __always_inline void note_read(struct packet *pkt, enum table table, int found)
{
	pkt->tables |= (found ? 3U : 1U) << (2 * table);
}

/* The first word of a note: magic, version, then lookup and verdict with four bits
 * each, and enum out with the flag below. Any change of a note needs a new version.
 */
enum note {
	NOTE_VERSION = 3,
	NOTE_MAGIC = 0x57,
	NOTE_KERNEL_FORWARDS = 0x80,	/* the kernel goes on with the packet */
};

#define NOTE_TABLES	16	/* that there is room for, in a note and in a packet */

_Static_assert(TABLE_AFFINITIES < NOTE_TABLES, "a table has two bits of a word of the note");

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* By reason and hook: index reason * HOOK_MAX + hook. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_MAX * HOOK_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

enum event_kind {
	EVENT_DROP = 1,
	EVENT_VERDICT = 2,	/* policy was asked for a new flow */
	EVENT_FORWARD = 3,
};

enum event_version {
	EVENT_VERSION = 2,
};

enum event_flags {
	EVENT_REPLY = 1 << 0,	/* of the reply direction of its flow */
};

/* The first four octets are the same in every version: a reader of another version
 * knows by them that it cannot read the rest.
 */
struct event {
	__u8 version;		/* enum event_version */
	__u8 kind;		/* enum event_kind */
	__u16 size;		/* octets, of all of it */
	__u8 verdict;
	__u8 out;
	__u8 lookup;
	__u8 flags;		/* enum event_flags */
	__u16 reason;
	__u8 tcp_flags;
	__u8 pad;
	__u32 where;
	__u64 time;		/* of the datapath's clock */
	__u64 tables;
	__u32 len;
	__u32 out_ifindex;
	__u32 src_identity;
	__u32 dst_identity;
	__u32 origin;
	struct flow_key key;	/* the tuple as it came */
	struct addr src;	/* and as it leaves, or would have */
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u32 pad2;
};

_Static_assert(sizeof(struct event) == offsetof(struct event, pad2) + sizeof(__u32),
	       "an event has no octets that nobody writes");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_RING_BYTES);
} events SEC(".maps");

/* Limits the events of a CPU, so that a flood costs no more than its drops do. */
struct meter {
	__u64 second;		/* of the datapath's clock */
	__u64 lost;		/* events not told */
	__u32 told;		/* in this second */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meter);
} meters SEC(".maps");

static __always_inline int event_over_limit(struct settings *ctl, __u64 now)
{
	struct meter *meter;
	__u64 second;
	__u32 zero = 0;

	meter = bpf_map_lookup_elem(&meters, &zero);
	if (!meter)
		return 1;
	second = now / SECOND;
	if (meter->second != second) {
		meter->second = second;
		meter->told = 0;
	}
	if (meter->told < ctl->events_per_second) {
		meter->told++;
		return 0;
	}
	meter->lost++;
	return 1;
}

/* The flow of a packet, if there is one: what the packet has made, or its entry. One that
 * is dead is another flow's, which had the tuple before.
 */
static __always_inline const struct flow *event_flow(const struct scratch *s)
{
	const struct packet *pkt = &s->pkt;
	struct flow *flow;

	if (pkt->opened)
		return &s->open;
	if (pkt->lookup != LOOKUP_KNOWN && pkt->lookup != LOOKUP_REJUDGED)
		return NULL;
	flow = bpf_map_lookup_elem(&ct_answered, &pkt->key);
	if (flow && !(flow->flags & FLOW_DEAD))
		return flow;
	return bpf_map_lookup_elem(&ct_unanswered, &pkt->key);
}

/* Sets the tuple that a packet leaves with. A packet for a tunnel is not translated. */
static __always_inline void event_after(struct event *event, const struct packet *pkt,
					const struct flow *flow)
{
	if (!flow || is_tunnel(flow->out)) {
		event->flags = 0;
		event->src = pkt->key.src;
		event->dst = pkt->key.dst;
		event->sport = pkt->key.sport;
		event->dport = pkt->key.dport;
		return;
	}
	event->flags = flow->flags & FLOW_REPLY ? EVENT_REPLY : 0;
	event->src = flow->src;
	event->dst = flow->dst;
	event->sport = flow->sport;
	event->dport = flow->dport;
}

/* Writes an event into the ring, if there is room. Every octet is written: the ring
 * still has older events.
 */
static __always_inline int event_write(const struct packet *pkt, const struct flow *flow,
				       __u32 len, __u8 kind, __u8 verdict, __u8 reason)
{
	struct settings *ctl;
	struct event *event;
	__u32 zero = 0;

	ctl = bpf_map_lookup_elem(&control, &zero);
	if (!ctl || event_over_limit(ctl, pkt->now))
		return -1;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return -1;
	event->version = EVENT_VERSION;
	event->kind = kind;
	event->size = sizeof(*event);
	event->verdict = verdict;
	event->out = pkt->out;
	event->lookup = pkt->lookup;
	event->reason = reason;
	event->tcp_flags = pkt->tcp_flags;
	event->pad = 0;
	event->where = pkt->where;
	event->time = pkt->now;
	event->tables = pkt->tables;
	event->len = len;
	event->out_ifindex = pkt->out_ifindex;
	event->src_identity = pkt->src_identity;
	event->dst_identity = pkt->dst_identity;
	event->origin = pkt->origin;
	event->key = pkt->key;
	event->pad2 = 0;
	event_after(event, pkt, flow);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Emits an event about the packet in the scratch. Global so that the verifier checks it
 * once, and not for each caller.
 */
__noinline int emit_event(__u32 len, __u8 kind, __u8 verdict, __u8 reason)
{
	struct scratch *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&scratch, &zero);
	return s ? event_write(&s->pkt, event_flow(s), len, kind, verdict, reason) : -1;
}

static __always_inline void count_packet(struct packet *pkt, __u32 len, __u32 reason)
{
	__u32 index = reason * HOOK_MAX + pkt->key.hook;
	struct counter *counter;

	counter = bpf_map_lookup_elem(&counters, &index);
	if (counter) {
		counter->packets++;
		counter->bytes += len;
	}
}

static __always_inline void leave_note(ctx_t *ctx, struct packet *pkt,
				       __u32 verdict, __u32 reason)
{
	__u32 as_it_is = pkt->kernel_forwards ? NOTE_KERNEL_FORWARDS : 0;
	__u32 decided = ((__u32)pkt->lookup << 12) | (verdict << 8) | as_it_is | pkt->out;

	ctx_note(ctx, 0, (NOTE_MAGIC << 24) | (NOTE_VERSION << 16) | decided);
	ctx_note(ctx, 1, pkt->out_ifindex);
	ctx_note(ctx, 2, (reason << 24) | pkt->where);
	ctx_note(ctx, 3, pkt->tables);
	ctx_note(ctx, 4, pkt->origin);
}

/* Programs of sockets have no packet, and use none of these. */
#define PACKETS_ONLY static __noinline __attribute__((unused))

PACKETS_ONLY int drop(ctx_t *ctx, struct packet *pkt, int reason)
{
	int verdict;

	pkt->out = OUT_NONE;
	pkt->out_ifindex = 0;
	pkt->kernel_forwards = 0;
	leave_note(ctx, pkt, VERDICT_DROP, reason);
	count_packet(pkt, ctx_len(ctx), reason);
	emit_event(ctx_len(ctx), EVENT_DROP, VERDICT_DROP, reason);
	verdict = CTX_DROP;
	/* Else the compiler would put the constant into each caller. */
	barrier_var(verdict);
	return verdict;
}

/* Whether the packet comes from the node's stack: an answer to it goes in again. */
static __always_inline int comes_from_node(const struct packet *pkt)
{
	return at(pkt, HOOK_TO_DEVICE) || at(pkt, HOOK_TO_CONTAINER);
}

/* answer sends the changed packet back to its sender: out by the device that it came
 * from, or, from the node's stack, in by it.
 */
PACKETS_ONLY int answer(ctx_t *ctx, struct packet *pkt, int reason)
{
	pkt->out = OUT_SELF;
	pkt->out_ifindex = ctx_ifindex(ctx);
	ctx_set_mark(ctx, mark_with(ctx_mark(ctx), MARK_ANSWER));
	leave_note(ctx, pkt, VERDICT_REPLY, reason);
	count_packet(pkt, ctx_len(ctx), reason);
	emit_event(ctx_len(ctx), EVENT_DROP, VERDICT_REPLY, reason);
	return ctx_redirect(ctx, ctx_ifindex(ctx), comes_from_node(pkt) ? BPF_F_INGRESS : 0);
}

/* deliver forwards by pkt->out. The caller has set pkt->where. */
static __always_inline int deliver(ctx_t *ctx, struct packet *pkt, __u8 hook)
{
	if (is_hook(hook, HOOK_TO_CONTAINER))
		pkt->kernel_forwards = 1;
	leave_note(ctx, pkt, VERDICT_FORWARD, pkt->audit_reason);
	count_packet(pkt, ctx_len(ctx), REASON_NONE);
	if (pkt->kernel_forwards)
		return CTX_PASS;
	/* bpf_redirect_peer is for ingress alone. */
	if (is_hook(hook, HOOK_TO_DEVICE) && pkt->out == OUT_LOCAL) {
		ctx_set_mark(ctx, mark_with(ctx_mark(ctx), MARK_DELIVERED));
		return ctx_redirect(ctx, pkt->out_ifindex, 0);
	}
	ctx_set_mark(ctx, mark_with(ctx_mark(ctx), MARK_DECIDED));
	switch (pkt->out) {
	case OUT_LOCAL:
		return ctx_redirect_peer(ctx, pkt->out_ifindex);
	case OUT_DEVICE:
	case OUT_TUNNEL:
		return ctx_redirect_neigh(ctx, pkt->out_ifindex);
	}
	return CTX_PASS;
}

/* The same for a packet without a flow. One function for all. */
PACKETS_ONLY int deliver_packet(ctx_t *ctx, struct packet *pkt)
{
	return deliver(ctx, pkt, pkt->key.hook);
}

#endif
