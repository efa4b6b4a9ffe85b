//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The hooks of the node's own sockets, in a cgroup.
 *
 *	process --connect, sendmsg----> frontend becomes backend
 *		<--recvmsg, getpeername-- backend becomes frontend
 *
 * What a process of the node sends to a frontend is led to its backend before
 * there is a packet: so it reaches the node itself too, and costs nothing
 * afterwards. Sockets of other network namespaces are pods', and are left
 * alone: their packets are judged where they leave the pod.
 */

#define OBJECT_HOOKS (1 << HOOK_SOCKET)

#include "lib/clock.h"
#include "lib/service.h"

/* The node's network namespace, by its cookie; 0: none yet. It is no constant, so that
 * programs that are loaded can be given another.
 */
volatile __u64 node_netns;

/* Whether the kernel has bpf_set_retval for these hooks (6.1, dea6a4e17013). Older
 * kernels give EPERM and no other error.
 */
volatile const __u32 set_retval;

#define PROCEED	1
#define REFUSED	0

/* Of asm-generic/errno.h, which all but a few architectures have. */
#define ECONNREFUSED	111
#define EHOSTUNREACH	113

static __always_inline void sock_addr_get(const struct bpf_sock_addr *ctx, __u8 family,
					  struct addr *addr)
{
	if (family == FAMILY_IPV4) {
		addr_from4(addr, ctx->user_ip4);
		return;
	}
	addr->w[0] = ctx->user_ip6[0];
	addr->w[1] = ctx->user_ip6[1];
	addr->w[2] = ctx->user_ip6[2];
	addr->w[3] = ctx->user_ip6[3];
}

static __always_inline void sock_addr_set(struct bpf_sock_addr *ctx, __u8 family,
					  const struct addr *addr, __be16 port)
{
	ctx->user_port = port;
	if (family == FAMILY_IPV4) {
		ctx->user_ip4 = addr->w[3];
		return;
	}
	ctx->user_ip6[0] = addr->w[0];
	ctx->user_ip6[1] = addr->w[1];
	ctx->user_ip6[2] = addr->w[2];
	ctx->user_ip6[3] = addr->w[3];
}

static __always_inline int in_node_netns(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == node_netns;
}

/* Describes a connect or send as a packet. A socket has no source address yet: loopback
 * stands for all sockets of the node, which are one client, and the socket's cookie for
 * the port. The family is that of the destination: an IPv6 socket that sends to an
 * IPv4-mapped address sends IPv4.
 */
static __always_inline void socket_packet_init(struct bpf_sock_addr *ctx, __u8 family, __u64 socket,
					       struct packet *pkt)
{
	sock_addr_get(ctx, family, &pkt->key.dst);
	if (addr_mapped(&pkt->key.dst))
		addr_from4(&pkt->key.src, bpf_htonl(0x7f000001));
	else
		pkt->key.src.w[3] = bpf_htonl(1);
	pkt->key.sport = socket ^ (socket >> 16);
	pkt->key.dport = ctx->user_port;
	pkt->key.hook = HOOK_SOCKET;
}

/* The protocol of services that a socket uses; 0: none. Without a connect it is UDP:
 * sockets of other protocols send nothing to services then.
 */
static __always_inline __u8 socket_proto(const struct bpf_sock_addr *ctx, int connects)
{
	__u32 protocol = ctx->protocol;

	if (protocol == IPPROTO_UDP)
		return IPPROTO_UDP;
	if (connects && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP))
		return IPPROTO_TCP;
	return 0;
}

/* The backend that the socket's datagrams to this frontend went to, if it still serves
 * the service that has the frontend now.
 */
static __always_inline int peer_backend_kept(struct packet *pkt, const struct peer_key *frontend,
					     __u32 service, struct peer *to)
{
	struct peer *led = bpf_map_lookup_elem(&peers, frontend);

	if (!led || backend_lookup(pkt, service, &led->addr, led->port) != BACKEND_SERVING)
		return 0;
	to->addr = led->addr;
	to->port = led->port;
	return 1;
}

/* Chooses the backend for a socket. Datagrams of an unconnected socket keep the backend
 * that they had: frontend is their key in peers, NULL for a connect.
 */
static __noinline int peer_select_backend(struct packet *pkt, const struct service *service,
					  const struct peer_key *frontend, struct peer *to,
					  const struct settings *ctl)
{
	int reason;

	to->service = service->id;
	if (frontend && peer_backend_kept(pkt, frontend, service->id, to))
		return REASON_NONE;
	if (service->affinity)
		pkt->now = now(ctl);
	reason = lb_select_backend(pkt, service, ctl->seed, &to->addr, &to->port);
	if (reason)
		return reason;
	if (service->affinity)
		affinity_update(pkt, service->group, &to->addr, to->port);
	if (frontend)
		bpf_map_update_elem(&peers, frontend, to, BPF_ANY);
	return REASON_NONE;
}

/* Remembers the frontend as the peer that the process knows. A socket that sends many
 * datagrams has mostly an entry already, and to read costs less than to write; a socket
 * that connects has none. The service is read for connected sockets only.
 */
