/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_CTX_H
#define WEIR_CTX_H

/* What a program is given of a packet: struct __sk_buff in tc, struct xdp_md in XDP.
 * Headers say ctx_t and ctx_*, and so serve both. An object of XDP programs defines
 * OBJECT_XDP before it includes anything.
 *
 * Most are macros and not functions: the line of who calls is in the programs, for
 * coverage and for planted errors.
 */
#ifdef OBJECT_XDP
#include "ctx_xdp.h"
#else
#include "ctx_skb.h"
#endif

#endif
