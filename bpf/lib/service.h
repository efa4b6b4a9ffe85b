/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_SERVICE_H
#define WEIR_SERVICE_H

#include "verdict.h"
#include "packet.h"

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

static __noinline __u32 hash_tuple(const struct flow_key *key, __u32 seed)
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

static __noinline struct service *service_lookup(struct packet *pkt, __u8 scope)
{
	struct service_key key = {
		.addr = pkt->key.dst,
		.port = pkt->key.dport,
		.proto = pkt->key.proto,
		.scope = scope,
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

/* The entry of an address that belongs to services alone; NULL for any other. */
PACKETS_ONLY struct service *service_lookup_address(struct packet *pkt)
{
	struct service_key key = { .addr = pkt->key.dst, .scope = SCOPE_ADDRESS };
	struct service_pair *pair = bpf_map_lookup_elem(&services, &key);
	struct service *service;

	if (!pair)
		return NULL;
	service = GENERATION(pkt->epoch) ? &pair->half[1] : &pair->half[0];
	if (!service->id)
		return NULL;
	note_read(pkt, TABLE_SERVICES, 1);
	return service;
}

/* What a service says of a backend; BACKEND_ABSENT where it has none such. */
static __noinline __u32 backend_lookup(struct packet *pkt, __u32 service,
				      const struct addr *addr, __be16 port)
{
	struct backend_key key = {
		.service = service,
		.addr = *addr,
		.port = port,
	};
	struct backend_pair *pair = bpf_map_lookup_elem(&backends, &key);
	__u32 state = BACKEND_ABSENT;

	if (pair)
		state = (GENERATION(pkt->epoch) ? pair->half[1] : pair->half[0]).state;
	note_read(pkt, TABLE_BACKENDS, state != BACKEND_ABSENT);
	return state;
}

/* The backend that the client's flows stay with; none if it serves no more. */
static __noinline int affinity_lookup(struct packet *pkt, const struct service *service,
				      struct addr *addr, __be16 *port)
{
	struct affinity_key key = { .group = service->group, .client = pkt->key.src };
	struct affinity *affinity = bpf_map_lookup_elem(&affinities, &key);
	int found;

	found = affinity && age(pkt, affinity->used) <= service->affinity * SECOND &&
		backend_lookup(pkt, service->id, &affinity->addr, affinity->port) == BACKEND_SERVING;
	note_read(pkt, TABLE_AFFINITIES, found);
	if (!found)
		return 0;
	*addr = affinity->addr;
	*port = affinity->port;
	return 1;
}

/* Remembers the backend of a new flow for its client. */
static __always_inline void affinity_update(const struct packet *pkt, __u32 group,
					    const struct addr *addr, __be16 port)
{
	struct affinity_key key = { .group = group, .client = pkt->key.src };
	struct affinity affinity = {
		.used = pkt->now,
		.addr = *addr,
		.port = port,
	};

	bpf_map_update_elem(&affinities, &key, &affinity, BPF_ANY);
}

/* The slot of a new flow. With a Maglev table it is the same on every node, so the hash
 * does without the seed.
 */
static __always_inline __u32 lb_slot(struct packet *pkt, const struct service *service, __u32 seed)
{
	__u32 index, *entry;

	if (!service->table_size)
		return ((__u64)hash_tuple(&pkt->key, seed) * service->count) >> 32;
	index = service->table + hash_tuple(&pkt->key, 0) % service->table_size;
	entry = bpf_map_lookup_elem(&maglev, &index);
	return entry ? *entry : 0;
}

/* Whether an address can be no backend's, whoever lists it: no host has it, or another
 * host on each link has it, as link-local services of the node do.
 */
static __always_inline int backend_is_no_host(const struct addr *addr)
{
	__u8 family = addr_mapped(addr) ? FAMILY_IPV4 : FAMILY_IPV6;

	return martian(addr, family) || linklocal(addr, family);
}

/* Chooses the backend of a new flow. */
static __noinline int lb_select_backend(struct packet *pkt, const struct service *service, __u32 seed,
					struct addr *addr, __be16 *port)
{
	struct slot_row_key key = {};
	struct slot_row *row;
	struct slot *slot;
	__u32 index;

	if (!service->count)
		return REFUSE(pkt, service->flags & SERVICE_LOCAL ? REASON_NO_LOCAL_BACKEND :
								    REASON_NO_BACKEND);
	if (service->affinity && affinity_lookup(pkt, service, addr, port))
		return REASON_NONE;
	index = lb_slot(pkt, service, seed);
	key.set = service->set;
	key.row = index / SLOTS_A_ROW;
	row = bpf_map_lookup_elem(&slot_rows, &key);
	note_read(pkt, TABLE_SLOTS, !!row);
	/* The set of slots is being deleted: the next packet reads a new one. */
	if (!row)
		return REFUSE(pkt, REASON_NO_BACKEND);
	slot = &row->slot[index % SLOTS_A_ROW];
	if (backend_is_no_host(&slot->addr))
		return REFUSE(pkt, REASON_MARTIAN_DESTINATION);
	*addr = slot->addr;
	*port = slot->port;
	return REASON_NONE;
}

#endif
