/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CTX_SKB_H
#define WEIR_CTX_SKB_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* The context of tc programs: see lib/ctx.h. */

typedef struct __sk_buff ctx_t;

#define CTX_PASS	TC_ACT_OK
#define CTX_DROP	TC_ACT_SHOT

#define ctx_len(ctx) ((ctx)->len)
#define ctx_protocol(ctx) ((ctx)->protocol)
#define ctx_has_vlan(ctx) ((ctx)->vlan_present)
#define ctx_gso_size(ctx) ((ctx)->gso_size)
#define ctx_ifindex(ctx) ((ctx)->ifindex)
#define ctx_ingress_ifindex(ctx) ((ctx)->ingress_ifindex)
#define ctx_mark(ctx) ((ctx)->mark)
#define ctx_set_mark(ctx, value) ((ctx)->mark = (value))
#define ctx_note(ctx, word, value) ((ctx)->cb[word] = (value))

#define ctx_pull			bpf_skb_pull_data
#define ctx_load_bytes			bpf_skb_load_bytes
#define ctx_store_bytes			bpf_skb_store_bytes
#define ctx_change_tail			bpf_skb_change_tail
#define ctx_adjust_room			bpf_skb_adjust_room
#define ctx_l4_csum_replace		bpf_l4_csum_replace
#define ctx_csum_update			bpf_csum_update
#define ctx_ecn_set_ce			bpf_skb_ecn_set_ce

#define ctx_redirect(ctx, ifindex, flags) bpf_redirect(ifindex, flags)
#define ctx_redirect_peer(ctx, ifindex) bpf_redirect_peer(ifindex, 0)
#define ctx_redirect_neigh(ctx, ifindex) bpf_redirect_neigh(ifindex, NULL, 0, 0)

static __always_inline void *ctx_data(ctx_t *ctx)
{
	return (void *)(long)ctx->data;
}

static __always_inline void *ctx_data_end(ctx_t *ctx)
{
	return (void *)(long)ctx->data_end;
}

#endif
