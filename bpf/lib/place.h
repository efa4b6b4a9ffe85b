/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_PLACE_H
#define WEIR_PLACE_H

/* Where in this source something was decided. The names are the files' own, with the
 * dot and the folder's slash as underscores, and the compiler's word for each.
 */
#define SOURCE_FILES(FILE)                          \
	FILE(1, CONTAINER_BPF_C, "container.bpf.c") \
	FILE(2, PACKET_H, "packet.h")               \
	FILE(3, CONNTRACK_H, "conntrack.h")         \
	FILE(4, NEIGHBOUR_H, "neighbour.h")         \
	FILE(5, REFUSE_H, "refuse.h")               \
	FILE(6, ROUTE_H, "route.h")                 \
	FILE(7, SERVICE_H, "service.h")             \
	FILE(8, POLICY_H, "policy.h")               \
	FILE(9, REWRITE_H, "rewrite.h")             \
	FILE(10, JUDGE_H, "judge.h")                \
	FILE(11, ICMP_ERROR_H, "icmp_error.h")      \
	FILE(12, HOST_BPF_C, "host.bpf.c")          \
	FILE(13, FORWARD_H, "forward.h")            \
	FILE(14, NAT_H, "nat.h")                    \
	FILE(15, UPLINK_H, "uplink.h")              \
	FILE(16, POD_H, "pod.h")                    \
	FILE(17, TUNNEL_H, "tunnel.h")              \
	FILE(18, SOCKET_BPF_C, "socket.bpf.c")      \
	FILE(19, LB_H, "lb.h")                      \
	FILE(20, SOURCE_H, "source.h")              \
	FILE(21, XDP_BPF_C, "xdp.bpf.c")

#define SOURCE_FILE_NUMBER(number, id, name) FILE_##id = (number),
enum source_file {
	FILE_NONE = 0,
	SOURCE_FILES(SOURCE_FILE_NUMBER)
};

/* The file in which the macro HERE is written: the compiler settles it, and refuses a
 * file that is not in the list.
 */
#define SOURCE_FILE_IS(number, id, name) __builtin_strcmp(__FILE_NAME__, name) == 0 ? FILE_##id:
#define SOURCE_FILE (SOURCE_FILES(SOURCE_FILE_IS) FILE_NONE)
#define IS_LISTED sizeof(char[SOURCE_FILE ? 1 : -1])

/* A macro, since a function would know its own line only. */
#define HERE (((__u32)(IS_LISTED * SOURCE_FILE) << 16) | __LINE__)

/* REFUSE notes the place of a decision against a packet, and is the reason. */
#define REFUSE(pkt, reason) ((pkt)->where = HERE, (int)(reason))

#endif
