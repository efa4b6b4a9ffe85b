/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_ADDRESS_H
#define WEIR_ADDRESS_H

#include "decide.h"

#define IDENTITY_HOST	1
#define IDENTITY_WORLD	2
#define IDENTITY_LABELS	256		/* the first of pods' labels */
#define IDENTITY_BLOCKS	(1U << 24)	/* the first of blocks that policies name */

static __always_inline struct address *address_half(struct packet *pkt, struct address_pair *pair)
{
	struct address *half;

	if (!pair)
		return NULL;
	half = GENERATION(pkt->epoch) ? &pair->half[1] : &pair->half[0];
	return half->identity ? half : NULL;
}

/* What is known of one address by itself: those of the node, of gateways and of
 * pods are never known by their prefix.
 */
static __noinline struct address *address_exact(struct packet *pkt, const struct addr *addr)
{
	struct address *address = address_half(pkt, bpf_map_lookup_elem(&addresses, addr));

	/* A miss says nothing by itself: its prefix is not looked for. */
	if (address)
		note_read(pkt, TABLE_ADDRESSES, 1);
	return address;
}

/* What is known of an address: exact first, then by prefix; NULL is the world. */
static __noinline struct address *address_of(struct packet *pkt, const struct addr *addr)
{
	struct prefix_key key = { .bits = 128 };
	struct address *address;

	key.addr = *addr;
	address = address_half(pkt, bpf_map_lookup_elem(&addresses, &key.addr));
	note_read(pkt, TABLE_ADDRESSES, !!address);
	if (address)
		return address;
	address = address_half(pkt, bpf_map_lookup_elem(&prefixes, &key));
	note_read(pkt, TABLE_PREFIXES, !!address);
	return address;
}

static __always_inline __u32 identity_of(const struct address *address)
{
	return address ? address->identity : IDENTITY_WORLD;
}

/* Whether an identity is a pod's. One without an identity of its own is of this node,
 * which is known by its device.
 */
static __always_inline int of_pod(__u32 identity)
{
	return identity >= IDENTITY_LABELS && identity < IDENTITY_BLOCKS;
}

#endif
