/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_PLACE_H
#define WEIR_PLACE_H

/* Where in this source something was decided. Each file that decides defines
 * THIS_FILE after its includes. The names are the files' own, with the dot
 * and the folder's slash as underscores.
 */
enum source_file {
	FILE_NONE = 0,
	FILE_CONTAINER_BPF_C = 1,
	FILE_PACKET_H = 2,
	FILE_CONNTRACK_H = 3,
	FILE_NEIGHBOUR_H = 4,
	FILE_REFUSE_H = 5,
	FILE_ROUTE_H = 6,
	FILE_SERVICE_H = 7,
	FILE_POLICY_H = 8,
	FILE_REWRITE_H = 9,
	FILE_JUDGE_H = 10,
	FILE_ICMP_ERROR_H = 11,
	FILE_HOST_BPF_C = 12,
	FILE_FORWARD_H = 13,
	FILE_NAT_H = 14,
	FILE_UPLINK_H = 15,
	FILE_POD_H = 16,
	FILE_TUNNEL_H = 17,
	FILE_SOCKET_BPF_C = 18,
	FILE_LB_H = 19,
	FILE_SOURCE_H = 20,
	FILE_XDP_BPF_C = 21,
};

/* A macro, since a function would know its own line only. */
#define HERE (((__u32)THIS_FILE << 16) | __LINE__)

/* REFUSE notes the place of a decision against a packet, and is the reason. */
#define REFUSE(pkt, reason) ((pkt)->where = HERE, (int)(reason))

#endif
