/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_SHARE_H
#define WEIR_SHARE_H

#include "flow.h"
#include "turn.h"

/* Takes a flow that nobody has answered out of its table, both halves. What was
 * answered in the meantime stays, unless it is too much for the table of those: its
 * answers' half says so.
 */
static __noinline void share_forget(const struct flow_key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&unanswered, key);
	struct flow_key other;
	__u32 *count = bpf_map_lookup_elem(&answered_by, &key->ifindex);
	int crowded = count && *count >= answered_share;
	struct flow *half;

	if (!flow)
		return;
	flow_other(&other, key, flow);
	half = flow_answered(&other);
	if (!half)
		half = bpf_map_lookup_elem(&unanswered, &other);
	if (half && ((!crowded && (half->flags & FLOW_ANSWERED)) || !flow_halves(key, half)))
		return;
	bpf_map_delete_elem(&unanswered, &other);
	bpf_map_delete_elem(&unanswered, key);
}

static __noinline void turn_of_opening(const struct flow_key *key)
{
	struct turn_key at = { .ifindex = key->ifindex, .hook = key->hook, .of = TURN_FLOWS };
	struct turn mine = { .next = 1 }, *old;
	struct flow_key gone;

	old = turn_take(&at, flow_share);
	mine.flow = *key;
	if (old)
		gone = old->flow;
	bpf_map_update_elem(&turns, &at, &mine, BPF_ANY);
	if (old)
		share_forget(&gone);
}

/* A pod has opened a flow. Who comes from outside is no endpoint. */
static __always_inline void turn_of_flow(const struct flow_key *key)
{
	if (key->hook == HOOK_FROM_CONTAINER)
		turn_of_opening(key);
}

#endif
