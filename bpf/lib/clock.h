/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CLOCK_H
#define WEIR_CLOCK_H

#include "tables.h"

/* The coarse clock (kernel 5.11, d055126180564) costs a load only. The loader says
 * whether the kernel has it, and the verifier removes the other branch.
 */
volatile const __u32 coarse_clock;

static __always_inline __u64 now(const struct settings *ctl)
{
	__u64 ns = coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();

	return ns + ctl->clock_offset;
}

#endif
