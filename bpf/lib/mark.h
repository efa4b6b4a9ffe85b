/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_MARK_H
#define WEIR_MARK_H

#include <linux/types.h>

/* The bits of skb->mark that are Weir's. kube-proxy uses 0x4000 and 0x8000,
 * administrators mostly the low byte.
 */
enum mark {
	MARK_DECIDED = 0x01000000,	/* a hook has judged it: it may leave */
	MARK_ANSWER = 0x02000000,	/* made by the datapath for who sent it */
	MARK_DELIVERED = 0x03000000,	/* judged for the very pod that it is led to */
	MARK_MASK = 0x0f000000,
};

static inline __u32 mark_with(__u32 mark, __u32 value)
{
	return (mark & ~MARK_MASK) | value;
}

#endif
