/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_TABLES_H
#define WEIR_TABLES_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "limits.h"

/* All tables of the datapath. Addresses are 16 bytes in network order, IPv4
 * as ::ffff:a.b.c.d; such addresses are refused in IPv6 packets, so the two
 * families never meet.
 */
struct addr {
	__be32 w[4];
};

enum family {
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

enum hook {
	HOOK_FROM_CONTAINER = 0,
	HOOK_TO_CONTAINER = 1,
	HOOK_FROM_DEVICE = 2,
	HOOK_TO_DEVICE = 3,
	HOOK_SOCKET = 4,	/* of the node's own sockets: no packet yet */
	HOOK_MAX = 16,		/* room for those to come: it is in the index of counters */
};

/* What changes while packets pass. One entry. */
struct settings {
	__u64 clock_offset;	/* ns added to the kernel's monotonic clock */
	__u32 epoch;		/* tables are written, then it is bumped */
	__u32 seed;		/* of every choice */
	__u32 events_per_second; /* a CPU; more are counted as lost */
	__u32 trace;		/* 1: an event for every packet, not only for new flows */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} control SEC(".maps");

/* Tables of pairs have two halves: a packet reads the half of its
 * epoch's last bit. The loader writes the other one everywhere, then bumps the
 * epoch: all of a new state counts at once, and a loader that dies leaves the
 * old state or the new. A half is absent where its first field says so.
 */
#define GENERATION(epoch) ((epoch) & 1)

/* The last epoch in which something that flows depend on changed, by places
 * (changes.h). They are written before the epoch is bumped.
 */
struct changes {
	__u32 places[CHANGE_PLACES];
	__u32 all;		/* what concerns all flows */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct changes);
} changed SEC(".maps");

/* What the node is. Keys of flows at its devices have ifindex 0: a flow may come
 * in by another device than it left by.
 */
struct node {
	struct addr masquerade4; /* source of what leaves the cluster; all zero: none */
	struct addr masquerade6;
	__u16 first_port;	/* host order; the range of source ports that flows are given */
	__u16 last_port;	/* 0: no range */
	__u32 mtu;		/* the least of the node's devices */
	__u32 set;		/* rule set of the node's own traffic; 0: no policy selects it */
	__u8 tunnel;		/* enum tunnel */
	__u8 pad;
	__u16 own_ports;	/* as many from first_port on: for the node's own flows alone */
};

enum tunnel {
	TUNNEL_NONE = 0,
	TUNNEL_IPIP = 1,	/* RFC 2003, RFC 2473 */
	TUNNEL_GENEVE = 2,	/* RFC 8926, IP inside */
};

struct node_pair {
	struct node half[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node_pair);
} nodes SEC(".maps");

/* Endpoints by the ifindex of their host-side device. */
struct endpoint {
	__u32 set;		/* rule set; 0: absent, nothing passes */
	__u32 identity;
	struct addr addr4;	/* all zero: none */
	struct addr addr6;
	struct addr gateway4;	/* answered by ARP */
	struct addr gateway6;	/* answered by neighbour discovery */
	struct addr hairpin4;	/* source of a pod's flow to itself; all zero: none */
	struct addr hairpin6;
	__u8 mac[6];		/* of the host's side */
	__u8 pod_mac[6];
	__u8 pad[4];
};

struct endpoint_pair {
	struct endpoint half[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDPOINTS);
	__type(key, __u32);
	__type(value, struct endpoint_pair);
} endpoints SEC(".maps");

enum ipcache_flags {
	IPCACHE_HOST = 1 << 0,	/* the node's own */
	IPCACHE_NATIVE = 1 << 1, /* of the cluster: reached without masquerading */
	IPCACHE_NODE = 1 << 2,	/* another node's */
};

/* Where nodes take packets in an outer header, by number. A node may have an address
 * of each family, whatever family is inside: all zero where it has none.
 */
struct tunnel_endpoint {
	struct addr addr4;
	struct addr addr6;
};

struct tunnel_endpoint_pair {
	struct tunnel_endpoint half[2];
};

/* No program reads it yet: direct server return has a pod's address in its outer
 * header.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TUNNEL_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct tunnel_endpoint_pair);
} tunnel_endpoints SEC(".maps");

/* What is known of an address. */
struct ipcache_entry {
	__u32 identity;
	__u32 ifindex;		/* of the local endpoint that has it, or 0 */
	__u32 tunnel_endpoint;	/* of the node behind which it is, or 0 */
	__u8 key_id;		/* of the encryption towards it */
	__u8 flags;
	__u8 pad[2];
};

struct ipcache_pair {
	struct ipcache_entry half[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IPCACHE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, struct ipcache_pair);
} ipcache SEC(".maps");

/* The same by prefix, for the slow path. The bits of an IPv4 prefix count 96 more. A
 * half that does not have a prefix repeats the next shorter one's entry there.
 */
struct cidr_key {
	__u32 bits;
	struct addr addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_IPCACHE_CIDRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct cidr_key);
	__type(value, struct ipcache_pair);
} ipcache_cidrs SEC(".maps");

