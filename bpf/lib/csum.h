/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CSUM_H
#define WEIR_CSUM_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

static __always_inline __u32 csum_half(__u32 sum)
{
	return (sum & 0xffff) + (sum >> 16);
}

/* The first csum_half() may leave a carry, the second adds it. */
static __always_inline __u16 csum_fold(__u32 sum)
{
	return ~csum_half(csum_half(sum));
}

/* RFC 1624, equation 3, with the difference already summed. */
static __always_inline __u16 csum_apply(__u16 check, __u32 diff)
{
	return csum_fold((__u16)~check + csum_half(diff));
}

#endif
