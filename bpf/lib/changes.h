/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CHANGES_H
#define WEIR_CHANGES_H

#include "packet.h"

/* Which flows a change of the tables concerns. A flow depends on the address that sends,
 * on the one that it is sent to, and on the one that it is led to; in its opening
 * direction on frontend and backend too. Each of these has a place in a table, with the
 * last epoch in which something of it changed; what concerns all flows has one too. What
 * shares a place is judged anew together, and needlessly. The loader writes the same
 * places: datapath/anew.go.
 */

/* A place is the top of a multilinear hash: sums of words by odd numbers. */
#define PLACE_SHIFT	48
#define PLACE_WORD_0	0x9e3779b97f4a7c15ULL
#define PLACE_WORD_1	0xc2b2ae3d27d4eb4fULL
#define PLACE_WORD_2	0x165667b19e3779f9ULL
#define PLACE_WORD_3	0xd6e8feb86659fd93ULL
#define PLACE_PORT	0xa0761d6478bd642fULL

static __always_inline __u64 hash_addr(const struct addr *a)
{
	return a->w[0] * PLACE_WORD_0 + a->w[1] * PLACE_WORD_1 + a->w[2] * PLACE_WORD_2 +
	       a->w[3] * PLACE_WORD_3;
}

/* Of an address with a port, of any protocol. */
static __always_inline __u64 hash_port(__u64 addr, __be16 port)
{
	return addr + (port + 1) * PLACE_PORT;
}

/* Negative where the place was changed after epoch. Epochs are serial numbers (RFC
 * 1982): a place that is older than half of all numbers counts as changed.
 */
static __always_inline __u32 since(const struct changes *all, __u64 hash, __u32 epoch)
{
	return epoch - all->places[hash >> PLACE_SHIFT];
}

/* Whether nothing that the flow depends on has changed since it was judged. key is the
 * key of the flow's entry.
 */
static __noinline int ct_unchanged(struct packet *pkt, const struct flow_key *key, const struct flow *flow)
{
	struct changes *all;
	__u64 dst, leads_to;
	__u32 zero = 0, news;

	all = bpf_map_lookup_elem(&changed, &zero);
	if (!all)
		return 0;
	dst = hash_addr(&key->dst);
	leads_to = hash_addr(&flow->dst);
	/* A packet that began under older tables than the flow's is judged by its own. */
	news = pkt->epoch - flow->epoch;
	news |= flow->epoch - all->all;
	news |= since(all, hash_addr(&key->src), flow->epoch);
	news |= since(all, dst, flow->epoch) | since(all, leads_to, flow->epoch);
	if (!(flow->flags & FLOW_REPLY)) {
		news |= since(all, hash_port(dst, key->dport), flow->epoch);
		news |= since(all, hash_port(leads_to, flow->dport), flow->epoch);
		/* A tunnelled packet may be for a frontend of any address. */
		if (OBJECT_HOOKS & (1 << HOOK_FROM_DEVICE) && pkt->decapped)
			news |= since(all, hash_port(0, key->dport), flow->epoch);
	}
	return (__s32)news >= 0;
}

#endif