/* Services by frontend. When a list of backends changes, it becomes a new set of slots.
 * An address that belongs to services alone has an entry of its own scope, with
 * protocol and port 0: what is sent there, and to no frontend, is refused.
 */
struct service_key {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 scope;		/* enum scope */
};

enum scope {
	SCOPE_INSIDE = 0,	/* from pods of this node, and from the node */
	SCOPE_OUTSIDE = 1,	/* what comes in by a device of the node's */
	SCOPE_ADDRESS = 2,	/* no frontend: an address that is of services alone */
};

enum service_flags {
	SERVICE_LOCAL = 1 << 0,	/* without a backend: dropped, not refused */
	SERVICE_SOURCES = 1 << 1, /* only for those in `sources` */
	SERVICE_DSR = 1 << 2,	/* backends elsewhere answer the client themselves */
	SERVICE_ECHO = 1 << 3,	/* of an address: it answers pings */
};

struct service {
	__u32 id;		/* kept while the frontend is there; 0: absent */
	__u32 set;		/* of slots */
	__u32 count;		/* of slots; 0: refused */
	__u32 flags;		/* enum service_flags */
	__u32 affinity;		/* s; 0: none */
	__u32 sources;		/* list of those who may send; 0: everybody */
	__u32 table;		/* first entry in `maglev` */
	__u32 table_size;	/* 0: any slot, by chance */
	__u32 group;		/* shared by all frontends of one port of a service: affinity is by group */
};

struct service_pair {
	struct service half[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SERVICES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service_pair);
} services SEC(".maps");

/* The slots of a set, eight in each row, since the loader pays by the row. What the last row
 * of a set has not is 0, which is no backend's address.
 */
struct slot_row_key {
	__u32 set;
	__u32 row;		/* of slots 0 to 7, 8 to 15, ... */
};

struct slot {
	struct addr addr;
	__be16 port;
	__u8 pad[2];
};

struct slot_row {
	struct slot slot[SLOTS_A_ROW];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOT_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot_row_key);
	__type(value, struct slot_row);
} slot_rows SEC(".maps");

/* Maglev tables, one behind the other: each entry is the index of a slot. A table is
 * never changed in place: a new one is written elsewhere.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_MAGLEV);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} maglev SEC(".maps");

/* Who may use a service that is not open to everybody. A list is never changed in
 * place.
 */
struct source_key {
	__u32 bits;		/* with the list's 32 */
	__u32 list;
	struct addr addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_SOURCES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key);
	__type(value, __u32);
} sources SEC(".maps");

/* The backend that a client's flows stay with, whichever frontend they come to. */
struct affinity_key {
	__u32 group;		/* struct service.group */
	struct addr client;
};

struct affinity {
	__u64 used;		/* when its last flow began */
	struct addr addr;
	__be16 port;
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_AFFINITIES);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

/* All backends of a service, also those that take no new flows. Service 0 has the
 * backends, of any service, that are sockets of the node itself.
 */
struct backend_key {
	__u32 service;
	struct addr addr;
	__be16 port;
	__u8 proto;		/* of service 0 */
	__u8 pad;
};

enum backend_state {
	BACKEND_ABSENT = 0,
	BACKEND_SERVING = 1,
	BACKEND_TERMINATING = 2,	/* keeps its TCP flows, gets no new ones */
};

/* Each backend is also there under port 0: a tunnel's packet names it by address. */
struct backend {
	__u32 state;
	__be16 port;
	__u8 pad[2];
};

struct backend_pair {
	struct backend half[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BACKENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, struct backend_pair);
} backends SEC(".maps");

/* The peers of the node's own sockets: the kernel knows the backend, and the process
 * knows the frontend. The cookie of a socket is never given to another.
 */
struct peer_key {
	__u64 socket;		/* its cookie */
	struct addr addr;
	__be16 port;
	__u8 way;		/* enum peer_way */
	__u8 pad[5];
};

enum peer_way {
	PEER_FRONTEND = 0,		/* a backend: the frontend that the process knows it by */
	PEER_BACKEND = 1,		/* a frontend: the backend that datagrams are led to */
};

struct peer {
	struct addr addr;
	__be16 port;
	__u8 pad[2];
	__u32 service;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PEERS);
	__type(key, struct peer_key);
	__type(value, struct peer);
} peers SEC(".maps");

/* Rules of policy. A shorter prefix leaves out bits of the port, then the whole port,
 * then the protocol. Where rules of one peer overlap, the loader has written the rule
 * that decides into the more specific entry.
 */
struct rule_key {
	__u32 bits;
	__u32 set;
	__u32 peer;		/* identity; 0: any */
	__u8 direction;		/* enum direction */
	__u8 proto;
	__be16 port;		/* of ICMP: the type */
};

enum direction {
	DIRECTION_INGRESS = 0,
	DIRECTION_EGRESS = 1,
};

#define RULE_BITS_EXACT	96

