/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CONNTRACK_H
#define WEIR_CONNTRACK_H

#include "changes.h"
#include "verdict.h"

#undef THIS_FILE
#define THIS_FILE FILE_CONNTRACK_H

/* The flow table: `ct_answered` for those answered, `ct_unanswered` for the others. An
 * entry moves from the second to the first by a packet of its own direction,
 * once the other direction was seen; where there is no room it stays.
 */

/* How many seconds a flow may be idle before it is answered, and, where it found no
 * room in the table of answered ones, behind that; the others are the collector's,
 * in Go. The loader says what holds.
 */
volatile const __u32 unanswered_tcp = 60;
volatile const __u32 unanswered_udp = 30;
volatile const __u32 unanswered_icmp = 30;
volatile const __u32 unanswered_other = 60;
volatile const __u32 answered_tcp = 6 * 3600;
volatile const __u32 answered_other = 600;

static __always_inline __u64 ct_timeout(__u32 flags, __u32 proto)
{
	if (flags & FLOW_ANSWERED)
		return (proto == IPPROTO_TCP ? answered_tcp : answered_other) * SECOND;
	switch (proto) {
	case IPPROTO_TCP:
		return unanswered_tcp * SECOND;
	case IPPROTO_UDP:
		return unanswered_udp * SECOND;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return unanswered_icmp * SECOND;
	}
	return unanswered_other * SECOND;
}

/* Whether a flow has been idle for too long. Another CPU's clock may have been ahead
 * of this one's when it saw the flow. It is global, so that the verifier looks at it
 * once, and not at each of its ways wherever somebody asks.
 */
__noinline int ct_timed_out(__s64 idle, __u32 flags, __u32 proto)
{
	return idle > (__s64)ct_timeout(flags, proto);
}

/* None of those who ask is on the fast path. */
static __always_inline int ct_expired(const struct flow *flow, __u8 proto, __u64 now)
{
	return ct_timed_out(now - flow->last_seen, flow->flags, proto);
}

/* What a packet leaves in its flow's entry: its flags, and where both sides are. A SYN
 * without an acknowledgement is of a side that has got nothing.
 */
static __always_inline void ct_track_tcp(const struct packet *pkt, struct flow *flow)
{
	__u8 seen = pkt->tcp_flags & (SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK);

	if (seen & ~flow->seen)
		flow->seen |= seen;
	if (seen & SEEN_ACK) {
		flow->sent = pkt->seq;
		flow->acked = pkt->ack;
		if (!(flow->flags & FLOW_ACKED))
			flow->flags |= FLOW_ACKED;
	} else if (seen & SEEN_SYN) {
		flow->sent = pkt->seq;
		flow->flags &= ~FLOW_ACKED;
	}
}

/* An answered entry, or NULL. A dead one waits for its deletion and is none. */
static __always_inline struct flow *ct_lookup_answered(const struct flow_key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&ct_answered, key);

	return flow && !(flow->flags & FLOW_DEAD) ? flow : NULL;
}

/* An entry of either table. */
static __always_inline struct flow *ct_lookup_any(const struct flow_key *key)
{
	struct flow *flow = ct_lookup_answered(key);

	return flow ? flow : bpf_map_lookup_elem(&ct_unanswered, key);
}

/* The key of a flow's other direction. */
static __always_inline void ct_reverse_key(struct flow_key *other, const struct flow_key *key,
					   const struct flow *flow)
{
	other->src = flow->dst;
	other->dst = flow->src;
	other->sport = flow->dport;
	other->dport = flow->sport;
	other->proto = key->proto;
	other->family = key->family;
	other->hook = flow->other_hook;
	other->pad = 0;
	other->ifindex = flow->other_ifindex;
}

/* Whether an entry is the reverse of the flow with this key. It may be another flow's: a
 * flow that began anew may have got another backend, and another flow its old key. Hook
 * and device need no check: a sender is seen at one hook of one device only.
 */
static __always_inline int ct_is_reverse(const struct flow_key *key, const struct flow *half)
{
	return addr_equal(&half->dst, &key->src) && addr_equal(&half->src, &key->dst) &&
	       half->dport == key->sport && half->sport == key->dport;
}

/* The other half of a flow, whatever its time; NULL where there is none. */
static __noinline struct flow *ct_lookup_reverse(const struct flow_key *key, const struct flow *flow)
{
	struct flow_key other;
	struct flow *half;

	ct_reverse_key(&other, key, flow);
	half = ct_lookup_any(&other);
	return half && ct_is_reverse(key, half) ? half : NULL;
}

