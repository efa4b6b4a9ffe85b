/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CT_SHARE_H
#define WEIR_CT_SHARE_H

#include "conntrack.h"
#include "share.h"

/* Deletes both halves of a flow that nobody has answered. A flow that was answered
 * meanwhile stays, unless its opener has its share of `ct_answered`: FLOW_ANSWERED in
 * the reply half shows it.
 */
static __noinline void ct_forget(const struct flow_key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&ct_unanswered, key);
	struct flow_key other;
	__u32 *count = bpf_map_lookup_elem(&ct_answered_by, &key->ifindex);
	int crowded = count && *count >= answered_share;
	struct flow *half;

	if (!flow)
		return;
	ct_reverse_key(&other, key, flow);
	half = ct_lookup_answered(&other);
	if (!half)
		half = bpf_map_lookup_elem(&ct_unanswered, &other);
	if (half && ((!crowded && (half->flags & FLOW_ANSWERED)) || !ct_is_reverse(key, half)))
		return;
	bpf_map_delete_elem(&ct_unanswered, &other);
	bpf_map_delete_elem(&ct_unanswered, key);
}

static __noinline void share_charge_opening(const struct flow_key *key)
{
	struct share_key at = { .ifindex = key->ifindex, .hook = key->hook, .of = SHARE_FLOWS };
	struct share_slot mine = { .next = 1 }, *old;
	struct flow_key gone;

	old = share_take(&at, flow_share);
	mine.flow = *key;
	if (old)
		gone = old->flow;
	bpf_map_update_elem(&shares, &at, &mine, BPF_ANY);
	if (old)
		ct_forget(&gone);
}

/* Charges a flow to the pod that opened it; those from outside to nobody. */
static __always_inline void share_charge_flow(const struct flow_key *key)
{
	if (key->hook == HOOK_FROM_CONTAINER)
		share_charge_opening(key);
}

#endif
