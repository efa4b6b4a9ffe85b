/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_SOURCE_H
#define WEIR_SOURCE_H

#include "ipcache.h"
#include "packet.h"

/* The hook tells where a packet is from. A source address only excludes senders: a
 * packet that comes by a device of the node's cannot have an address of this node or
 * of its pods.
 */

/* Whether the node's own stack has made the packet. A packet that the stack forwards
 * came in by some device, and its source address proves nothing.
 */
static __always_inline int from_local_stack(const ctx_t *ctx, const struct packet *pkt)
{
	return !at(pkt, HOOK_FROM_DEVICE) && !ctx_ingress_ifindex(ctx);
}

/* Multicast, and the broadcast address. */
static __noinline int is_multicast(const struct packet *pkt)
{
	const struct addr *dst = &pkt->key.dst;

	if (pkt->key.family == FAMILY_IPV4)
		return (bpf_ntohl(dst->w[3]) >> 28) == 14 || dst->w[3] == 0xffffffff;
	return (dst->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* Addresses that no host has. Class E is some networks' own: the kernel takes it
 * for any other.
 */
static __noinline int is_no_host(const struct addr *a, __u8 family)
{
	__u32 v4 = bpf_ntohl(a->w[3]);

	if (family == FAMILY_IPV6)
		return martian(a, family);
	return v4 >> 24 == 0 || v4 >> 24 == 127 || v4 >> 28 == 14 || v4 == 0xffffffff;
}

/* Whether an address is the node's: its own, or a link-local one, which leads to
 * no other from here.
 */
static __noinline int is_host_address(struct packet *pkt, const struct addr *addr)
{
	struct ipcache_entry *entry;

	if (linklocal(addr, pkt->key.family))
		return 1;
	entry = ipcache_lookup_exact(pkt, addr);
	return entry && (entry->flags & IPCACHE_HOST);
}

/* The address of who has none yet. */
static __noinline int is_unspecified(const struct addr *a)
{
	return addr_none(a) || (addr_mapped(a) && !a->w[3]);
}

/* Refuses sources that nobody outside can have. A link-local source may send to the
 * node, to a pod that answers it, and to multicast; a neighbour may have the same
 * link-local address as the pods' gateway. A host without an address may send to
 * multicast: it asks for one (DHCP, duplicate address detection).
 */
static __noinline int judge_outside_source(struct packet *pkt)
{
	struct ipcache_entry *entry;
	int many = is_multicast(pkt);

	if (many && is_unspecified(&pkt->key.src))
		return REASON_NONE;
	if (is_no_host(&pkt->key.src, pkt->key.family))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	if (linklocal(&pkt->key.src, pkt->key.family)) {
		if (many || is_host_address(pkt, &pkt->key.dst))
			return REASON_NONE;
		entry = ipcache_lookup_exact(pkt, &pkt->key.dst);
		if (!entry || !entry->ifindex)
			return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	}
	entry = ipcache_lookup_exact(pkt, &pkt->key.src);
	if (!entry)
		return REASON_NONE;
	if (entry->ifindex)
		return REFUSE(pkt, REASON_SPOOFED_SOURCE);
	if (entry->flags & IPCACHE_HOST)
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	return REASON_NONE;
}

#endif