/* An entry of either table that has not timed out. One that has timed out counts as
 * alive while its other direction has not: a request may be sent once and answered for
 * long, or repeated for long before it is answered. The table of answered flows may
 * hold an entry that is not answered: of a flow that began anew on a known tuple.
 */
static __noinline struct flow *ct_lookup_alive(const struct flow_key *key, __u64 now)
{
	struct flow *flow = ct_lookup_any(key);
	struct flow *half;

	if (!flow || !ct_expired(flow, key->proto, now))
		return flow;
	half = ct_lookup_reverse(key, flow);
	return half && !ct_expired(half, key->proto, now) ? flow : NULL;
}

/* The entry of a flow that goes on: an answered one has no time here. */
static __always_inline struct flow *ct_lookup_held(const struct flow_key *key, __u64 now)
{
	struct flow *flow = ct_lookup_answered(key);

	return flow ? flow : ct_lookup_alive(key, now);
}

/* Writes an entry where the key has one, else among the unanswered. */
static __noinline long ct_store(const struct flow_key *key, const struct flow *flow)
{
	if (ct_lookup_answered(key) && !bpf_map_update_elem(&ct_answered, key, flow, BPF_EXIST))
		return 0;
	return bpf_map_update_elem(&ct_unanswered, key, flow, BPF_ANY);
}

/* Writes a new entry only where the key has none that is alive: a source port is
 * taken by the reply's key being there. Whether the key is among the answered the
 * caller has seen: nothing gets there but from here.
 */
static __always_inline long ct_reserve(const struct flow_key *key, const struct flow *flow,
				       __u64 now)
{
	if (!bpf_map_update_elem(&ct_unanswered, key, flow, BPF_NOEXIST))
		return 0;
	return ct_lookup_alive(key, now) ? -1 : bpf_map_update_elem(&ct_unanswered, key, flow, BPF_ANY);
}

volatile const __u32 answered_share = MAX_CT_ANSWERED / 4;	/* entries of `ct_answered` */

/* Counts an entry of the table of answered flows for the pod that opened it; not
 * where it has its share. Outside has no count.
 */
static __noinline int ct_charge(__u32 opener)
{
	__u32 *count, one = 1;

	if (!opener)
		return 0;
	count = bpf_map_lookup_elem(&ct_answered_by, &opener);
	if (!count) {
		bpf_map_update_elem(&ct_answered_by, &opener, &one, BPF_NOEXIST);
		return 0;
	}
	if (*count >= answered_share)
		return -1;
	__sync_fetch_and_add(count, 1);
	return 0;
}

/* Makes an entry an answered one when it may, and moves it to those unless it
 * is there. Gives the entry to go on with: the old element may be another
 * key's at once. NULL when the flow's other half is nowhere: it has to be
 * judged anew.
 */
static __noinline struct flow *ct_promote(struct packet *pkt, struct flow *flow, int there)
{
	struct flow *moved, *reply;
	struct flow_key other;

	if (is_tunnel(flow->out)) {
		/* Answers go another way: who acknowledges has seen one. */
		if (!(flow->seen & SEEN_ACK))
			return flow;
	} else if (!(flow->flags & (FLOW_REPLY | FLOW_ANSWERED))) {
		ct_reverse_key(&other, &pkt->key, flow);
		reply = ct_lookup_alive(&other, pkt->now);
		if (!reply)
			return NULL;
		/* Either table may hold either kind. */
		if (!(reply->flags & FLOW_ANSWERED))
			return flow;
	}
	/* Tried once for every touch: a full table is asked once a second. */
	if ((flow->flags & FLOW_ANSWERED) && pkt->now - flow->last_seen < TOUCH_EVERY)
		return flow;
	flow->flags |= FLOW_ANSWERED;
	flow->last_seen = pkt->now;
	if (there ||
	    ct_charge(flow->flags & FLOW_REPLY ? flow->other_ifindex : pkt->key.ifindex) ||
	    bpf_map_update_elem(&ct_answered, &pkt->key, flow, BPF_NOEXIST))
		return flow;
	moved = bpf_map_lookup_elem(&ct_answered, &pkt->key);
	if (moved)
		bpf_map_delete_elem(&ct_unanswered, &pkt->key);
	return moved ? moved : flow;
}

