/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_MARK_H
#define WEIR_MARK_H

#include <linux/types.h>

/* The bits of skb->mark that are Weir's. kube-proxy uses 0x4000 and 0x8000,
 * administrators mostly the low byte.
 */
#define MARK_MASK	0x0f000000
#define MARK_DECIDED	0x01000000	/* a pod's hook has judged it: pass */
#define MARK_ANSWER	0x02000000	/* made by the datapath for that pod */

static inline __u32 mark_with(__u32 mark, __u32 value)
{
	return (mark & ~MARK_MASK) | value;
}

#endif
