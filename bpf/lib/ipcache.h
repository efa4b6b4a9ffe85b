/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_IPCACHE_H
#define WEIR_IPCACHE_H

#include "verdict.h"

#define IDENTITY_HOST	1
#define IDENTITY_WORLD	2
#define IDENTITY_LABELS	256		/* the first of pods' labels */
#define IDENTITY_CIDRS	(1U << 24)	/* the first of blocks that policies name */

static __always_inline struct ipcache_entry *ipcache_half(struct packet *pkt, struct ipcache_pair *pair)
{
	struct ipcache_entry *half;

	if (!pair)
		return NULL;
	half = GENERATION(pkt->epoch) ? &pair->half[1] : &pair->half[0];
	return half->identity ? half : NULL;
}

/* The entry of exactly this address, without a look at prefixes: addresses of the node,
 * of gateways and of pods are always exact.
 */
static __noinline struct ipcache_entry *ipcache_lookup_exact(struct packet *pkt, const struct addr *addr)
{
	struct ipcache_entry *entry = ipcache_half(pkt, bpf_map_lookup_elem(&ipcache, addr));

	/* A miss is not noted: only the address was asked for, and not its prefixes. */
	if (entry)
		note_read(pkt, TABLE_IPCACHE, 1);
	return entry;
}

/* The entry of an address: exact, else by the longest prefix; NULL is the world. */
static __noinline struct ipcache_entry *ipcache_lookup(struct packet *pkt, const struct addr *addr)
{
	struct cidr_key key = { .bits = 128 };
	struct ipcache_entry *entry;

	key.addr = *addr;
	entry = ipcache_half(pkt, bpf_map_lookup_elem(&ipcache, &key.addr));
	note_read(pkt, TABLE_IPCACHE, !!entry);
	if (entry)
		return entry;
	entry = ipcache_half(pkt, bpf_map_lookup_elem(&ipcache_cidrs, &key));
	note_read(pkt, TABLE_IPCACHE_CIDRS, !!entry);
	return entry;
}

static __always_inline __u32 identity_of(const struct ipcache_entry *entry)
{
	return entry ? entry->identity : IDENTITY_WORLD;
}

/* Whether an identity is a pod's. A pod without an identity of its own is of this node,
 * and is known by its device.
 */
static __always_inline int identity_is_pod(__u32 identity)
{
	return identity >= IDENTITY_LABELS && identity < IDENTITY_CIDRS;
}

#endif
