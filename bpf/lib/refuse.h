/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_REFUSE_H
#define WEIR_REFUSE_H

#include "verdict.h"
#include "rewrite.h"
#include "service.h"
#include "share.h"

/* Refuses a packet from the address that it was sent to: TCP by a reset (RFC
 * 9293 3.10.7.1), UDP by ICMP port unreachable (RFC 792, RFC 4443 3.1). Not
 * TCP by ICMP: a socket that is busy connecting ignores that, and asks again
 * after a second. A ping is answered instead. What a policy denies, and has
 * refused, gets a reset too, and all but TCP that communication with its
 * destination is administratively prohibited (RFC 1812 5.2.7.1, RFC 4443 3.1).
 * Packets with IP options or extension headers, and fragments, are dropped without
 * an answer, and so is what a link has carried to many (RFC 1122 3.2.2).
 *
 * None of this notes a place: that is where the packet was denied. What is given is
 * other than 0 where no answer was made.
 */
#define REFUSE_TTL	64

static __always_inline void eth_swap(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

/* Cuts the packet to its quote, makes room for the headers before it, and turns it back
 * to where it came from. The kernel cuts no checksum off that it still has to make, and
 * a packet that it has cut is no super-packet.
 */
static __always_inline int refuse_room(ctx_t *ctx, __u32 quote, __u32 headers)
{
	struct ethhdr *eth;

	if (ctx_change_tail(ctx, ETH_LEN + quote, 0) ||
	    ctx_adjust_room(ctx, headers, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	eth = ctx_data(ctx);
	if ((void *)(eth + 1) > ctx_data_end(ctx))
		return -1;
	eth_swap(eth);
	return 0;
}

/* How much is quoted behind the IP header at most, and at least. parse() has read it. */
#define QUOTE_MAX	sizeof(struct tcphdr)
#define QUOTE_MIN	sizeof(struct udphdr)

/* One function for all errors, whatever they quote behind the IP header. */
static __noinline int refuse_ipv4(ctx_t *ctx, struct packet *pkt,
				  __u8 code, __u32 mtu, __u32 behind)
{
	__u8 quoted[sizeof(struct iphdr) + QUOTE_MAX];
	__u32 quote = sizeof(struct iphdr) + behind;
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} made = {
		.ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(sizeof(made) + quote),
			.ttl = REFUSE_TTL,
			.protocol = IPPROTO_ICMP,
			.saddr = pkt->key.dst.w[3],
			.daddr = pkt->key.src.w[3],
		},
		.icmp = {
			.type = ICMP_DEST_UNREACH,
			.code = code,
			.sequence = bpf_htons(mtu),
		},
	};
	__s64 sum;

	__builtin_memset(quoted + sizeof(struct iphdr) + QUOTE_MIN, 0, QUOTE_MAX - QUOTE_MIN);
	ctx_load_bytes(ctx, ETH_LEN, quoted, quote);
	if (refuse_room(ctx, quote, sizeof(made)))
		return -1;
	sum = bpf_csum_diff(NULL, 0, (void *)&made.ip, sizeof(made.ip), 0);
	made.ip.check = csum_fold((__u32)sum);
	sum = bpf_csum_diff(NULL, 0, (void *)&made.icmp, sizeof(made.icmp), 0);
	sum = bpf_csum_diff(NULL, 0, (void *)quoted, sizeof(quoted), sum);
	made.icmp.checksum = csum_fold((__u32)sum);
	/* The device's sum then covers the quote; the IPv4 header adds 0 to it. */
	ctx_csum_update(ctx, bpf_csum_diff(NULL, 0, (void *)&made.icmp, sizeof(made.icmp), 0));
	ctx_store_bytes(ctx, ETH_LEN, &made, sizeof(made), 0); /* there is room */
	return 0;
}

struct pseudo6 {
	struct addr src;
	struct addr dst;
	__be32 len;
	__be32 next;
};

static __noinline int refuse_ipv6(ctx_t *ctx, struct packet *pkt,
				  __u16 message, __u32 mtu, __u32 behind)
{
	__u8 quoted[sizeof(struct ipv6hdr) + QUOTE_MAX];
	__u32 quote = sizeof(struct ipv6hdr) + behind;
	struct {
		__be32 version;
		__be16 payload_len;
		__u8 nexthdr;
		__u8 hop_limit;
		struct addr src;
		struct addr dst;
		struct icmp6hdr icmp;
	} made = {
		.version = bpf_htonl(6U << 28),
		.payload_len = bpf_htons(sizeof(made.icmp) + quote),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = REFUSE_TTL,
		.src = pkt->key.dst,
		.dst = pkt->key.src,
		.icmp = {
			.icmp6_type = message >> 8,
			.icmp6_code = message,
			.icmp6_mtu = bpf_htonl(mtu),
		},
	};
	struct pseudo6 pseudo = {
		.src = pkt->key.dst,
		.dst = pkt->key.src,
		.len = bpf_htonl(sizeof(made.icmp) + quote),
		.next = bpf_htonl(IPPROTO_ICMPV6),
	};
	__s64 sum;

	__builtin_memset(quoted + sizeof(struct ipv6hdr) + QUOTE_MIN, 0, QUOTE_MAX - QUOTE_MIN);
	ctx_load_bytes(ctx, ETH_LEN, quoted, quote);
	if (refuse_room(ctx, quote, sizeof(made)))
		return -1;
	sum = bpf_csum_diff(NULL, 0, (void *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (void *)&made.icmp, sizeof(made.icmp), sum);
	sum = bpf_csum_diff(NULL, 0, (void *)quoted, sizeof(quoted), sum);
	made.icmp.icmp6_cksum = csum_fold((__u32)sum);
	ctx_csum_update(ctx, bpf_csum_diff(NULL, 0, (void *)&made, sizeof(made), 0));
	ctx_store_bytes(ctx, ETH_LEN, &made, sizeof(made), 0); /* there is room */
	return 0;
}

/* Whether the kernel has still to make the packet's checksum: then it leaves the field
 * as it is for a change outside of the pseudo header, and else it does not.
 */
static __always_inline int csum_partial(ctx_t *ctx, __u32 offset)
{
	__u16 before, after;

	/* parse() has read it. */
	ctx_load_bytes(ctx, offset, &before, sizeof(before));
	if (ctx_l4_csum_replace(ctx, offset, 0, bpf_htons(1), 0))
		return 0;
	ctx_load_bytes(ctx, offset, &after, sizeof(after));
	if (before == after)
		return 1;
	ctx_store_bytes(ctx, offset, &before, sizeof(before), 0);
	return 0;
}

/* The reset of a segment, behind the pseudo header that is summed with it. */
struct reset {
	struct addr src;
	struct addr dst;
	__be32 len;
	__be32 next;
	struct tcphdr tcp;
};

static __always_inline void reset_answer(struct reset *made, const struct tcphdr *to, __u32 len)
{
	__u32 end = bpf_ntohl(to->seq) + len - to->doff * 4 + to->syn + to->fin;

	made->tcp.source = to->dest;
	made->tcp.dest = to->source;
	made->tcp.doff = sizeof(made->tcp) / 4;
	made->tcp.rst = 1;
	if (to->ack) {
		made->tcp.seq = to->ack_seq;
	} else {
		made->tcp.ack = 1;
		made->tcp.ack_seq = bpf_htonl(end);
	}
}

/* Turns a packet without IP options round: swaps its addresses and MACs, and sets the
 * length behind its IP header.
 */
static __noinline int reverse_packet(ctx_t *ctx, struct packet *pkt, __u32 len)
{
	struct ethhdr *eth = ctx_data(ctx);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	struct iphdr *ip = (void *)(eth + 1);
	__s64 before;

	if (pkt->key.family == FAMILY_IPV4) {
		if ((void *)(ip + 1) > ctx_data_end(ctx))
			return -1;
		before = bpf_csum_diff((void *)ip, sizeof(*ip), NULL, 0, 0);
		ip->tot_len = bpf_htons(sizeof(*ip) + len);
		ip->ttl = REFUSE_TTL;
		ip->saddr = pkt->key.dst.w[3];
		ip->daddr = pkt->key.src.w[3];
		ip->check = 0;
		ip->check = csum_fold((__u32)bpf_csum_diff(NULL, 0, (void *)ip, sizeof(*ip), 0));
		ctx_csum_update(ctx, before);
	} else {
		if ((void *)(ip6 + 1) > ctx_data_end(ctx))
			return -1;
		before = bpf_csum_diff((void *)ip6, sizeof(*ip6), NULL, 0, 0);
		ip6->payload_len = bpf_htons(len);
		ip6->hop_limit = REFUSE_TTL;
		__builtin_memcpy(&ip6->saddr, &pkt->key.dst, sizeof(pkt->key.dst));
		__builtin_memcpy(&ip6->daddr, &pkt->key.src, sizeof(pkt->key.src));
		ctx_csum_update(ctx, bpf_csum_diff(NULL, 0, (void *)ip6, sizeof(*ip6), before));
	}
	eth_swap(eth);
	return 0;
}

/* How much of the time, in ms, a refusal takes, and how far ahead of time the refusals
 * of one hook and endpoint may be: 1,000 a second, and as many at once.
 */
volatile const __u32 refusal_takes = 1;
volatile const __u32 refusal_ahead = 1000;

/* Whether an endpoint's packet may be refused at a time in ms; else it is dropped
 * without an answer (RFC 4443 2.4 f; RFC 1812 4.3.2.8). Where `ahead` is larger than it
 * can be, the time of the last refusal is over. Without a lock, as in share.h. Global,
 * so that the verifier checks it once.
 */
__noinline int refusal_allowed(__u32 ifindex, __u32 hook, __u32 ms)
{
	struct share_key at = { .ifindex = ifindex, .hook = hook, .of = SHARE_REFUSALS };
	struct share_slot first = { .next = ms + refusal_takes };
	struct share_slot *last;
	__u32 ahead;

	last = bpf_map_lookup_elem(&shares, &at);
	if (!last) {
		bpf_map_update_elem(&shares, &at, &first, BPF_ANY);
		return 1;
	}
	ahead = last->next - ms;
	if (ahead > refusal_ahead)
		ahead = 0;
	if (ahead + refusal_takes > refusal_ahead)
		return 0;
	last->next = ms + ahead + refusal_takes;
	return 1;
}

static __always_inline int may_refuse(const struct packet *pkt)
{
	return refusal_allowed(pkt->key.ifindex, pkt->key.hook, pkt->now / 1000000);
}

/* Makes a segment its reset. Its checksum is first that of the pseudo header alone,
 * which is all that is needed where the kernel makes the rest. Then the rest is added,
 * with the pseudo header twice: once for itself, and once because the field held its
 * complement. The kernel leaves this out where it makes the rest. A device's sum of the
 * whole packet has the first change already, and is told of the second.
 */
static __noinline int refuse_tcp(ctx_t *ctx, struct packet *pkt)
{
	struct reset made = {
		.src = pkt->key.dst,
		.dst = pkt->key.src,
		.len = bpf_htonl(sizeof(struct tcphdr)),
		.next = bpf_htonl(IPPROTO_TCP),
	};
	__u32 len = pkt->l4_off + sizeof(made.tcp);
	struct tcphdr to;
	__s64 sum;

	/* A reset is not answered: RFC 9293 3.5.2. */
	if ((pkt->tcp_flags & TCP_FLAG_RST) || !may_refuse(pkt))
		return -1;
	ctx_load_bytes(ctx, pkt->l4_off, &to, sizeof(to)); /* parse() has read it */
	reset_answer(&made, &to, pkt->l4_len);
	if (ctx_change_tail(ctx, len, 0))
		return -1;
	sum = bpf_csum_diff(NULL, 0, (void *)&made, offsetof(struct reset, tcp), 0);
	made.tcp.check = ~csum_fold((__u32)sum);
	ctx_store_bytes(ctx, pkt->l4_off, &made.tcp, sizeof(made.tcp), BPF_F_RECOMPUTE_CSUM);
	made.tcp.check = 0;
	sum = bpf_csum_diff(NULL, 0, (void *)&made, sizeof(made), sum);
	ctx_l4_csum_replace(ctx, pkt->l4_off + offsetof(struct tcphdr, check), 0, sum, 0);
	ctx_csum_update(ctx, ~sum);
	return reverse_packet(ctx, pkt, sizeof(made.tcp));
}

/* Answers a ping of an address, if the address answers pings. The payload, and its part
 * of the checksum, stay as they are. parse() has read all that is changed, so that
 * nothing can fail.
 */
static __noinline int answer_echo(ctx_t *ctx, struct packet *pkt)
{
	__u32 check = pkt->l4_off + offsetof(struct icmphdr, checksum);
	__u8 type = pkt->key.family == FAMILY_IPV4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
	struct service *service = service_lookup_address(pkt);

	if (!service || !(service->flags & SERVICE_ECHO) || pkt->icmp_type == type)
		return -1;
	/* Type and code are one word of the sum; the code is 0. */
	ctx_l4_csum_replace(ctx, check, bpf_htons(pkt->icmp_type << 8), bpf_htons(type << 8), 2);
	ctx_store_bytes(ctx, pkt->l4_off, &type, 1, 0);
	return reverse_packet(ctx, pkt, pkt->l4_len);
}

/* Whether a denied packet may be answered: it was sent to this host alone at L2, and
 * has as much as an error quotes.
 */
static __noinline int refusable(ctx_t *ctx, const struct packet *pkt)
{
	struct ethhdr *eth = ctx_data(ctx);

	if (pkt->l4_len < sizeof(struct udphdr))
		return 0;
	return (void *)(eth + 1) <= ctx_data_end(ctx) && !(eth->h_dest[0] & 1);
}

/* refuse turns the packet into its own refusal. */
static __noinline int refuse(ctx_t *ctx, struct packet *pkt)
{
	/* The kernel refuses to cut a packet that it still takes for a tunnel's. */
	if (!pkt->plain || pkt->decapped)
		return -1;
	if (pkt->refused && !refusable(ctx, pkt))
		return -1;
	if (pkt->key.proto == IPPROTO_TCP)
		return refuse_tcp(ctx, pkt);
	if (pkt->refused || pkt->key.proto == IPPROTO_UDP) {
		if (!may_refuse(pkt))
			return -1;
		return pkt->key.family == FAMILY_IPV4 ?
			refuse_ipv4(ctx, pkt, pkt->refused ? ICMP_PKT_FILTERED : ICMP_PORT_UNREACH,
				    0, sizeof(struct udphdr)) :
			refuse_ipv6(ctx, pkt, ICMPV6_DEST_UNREACH << 8 |
				    (pkt->refused ? ICMPV6_ADM_PROHIBITED : ICMPV6_PORT_UNREACH), 0,
				    sizeof(struct udphdr));
	}
	return is_echo(pkt) ? answer_echo(ctx, pkt) : -1;
}

#endif