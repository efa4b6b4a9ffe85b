/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_LIMITS_H
#define WEIR_LIMITS_H

/* Sizes of tables where the loader does not say otherwise. Go gets them from
 * the objects, so that they stand here only.
 */
#define MAX_ENDPOINTS		4096
#define MAX_IPCACHE		65536
#define MAX_IPCACHE_CIDRS		16384
#define MAX_TUNNEL_ENDPOINTS	8192	/* one a node: Kubernetes has 5,000 at most */
#define MAX_SERVICES		65536
#define MAX_SLOT_ROWS		262144
#define MAX_BACKENDS		262144
#define MAX_MAGLEV		2097152	/* entries of all tables */
#define MAX_SOURCES		65536
#define MAX_AFFINITIES		65536
#define MAX_PEERS		65536	/* of the node's own sockets; two a datagram socket's */
#define MAX_RULES		262144
#define MAX_CT_ANSWERED		131072	/* entries: two a flow */
#define MAX_CT_UNANSWERED		65536
#define MAX_FRAGMENTS		8192
#define MAX_SHARES		32768	/* of all endpoints that open much */
#define CHANGE_PLACES		65536	/* of what flows depend on: 2^(64 - PLACE_SHIFT) */
#define EVENT_RING_BYTES	(1 << 20)

#define SLOTS_A_ROW		8

#define MAX_EXTENSIONS		6	/* IPv6 extension headers that are walked */
#define MAX_PORT_PROBES		48	/* source ports tried for a translation */
#define PORT_GROUP		4	/* ports towards one peer of which a pod has one */

/* How far a FIN or RST may be from what its receiver has acknowledged to end a
 * flow: more than a super-packet of half a MiB, and 1 of 2,048 sequence numbers.
 */
#define WINDOW_ENDS		(1U << 20)
/* How far it may be from that, or from what its own side has last sent, to pass: as
 * much as is in flight on a fast and far link.
 */
#define WINDOW_PASSES		(16U << 20)

#define SECOND			1000000000ULL

#define FRAGMENT_PATIENCE	(30 * SECOND)	/* the kernel's own, net.ipv4.ipfrag_time */
#define ROUTE_CACHE		(1 * SECOND)	/* trust in a route's device */
#define TOUCH_EVERY		(1 * SECOND)	/* grain of a flow's last_seen */

#endif
