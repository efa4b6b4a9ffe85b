/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_SHARE_H
#define WEIR_SHARE_H

#include "tables.h"

/* Shares of LRU tables. An endpoint's share is a ring with as many slots as it may have
 * entries: an entry that it opens takes the next slot, and the entry that was in the
 * slot before is deleted, if it is still there. So who floods a table displaces its own
 * entries, and no packet is refused. Only packets that open entries do this work.
 *
 * Turns are counted without a lock: of two CPUs that take one at once, one has
 * its opening forgotten, which then waits to be the longest unused.
 */

volatile const __u32 flow_share = MAX_CT_UNANSWERED / 8;	/* flows: two entries each, a quarter */
volatile const __u32 fragment_share = MAX_FRAGMENTS / 4;

/* The opening that has the next slot of the ring, which key then takes; NULL if the
 * slot is new. Slot 0 also holds the number of the next one.
 */
static __noinline struct share_slot *share_take(struct share_key *key, __u32 share)
{
	struct share_slot *first = bpf_map_lookup_elem(&shares, key);

	if (!first)
		return NULL;
	key->slot = first->next % share;
	first->next = key->slot + 1;
	return bpf_map_lookup_elem(&shares, key);
}

/* Charges an endpoint for the ports of a fragmented packet. */
static __noinline void share_charge_fragment(const struct fragment_key *key)
{
	struct share_key at = { .ifindex = key->ifindex, .hook = key->hook, .of = SHARE_FRAGMENTS };
	struct share_slot mine = { .next = 1 }, *old;

	old = share_take(&at, fragment_share);
	if (old)
		bpf_map_delete_elem(&fragments, &old->fragment);
	mine.fragment = *key;
	bpf_map_update_elem(&shares, &at, &mine, BPF_ANY);
}

#endif
