/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CTX_XDP_H
#define WEIR_CTX_XDP_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "csum.h"

/* The context of XDP programs: see lib/ctx.h. A frame has no metadata of the kernel's:
 * no mark, no super-packets, no checksums that a device has still to make or has made,
 * and a VLAN tag is in the frame. It lies in one piece, and all of it is readable.
 *
 * Octets are read and written by helpers of kernel 5.18 (3f364222d032). A program for
 * older ones has to read by pointers.
 */

typedef struct xdp_md ctx_t;

#define CTX_PASS XDP_PASS
#define CTX_DROP XDP_DROP

#define ctx_len(ctx) ((__u32)bpf_xdp_get_buff_len(ctx))
#define ctx_has_vlan(ctx) 0
#define ctx_gso_size(ctx) 0
#define ctx_ifindex(ctx) ((ctx)->ingress_ifindex)
#define ctx_ingress_ifindex(ctx) ((ctx)->ingress_ifindex)
#define ctx_mark(ctx) 0
#define ctx_set_mark(ctx, value) ((void)(value))

#define ctx_load_bytes bpf_xdp_load_bytes
#define ctx_store_bytes(ctx, off, from, len, flags) bpf_xdp_store_bytes(ctx, off, (void *)(from), len)
#define ctx_change_tail(ctx, len, flags) bpf_xdp_adjust_tail(ctx, (int)(len) - (int)ctx_len(ctx))
#define ctx_csum_update(ctx, sum) ((void)(sum))

static __always_inline void *ctx_data(ctx_t *ctx)
{
	return (void *)(long)ctx->data;
}

static __always_inline void *ctx_data_end(ctx_t *ctx)
{
	return (void *)(long)ctx->data_end;
}

/* The ethertype, in network order; 0 where there is none. */
static __always_inline __be16 ctx_protocol(const ctx_t *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	return (void *)(eth + 1) > (void *)(long)ctx->data_end ? 0 : eth->h_proto;
}

static __always_inline long ctx_pull(ctx_t *ctx, __u32 len)
{
	return len > ctx_len(ctx) ? -1 : 0;
}

/* The decision of a program: XDP has no skb->cb, so it is in a record of the CPU. */
struct xdp_note {
	__u32 words[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdp_note);
} xdp_notes SEC(".maps");

static __always_inline void ctx_note(ctx_t *ctx, __u32 word, __u32 value)
{
	struct xdp_note *note;
	__u32 zero = 0;

	(void)ctx;
	note = bpf_map_lookup_elem(&xdp_notes, &zero);
	if (note)
		note->words[word] = value;
}

/* Makes room behind the Ethernet header, or takes it away where len is negative: the
 * header is moved, and with it the start of the frame. The flags of tc are of what a
 * frame has not.
 */
static __noinline long ctx_adjust_room(ctx_t *ctx, __s32 len, __u32 mode, __u64 flags)
{
	struct ethhdr eth;

	(void)mode;
	(void)flags;
	if (bpf_xdp_load_bytes(ctx, 0, &eth, sizeof(eth)) || bpf_xdp_adjust_head(ctx, -len))
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, &eth, sizeof(eth));
}

/* Does what bpf_l4_csum_replace of tc does to a checksum without a partial sum. Size 0:
 * `to` is a difference.
 */
static __noinline long ctx_l4_csum_replace(ctx_t *ctx, __u32 offset, __u64 from, __u64 to,
					   __u64 flags)
{
	__u64 diff = to;
	__u16 sum;

	if (bpf_xdp_load_bytes(ctx, offset, &sum, sizeof(sum)))
		return -1;
	if ((flags & BPF_F_MARK_MANGLED_0) && !sum)
		return 0;
	if (flags & BPF_F_HDR_FIELD_MASK)
		diff = (__u16)~from + (__u32)(__u16)to;
	sum = csum_apply(sum, diff);
	if ((flags & BPF_F_MARK_MANGLED_0) && !sum)
		sum = 0xffff;
	return bpf_xdp_store_bytes(ctx, offset, &sum, sizeof(sum));
}

/* Marks an IP header that takes part in ECN as having met congestion (RFC 3168 5); 0
 * where it takes none, or cannot be read.
 */
static __noinline long ctx_ecn_set_ce(ctx_t *ctx)
{
	void *ip = ctx_data(ctx) + sizeof(struct ethhdr);
	struct ipv6hdr *ip6 = ip;
	struct iphdr *ip4 = ip;
	__be16 before, after;

	if (ctx_protocol(ctx) == bpf_htons(ETH_P_IP)) {
		if ((void *)(ip4 + 1) > ctx_data_end(ctx) || !(ip4->tos & 3))
			return 0;
		before = bpf_htons(ip4->tos);
		ip4->tos |= 3;
		after = bpf_htons(ip4->tos);
		ip4->check = csum_apply(ip4->check, (__u16)~before + (__u32)after);
		return 1;
	}
	if ((void *)(ip6 + 1) > ctx_data_end(ctx) || !(ip6->flow_lbl[0] & 0x30))
		return 0;
	ip6->flow_lbl[0] |= 0x30;
	return 1;
}

/* Sends the frame back by the device that it came from, or out by another. */
static __always_inline long ctx_redirect(ctx_t *ctx, __u32 ifindex, __u64 flags)
{
	(void)flags;
	return ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(ifindex, 0);
}

/* To a pod: out by the host's side of its device. */
static __always_inline long ctx_redirect_peer(ctx_t *ctx, __u32 ifindex)
{
	return ctx_redirect(ctx, ifindex, 0);
}

/* XDP cannot ask for the next hop's MAC: the kernel does, and sends the packet on by
 * its routes.
 */
static __always_inline long ctx_redirect_neigh(ctx_t *ctx, __u32 ifindex)
{
	(void)ctx;
	(void)ifindex;
	return XDP_PASS;
}

#endif
