/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CONNTRACK_H
#define WEIR_CONNTRACK_H

#include "changes.h"
#include "verdict.h"

/* The flow table: `ct_answered` for those answered, `ct_unanswered` for the others. An
 * entry moves from the second to the first by a packet of its own direction,
 * once the other direction was seen; where there is no room it stays.
 */

/* Timeouts in seconds: of flows without an answer, and of answered flows that found no
 * room in `ct_answered`. The other timeouts are those of the collector, in Go. The
 * loader overwrites these defaults.
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

/* Whether a flow has been idle for too long. idle is negative where the CPU that saw
 * the flow had a clock ahead of this one's. The function is global so that the verifier
 * checks it once and not for each caller.
 */
__noinline int ct_timed_out(__s64 idle, __u32 flags, __u32 proto)
{
	return idle > (__s64)ct_timeout(flags, proto);
}

/* Only slow paths call it. */
static __always_inline int ct_expired(const struct flow *flow, __u8 proto, __u64 now)
{
	return ct_timed_out(now - flow->last_seen, flow->flags, proto);
}

/* Notes in the flow's entry what a TCP packet shows: its flags, and the sequence
 * numbers of both sides. A SYN without an ACK acknowledges nothing.
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

/* An answered entry, or NULL. A dead one waits for deletion and does not count. */
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

/* Whether half is the reverse of the flow with this key. It may belong to another flow:
 * when a flow begins again with another backend, its old reply key is free for others.
 * Hook and device are not compared: a sender is seen at one hook of one device only.
 */
static __always_inline int ct_is_reverse(const struct flow_key *key, const struct flow *half)
{
	return addr_equal(&half->dst, &key->src) && addr_equal(&half->src, &key->dst) &&
	       half->dport == key->sport && half->sport == key->dport;
}

/* The other half of a flow, timed out or not; NULL where there is none. */
static __noinline struct flow *ct_lookup_reverse(const struct flow_key *key, const struct flow *flow)
{
	struct flow_key other;
	struct flow *half;

	ct_reverse_key(&other, key, flow);
	half = ct_lookup_any(&other);
	return half && ct_is_reverse(key, half) ? half : NULL;
}

/* An entry of either table that is alive: it has not timed out, or its other half has
 * not. A request may be sent once and answered for long, or be repeated for long before
 * it is answered. `ct_answered` may hold an entry without an answer: that of a flow
 * which began again on a known tuple.
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

/* The entry of a flow that goes on. An answered one does not time out here. */
static __always_inline struct flow *ct_lookup_held(const struct flow_key *key, __u64 now)
{
	struct flow *flow = ct_lookup_answered(key);

	return flow ? flow : ct_lookup_alive(key, now);
}

/* Updates the entry in `ct_answered` if it is there; else writes to `ct_unanswered`. */
static __noinline long ct_store(const struct flow_key *key, const struct flow *flow)
{
	if (ct_lookup_answered(key) && !bpf_map_update_elem(&ct_answered, key, flow, BPF_EXIST))
		return 0;
	return bpf_map_update_elem(&ct_unanswered, key, flow, BPF_ANY);
}

/* Stores a new entry, unless the key has one that is alive. This is how a source port
 * is taken: by the key of the replies. The caller has seen that `ct_answered` does not
 * have the key, and an entry gets there from `ct_unanswered` only.
 */
static __always_inline long ct_reserve(const struct flow_key *key, const struct flow *flow,
				       __u64 now)
{
	if (!bpf_map_update_elem(&ct_unanswered, key, flow, BPF_NOEXIST))
		return 0;
	return ct_lookup_alive(key, now) ? -1 : bpf_map_update_elem(&ct_unanswered, key, flow, BPF_ANY);
}

volatile const __u32 answered_share = MAX_CT_ANSWERED / 4;	/* entries of `ct_answered` */

/* Counts an entry of `ct_answered` for the pod that opened the flow. Fails if the pod
 * has its share already. Flows from outside are not counted.
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

/* Marks a flow answered if its other half has seen packets, and moves its entry to
 * `ct_answered` unless it is there. Returns the entry to go on with: the old element
 * may be reused for another key at once. NULL if the other half is gone: the flow has
 * to be judged anew.
 */
static __noinline struct flow *ct_promote(struct packet *pkt, struct flow *flow, int there)
{
	struct flow *moved, *reply;
	struct flow_key other;

	if (is_tunnel(flow->out)) {
		/* The answers take another way: an ACK shows that there was one. */
		if (!(flow->seen & SEEN_ACK))
			return flow;
	} else if (!(flow->flags & (FLOW_REPLY | FLOW_ANSWERED))) {
		ct_reverse_key(&other, &pkt->key, flow);
		reply = ct_lookup_alive(&other, pkt->now);
		if (!reply)
			return NULL;
		/* The reverse half may be in either table, answered or not. */
		if (!(reply->flags & FLOW_ANSWERED))
			return flow;
	}
	/* Try to move the entry once a touch: a full table is asked once a second. */
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

/* Whether a SYN opens another connection on the tuple: a FIN or RST was seen in either
 * direction, in a half that has timed out too. A SYN against the direction of a flow
 * that began with a SYN is refused: a peer that opens at the same time sends a SYN-ACK
 * next (RFC 9293 3.5). A flow that was first seen in its middle may have its directions
 * mistaken: there such a SYN opens another connection.
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

/* Whether two sequence numbers are at most window apart. */
static __always_inline int seq_near(__be32 a, __be32 b, __u32 window)
{
	return bpf_ntohl(a) - bpf_ntohl(b) + window <= 2 * window;
}

/* What a FIN or RST does to its flow. Near what its receiver has acknowledged, which
 * only somebody on the path can know, it ends the flow. Farther away, where much may be
 * in flight, it passes and changes nothing: the receiver is the judge (RFC 5961 3, 4).
 * Still farther away, from that and from what its own side has sent, it is stray. While
 * no acknowledgement of the receiver was seen, nothing is stray; then the last packet
 * of its own side counts.
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

/* Gives the flow of a packet; NULL if it has to be judged as new. pkt->stray is set if
 * the packet has to be dropped: it changes nothing in its flow.
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
	/* A flow that is judged anew is asked again whose source address this is. */
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