/* A SYN where a FIN or RST was seen begins another connection. The other half
 * may have waited for longer than its time: it lives as long as this one. Where
 * answers go, it is of no connection that was opened by a SYN: who answers that
 * at the same time, with another, sends its acknowledgement too (RFC 9293 3.5). A
 * connection that was first seen in its middle may have had its ends mistaken.
 */
static __noinline int ct_reused(struct packet *pkt, const struct flow *flow)
{
	struct flow *half;

	if ((pkt->tcp_flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) != TCP_FLAG_SYN)
		return 0;
	if (flow->seen & (SEEN_FIN | SEEN_RST))
		return 1;
	half = ct_lookup_reverse(&pkt->key, flow);
	if (half && (half->seen & (SEEN_FIN | SEEN_RST)))
		return 1;
	if (!(flow->flags & FLOW_REPLY))
		return 0;
	if (half && (half->seen & SEEN_SYN))
		pkt->stray = REFUSE(pkt, REASON_STRAY_SYN);
	return 1;
}

/* Whether two sequence numbers are no farther from each other than that. */
static __always_inline int seq_near(__be32 a, __be32 b, __u32 window)
{
	return bpf_ntohl(a) - bpf_ntohl(b) + window <= 2 * window;
}

/* What a FIN or RST does to its flow: ends it, where it is near what its receiver has
 * acknowledged, which nobody who is not on the way knows. Where that is in doubt,
 * since much is in flight, it passes and leaves no trace: the receiver is the judge
 * (RFC 5961 3, 4). What is of neither side is stray. Where the receiver's packets are
 * not seen, or none has acknowledged anything yet, nothing is dropped. What is stray
 * is farther away than what leaves no trace.
 */
static __noinline void ct_check_end(struct packet *pkt, const struct flow *flow)
{
	struct flow *half = ct_lookup_reverse(&pkt->key, flow);
	int sent = flow->seen & (SEEN_SYN | SEEN_ACK);

	if (!half || !(half->flags & FLOW_ACKED)) {
		pkt->traceless = sent && !seq_near(pkt->seq, flow->sent, WINDOW_ENDS);
		return;
	}
	pkt->traceless = !seq_near(pkt->seq, half->acked, WINDOW_ENDS);
	if (!seq_near(pkt->seq, half->acked, WINDOW_PASSES) &&
	    !(sent && seq_near(pkt->seq, flow->sent, WINDOW_PASSES)))
		pkt->stray = REFUSE(pkt, REASON_OUT_OF_WINDOW);
}

static __always_inline void ct_touch(struct packet *pkt, struct flow *flow)
{
	if (pkt->now - flow->last_seen >= TOUCH_EVERY)
		flow->last_seen = pkt->now;
}

/* find gives the flow of a packet, or NULL: then it is to be judged as new. What is
 * stray is to be dropped, and leaves no trace in a flow.
 */
static __always_inline struct flow *ct_lookup(struct packet *pkt, __u8 hook)
{
	struct flow *answered, *flow;

	flow = answered = ct_lookup_answered(&pkt->key);
	note_read(pkt, TABLE_CT_ANSWERED, !!flow);
	if (!flow || !(flow->flags & FLOW_ANSWERED)) {
		flow = ct_lookup_alive(&pkt->key, pkt->now);
		note_read(pkt, TABLE_CT_UNANSWERED, !!flow);
		if (!flow)
			return NULL;
	}
	if (flow->epoch != pkt->epoch && ct_unchanged(pkt, &pkt->key, flow))
		flow->epoch = pkt->epoch;
	/* One that is judged anew is asked again whose address it has. */
	if (is_hook(hook, HOOK_TO_CONTAINER) && pkt->transit && (flow->flags & FLOW_HERE) &&
	    flow->epoch == pkt->epoch) {
		pkt->stray = REFUSE(pkt, REASON_MARTIAN_SOURCE);
		return NULL;
	}
	pkt->reused = ct_reused(pkt, flow);
	if (pkt->reused)
		return NULL;
	if (pkt->tcp_flags & (TCP_FLAG_FIN | TCP_FLAG_RST)) {
		ct_check_end(pkt, flow);
		if (pkt->traceless)
			return flow;
	}
	ct_track_tcp(pkt, flow);
	if (!(flow->flags & FLOW_ANSWERED) || !answered)
		flow = ct_promote(pkt, flow, !!answered);
	if (flow)
		ct_touch(pkt, flow);
	return flow;
}

#endif