enum rule_action {
	RULE_ALLOW = 0,
	RULE_DENY = 1,
	RULE_AUDIT = 2,		/* would be a denial: let through, and told */
	RULE_REFUSE = 3,	/* a denial with an answer to the sender; has the bit of RULE_DENY */
	RULE_REDIRECT = 4,	/* to rule.proxy_port; programs without a proxy drop it */
};

struct rule {
	__u32 precedence;	/* the higher decides */
	__u32 origin;		/* number of a policy's rule, whose name the loader knows */
	__u16 action;		/* enum rule_action */
	__be16 proxy_port;	/* of RULE_REDIRECT; else 0 */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct rule_key);
	__type(value, struct rule);
} rules SEC(".maps");

/* A flow has two entries: one under the tuple of its opening packets, at the hook that
 * sees them, and one under the tuple of the replies, at theirs. Each is written by
 * packets of its own direction only. Hook and device are in the key, so that a spoofed
 * packet never matches another's entry.
 */
struct flow_key {
	struct addr src;
	struct addr dst;
	__be16 sport;		/* of an ICMP echo request: the identifier */
	__be16 dport;		/* of an ICMP echo reply: the identifier */
	__u8 proto;
	__u8 family;		/* enum family */
	__u8 hook;		/* enum hook */
	__u8 pad;
	__u32 ifindex;
};

enum flow_flags {
	FLOW_REPLY = 1 << 0,	/* the reply direction */
	FLOW_ANSWERED = 1 << 1,	/* packets of both directions were seen */
	FLOW_TRANSLATED = 1 << 2,
	FLOW_HAIRPIN = 1 << 3,	/* from a pod to itself: no policy is asked */
	FLOW_DEAD = 1 << 4,	/* expired: not a flow any more, deleted soon */
	FLOW_SOURCE = 1 << 5,	/* its source is translated, and has a port of its own */
	FLOW_ACKED = 1 << 6,	/* flow.acked is set */
	FLOW_HERE = 1 << 7,	/* at a pod's device: the node's own stack sends the packets */
};

enum flow_seen {
	SEEN_FIN = 1 << 0,
	SEEN_SYN = 1 << 1,
	SEEN_RST = 1 << 2,
	SEEN_ACK = 1 << 4,	/* these are the bits of the TCP header */
};

struct flow {
	__u64 last_seen;	/* ns, of the datapath's clock; exact to TOUCH_EVERY */
	__u64 routed;		/* when the device was last asked for */
	__u32 epoch;
	__u32 ifindex;		/* way out */
	__u32 service;		/* struct service.id, or 0 */
	__u32 origin;		/* of the rule that let it through */
	struct addr src;	/* the tuple as packets leave */
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u32 addr_diff;	/* of the addresses, for checksums */
	__u32 port_diff;
	__u32 other_ifindex;	/* the other direction's key: its device */
	__u8 other_hook;	/* and its hook */
	__u8 out;		/* enum out */
	__u8 flags;
	__u8 seen;		/* TCP flags of this direction, ever */
	__u8 smac[6];		/* for a local pod */
	__u8 dmac[6];
	__be32 sent;		/* of TCP, once a SYN or ACK was seen: the last sequence number */
	__be32 acked;		/* and acknowledgement number: where the other side goes on */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CT_ANSWERED);
	__type(key, struct flow_key);
	__type(value, struct flow);
} ct_answered SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CT_UNANSWERED);
	__type(key, struct flow_key);
	__type(value, struct flow);
} ct_unanswered SEC(".maps");

/* Entries of `ct_answered` by the device of the pod that opened the flow. Programs add
 * to it, the collector counts it anew.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} ct_answered_by SEC(".maps");

/* The ports of fragmented packets, from their first fragments. In a full table the
 * entry that was longest unused makes room, and later fragments of its packet are
 * dropped.
 */
struct fragment_key {
	struct addr src;
	struct addr dst;
	__u32 id;
	__u32 ifindex;
	__u8 hook;
	__u8 family;
	__u8 proto;		/* of IPv4; 0 for IPv6 */
	__u8 pad;
};

struct fragment_ports {
	__u64 seen;		/* when the first fragment came */
	__u32 header_end;	/* no later fragment may begin before it */
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 icmp_type;
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
} fragments SEC(".maps");

/* What endpoints have opened in the tables above, as rings: lib/share.h. */
enum share_kind {
	SHARE_FLOWS = 0,
	SHARE_FRAGMENTS = 1,
	SHARE_REFUSALS = 2,	/* one slot: its next is a time, lib/refuse.h */
};

struct share_key {
	__u32 ifindex;
	__u32 slot;
	__u8 hook;
	__u8 of;		/* enum turn_of */
	__u8 pad[2];
};

struct share_slot {
	__u32 next;
	union {
		struct flow_key flow;
		struct fragment_key fragment;
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SHARES);
	__type(key, struct share_key);
	__type(value, struct share_slot);
} shares SEC(".maps");

#endif
