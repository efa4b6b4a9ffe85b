/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_SERVICE_H
#define WEIR_SERVICE_H

#include "decide.h"

#undef THIS_FILE
#define THIS_FILE FILE_SERVICE_H

/* A seeded hash of a tuple: murmur3's mixing, over the words of the key. */
static __always_inline __u32 mix(__u32 h, __u32 k)
{
	k *= 0xcc9e2d51;
	k = (k << 15) | (k >> 17);
	k *= 0x1b873593;
	h ^= k;
	h = (h << 13) | (h >> 19);
	return h * 5 + 0xe6546b64;
}

static __always_inline __u32 hash_tuple(const struct flow_key *key, __u32 seed)
{
	__u32 h = seed;
	int i;

	for (i = 0; i < 4; i++) {
		h = mix(h, key->src.w[i]);
		h = mix(h, key->dst.w[i]);
	}
	h = mix(h, ((__u32)key->sport << 16) | key->dport);
	h = mix(h, key->proto);
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ (h >> 16);
}

static __always_inline struct service *service_of(struct packet *pkt)
{
	struct service_key key = {
		.addr = pkt->key.dst,
		.port = pkt->key.dport,
		.proto = pkt->key.proto,
	};
	struct service_pair *pair = bpf_map_lookup_elem(&services, &key);
	struct service *service = NULL;

	if (pair)
		service = GENERATION(pkt->epoch) ? &pair->half[1] : &pair->half[0];
	if (service && !service->id)
		service = NULL;
	note_read(pkt, TABLE_SERVICES, !!service);
	return service;
}

/* Whether a service still has the backend that a flow uses. */
static __always_inline int backend_there(struct packet *pkt, __u32 service,
					 const struct flow *flow)
{
	struct backend_key key = {
		.service = service,
		.addr = flow->dst,
		.port = flow->dport,
	};
	struct backend_pair *pair = bpf_map_lookup_elem(&backends, &key);
	int found = 0;

	if (pair)
		found = (GENERATION(pkt->epoch) ? pair->half[1] : pair->half[0]).state != BACKEND_ABSENT;
	note_read(pkt, TABLE_BACKENDS, found);
	return found;
}

/* Translates a flow to a service: s->open.dst and dport are the backend's. The
 * old one, of a flow that was known before, is kept while it serves.
 */
static __noinline int translate(struct packet *pkt, struct scratch *s, __u32 seed)
{
	struct slot_key key = {};
	struct service *service;
	struct slot *slot;

	service = service_of(pkt);
	if (!service)
		return REASON_NONE;
	s->open.service = service->id;
	if (pkt->old && s->old.service == service->id &&
	    backend_there(pkt, service->id, &s->old)) {
		s->open.dst = s->old.dst;
		s->open.dport = s->old.dport;
		return REASON_NONE;
	}
	if (!service->count)
		return REFUSE(pkt, REASON_NO_BACKEND);
	key.set = service->set;
	key.index = ((__u64)hash_tuple(&pkt->key, seed) * service->count) >> 32;
	slot = bpf_map_lookup_elem(&slots, &key);
	note_read(pkt, TABLE_SLOTS, !!slot);
	/* A set that is going away under us: the next packet meets the new one. */
	if (!slot)
		return REFUSE(pkt, REASON_NO_BACKEND);
	s->open.dst = slot->addr;
	s->open.dport = slot->port;
	return REASON_NONE;
}

#endif
