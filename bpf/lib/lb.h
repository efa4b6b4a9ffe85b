/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_LB_H
#define WEIR_LB_H

#include "service.h"

/* Whether a known flow keeps its backend. A terminating backend keeps its TCP connections;
 * other flows move to another backend, since their end is never seen.
 */
static __always_inline int lb_backend_kept(struct packet *pkt, __u32 service, const struct flow *flow)
{
	__u32 state = backend_lookup(pkt, service, &flow->dst, flow->dport);

	return state == BACKEND_SERVING ||
	       (state == BACKEND_TERMINATING && pkt->key.proto == IPPROTO_TCP);
}

static __always_inline int lb_source_allowed(const struct packet *pkt, const struct service *service)
{
	struct source_key key = {
		.bits = 32 + 128,
		.list = service->sources,
		.addr = pkt->key.src,
	};

	return !(service->flags & SERVICE_SOURCES) || bpf_map_lookup_elem(&sources, &key);
}

/* The backend that another node has chosen: the tunnel's packet names it. */
static __noinline int lb_select_tunneled(struct packet *pkt, struct scratch *s, __u32 service)
{
	struct backend_key key = { .service = service, .addr = s->pod };
	struct backend_pair *pair = bpf_map_lookup_elem(&backends, &key);
	struct backend *half = NULL;

	if (pair)
		half = GENERATION(pkt->epoch) ? &pair->half[1] : &pair->half[0];
	if (!half || half->state == BACKEND_ABSENT)
		return REFUSE(pkt, REASON_NO_BACKEND);
	s->open.dst = s->pod;
	s->open.dport = half->port;
	return REASON_NONE;
}

/* Chooses the backend: sets s->open.dst and dport. A flow that is judged again keeps
 * its backend as long as it may.
 */
static __noinline int lb_select(struct packet *pkt, struct scratch *s,
				const struct service *service, __u32 seed)
{
	s->open.service = service->id;
	if (!at(pkt, HOOK_TO_DEVICE) && !lb_source_allowed(pkt, service))
		return REFUSE(pkt, REASON_SOURCE_RANGE);
	if (pkt->old && s->old.service == service->id && lb_backend_kept(pkt, service->id, &s->old)) {
		s->open.dst = s->old.dst;
		s->open.dport = s->old.dport;
		return REASON_NONE;
	}
	if (OBJECT_HOOKS & (1 << HOOK_FROM_DEVICE) && pkt->decapped)
		return lb_select_tunneled(pkt, s, service->id);
	s->affinity_group = service->group; /* 0: clients are not kept */
	return lb_select_backend(pkt, service, seed, &s->open.dst, &s->open.dport);
}

#endif
