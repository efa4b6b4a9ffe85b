/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_ROUTE_H
#define WEIR_ROUTE_H

#include "verdict.h"

#define AF_INET		2
#define AF_INET6	10

/* Asks the kernel for the device towards flow->dst, and keeps it for ROUTE_CACHE. The
 * next hop is not kept: the kernel finds it for each packet.
 */
static __noinline int route(ctx_t *ctx, struct packet *pkt, struct flow *flow)
{
	struct bpf_fib_lookup fib = {};
	__u32 ifindex;
	long ret;

	if (pkt->key.family == FAMILY_IPV4) {
		fib.family = AF_INET;
		fib.ipv4_src = flow->src.w[3];
		fib.ipv4_dst = flow->dst.w[3];
	} else {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &flow->src, sizeof(flow->src));
		__builtin_memcpy(fib.ipv6_dst, &flow->dst, sizeof(flow->dst));
	}
	fib.l4_protocol = pkt->key.proto;
	fib.sport = flow->sport;
	fib.dport = flow->dport;
	fib.ifindex = ctx_ifindex(ctx);
	ret = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH) {
		note_read(pkt, TABLE_ROUTES, 0);
		return REFUSE(pkt, REASON_NO_ROUTE);
	}
	note_read(pkt, TABLE_ROUTES, 1);
	ifindex = fib.ifindex;
	/* A route into a pod for an address that is not known as a pod's would
	 * go around that pod's policy.
	 */
	if (bpf_map_lookup_elem(&endpoints, &ifindex))
		return REFUSE(pkt, REASON_NO_ENDPOINT);
	flow->ifindex = ifindex;
	flow->routed = pkt->now;
	return REASON_NONE;
}

#endif