static __always_inline void peer_commit(const struct packet *pkt, __u64 socket, int connects,
					const struct peer *to)
{
	struct peer_key backend = {
		.socket = socket,
		.addr = to->addr,
		.port = to->port,
		.way = PEER_FRONTEND,
	};
	struct peer frontend = {
		.addr = pkt->key.dst,
		.port = pkt->key.dport,
		.service = to->service,
	};
	struct peer *noted;

	noted = connects ? NULL : bpf_map_lookup_elem(&peers, &backend);
	if (noted && noted->port == frontend.port && addr_equal(&noted->addr, &frontend.addr))
		return;
	bpf_map_update_elem(&peers, &backend, &frontend, BPF_ANY);
}

/* Forgets the frontend of a backend that the socket now uses by its own address. */
static __always_inline void peer_forget(const struct packet *pkt, __u64 socket)
{
	struct peer_key key = {
		.socket = socket,
		.addr = pkt->key.dst,
		.port = pkt->key.dport,
		.way = PEER_FRONTEND,
	};

	if (bpf_map_lookup_elem(&peers, &key))
		bpf_map_delete_elem(&peers, &key);
}

static __noinline int socket_refuse(struct packet *pkt, const struct settings *ctl, int reason)
{
	pkt->now = now(ctl);
	pkt->key.sport = 0;
	pkt->src_identity = 1;
	count_packet(pkt, 0, reason);
	event_write(pkt, NULL, 0, EVENT_DROP, VERDICT_DROP, reason);
	if (set_retval)
		bpf_set_retval(reason == REASON_NO_LOCAL_BACKEND ? -EHOSTUNREACH : -ECONNREFUSED);
	return REFUSED;
}

/* Leads a connect or send to a backend. Unlike programs of packets, these may be
 * interrupted for long: what they have read may be deleted meanwhile. So where a choice
 * fails under an old epoch, it is made again.
 */
static __always_inline int socket_translate(struct bpf_sock_addr *ctx, __u8 family, int connects)
{
	struct peer_key frontend = { .way = PEER_BACKEND };
	struct packet pkt = {};
	struct peer to = {};
	struct service *service;
	struct settings *ctl;
	int tries, reason;
	__u32 zero = 0;

	pkt.key.proto = socket_proto(ctx, connects);
	if (!pkt.key.proto || !in_node_netns(ctx))
		return PROCEED;
	ctl = bpf_map_lookup_elem(&control, &zero);
	/* Arrays have all their elements: this is for the verifier. */
	if (!ctl)
		return PROCEED;
	frontend.socket = bpf_get_socket_cookie(ctx);
	socket_packet_init(ctx, family, frontend.socket, &pkt);
	frontend.addr = pkt.key.dst;
	frontend.port = pkt.key.dport;
	for (tries = 0; tries < 3; tries++) {
		pkt.epoch = *(volatile __u32 *)&ctl->epoch;
		service = service_lookup(&pkt, SCOPE_INSIDE);
		reason = REASON_NONE;
		to.service = 0;
		if (!service)
			break;
		reason = peer_select_backend(&pkt, service, connects ? NULL : &frontend, &to, ctl);
		if (!reason || *(volatile __u32 *)&ctl->epoch == pkt.epoch)
			break;
	}
	if (reason)
		return socket_refuse(&pkt, ctl, reason);
	if (!to.service) {
		/* What an IPv6 socket sends to the IPv4 peer that it is connected
		 * to comes here too, with that peer: net/ipv6/udp.c names it.
		 */
		if (connects || ctx->sk->state != BPF_TCP_ESTABLISHED)
			peer_forget(&pkt, frontend.socket);
		return PROCEED;
	}
	peer_commit(&pkt, frontend.socket, connects, &to);
	sock_addr_set(ctx, family, &to.addr, to.port);
	return PROCEED;
}

/* Shows the frontend in the place of the backend. */
static __always_inline int socket_reverse(struct bpf_sock_addr *ctx, __u8 family)
{
	struct peer_key key = { .way = PEER_FRONTEND };
	struct peer *peer;

	if (!in_node_netns(ctx))
		return PROCEED;
	key.socket = bpf_get_socket_cookie(ctx);
	sock_addr_get(ctx, family, &key.addr);
	key.port = ctx->user_port;
	peer = bpf_map_lookup_elem(&peers, &key);
	if (peer)
		sock_addr_set(ctx, family, &peer->addr, peer->port);
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return socket_translate(ctx, FAMILY_IPV4, 1);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return socket_translate(ctx, FAMILY_IPV6, 1);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return socket_translate(ctx, FAMILY_IPV4, 0);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return socket_translate(ctx, FAMILY_IPV6, 0);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return socket_reverse(ctx, FAMILY_IPV4);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return socket_reverse(ctx, FAMILY_IPV6);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return socket_reverse(ctx, FAMILY_IPV4);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return socket_reverse(ctx, FAMILY_IPV6);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
