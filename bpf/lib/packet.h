/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_PACKET_H
#define WEIR_PACKET_H

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ctx.h"
#include "place.h"
#include "reasons.h"
#include "tables.h"
#include "share.h"

#define ETH_LEN		((__u32)sizeof(struct ethhdr))
#define IP_MORE		0x2000	/* more fragments */
#define IP_OFFSET	0x1fff	/* in 8 bytes */
#define MAX_L4_OFF	0x3fff	/* six extension headers of 2 KiB end before it */

/* What the hooks know of a packet. src, dst and ports in the key are those that the
 * packet came with.
 */
struct packet {
	struct flow_key key;
	__u64 now;
	__u32 epoch;
	__u32 len;		/* of the L3 packet, padding left out */
	__u32 l4_off;		/* from the start of the frame */
	__u32 l4_len;
	__u32 where;		/* file and line of the last decision */
	__u32 tables;		/* which tables were read, see verdict.h */
	__u32 origin;		/* of the rule that decided */
	__u32 src_identity;	/* 0: not looked up */
	__u32 dst_identity;
	__u32 out_ifindex;
	__u8 out;		/* enum out */
	__u8 lookup;		/* enum lookup */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 icmp_type;
	__u8 plain;		/* no IPv4 options, no IPv6 extension headers */
	__u8 reused;		/* a new connection on the tuple of a closed one */
	__u8 old;		/* scratch.old has what an older epoch knew of its flow */
	__u8 fragment;		/* enum fragment */
	__u8 kernel_forwards;		/* the kernel sends it on, or takes it in */
	__u8 decapped;		/* came by a tunnel, for the pod scratch.pod */
	__u8 audit;		/* bits of the directions in which a denial is only told */
	__u8 audit_reason;		/* enum reason: the last of these */
	__u8 from_node;		/* another node sent it */
	__u8 stray;		/* enum reason: why it cannot be of the flow that has its tuple */
	__u8 traceless;		/* of a flow, and changes nothing in it */
	__u8 transit;		/* to a pod, and not made by this node */
	__u8 refused;		/* the sender is told that a policy denies it */
	__u8 denied;		/* enum reason: why it does not pass */
	__u8 opened;		/* scratch.open is set: what becomes of it, or would have */
	__u32 fragment_id;
	__u32 fragment_off;	/* bytes, of the first byte behind the IP headers */
	__u32 l4_start;		/* where L4 begins, counted like fragment_off */
	__be32 seq;		/* of TCP */
	__be32 ack;
	__u32 quoted_l4;	/* of the packet that an ICMP error quotes, from l4_off on */
	__u32 pad2;
};

/* Whether a hook is this one. OBJECT_HOOKS says which hooks an object has programs of,
 * so that the compiler leaves out the code of others.
 */
static __always_inline int is_hook(__u8 hook, enum hook which)
{
	return (OBJECT_HOOKS & (1 << which)) && hook == which;
}

/* Whether a packet is at this hook. */
static __always_inline int at(const struct packet *pkt, enum hook hook)
{
	return is_hook(pkt->key.hook, hook);
}

/* The time since an event. CPUs' clocks go by ticks, and the clock of the CPU that
 * noted the event may be one tick ahead.
 */
static __always_inline __u64 age(const struct packet *pkt, __u64 since)
{
	return pkt->now > since ? pkt->now - since : 0;
}

/* The memory of a program. It is in a map and not on the stack: it would not fit there,
 * and the verifier would follow each constant in it along every path (as measured: 30
 * times the instructions). All hooks run with BH disabled, so no other program of ours
 * uses it meanwhile on that CPU.
 */
struct scratch {
	struct packet pkt;
	struct flow old;	/* as judged under an older epoch */
	struct flow open;
	struct flow reply;
	struct flow_key reply_key;
	struct addr pod;	/* to which a tunnel has led the packet */
	__u32 affinity_group;		/* group of frontends that keep this client with its backend */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,	/* has the L4 header */
	FRAGMENT_LATER = 2,	/* has none: ports are those of the first */
};

/* From linux/ipv6.h, which uapi does not export. */
#define NEXT_HOP_BY_HOP	0
#define NEXT_ROUTING	43
#define NEXT_FRAGMENT	44
#define NEXT_DESTINATION 60

#define TCP_FLAG_FIN	0x01
#define TCP_FLAG_SYN	0x02
#define TCP_FLAG_RST	0x04
#define TCP_FLAG_ACK	0x10

/* linux/icmp.h needs a C library. ICMPv6 begins alike. */
#define ICMP_ECHOREPLY		0
#define ICMP_DEST_UNREACH	3
#define ICMP_SOURCE_QUENCH	4
#define ICMP_REDIRECT		5
#define ICMP_ECHO		8
#define ICMP_TIME_EXCEEDED	11
#define ICMP_PARAMETERPROB	12
#define ICMP_PORT_UNREACH	3
#define ICMP_FRAG_NEEDED	4
#define ICMP_PKT_FILTERED	13
#define ICMP_TYPE_NONE		255	/* reserved in both: no type that is let through */

struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id;		/* of an echo */
	__be16 sequence;
};

struct ports {
	__be16 src;
	__be16 dst;
};

struct extension {
	__u8 next;
	__u8 len;		/* in 8 bytes, the first 8 not counted */
	__u8 type;		/* of a routing header */
	__u8 left;
	__be32 id;		/* of a fragment header, which has its offset in type and left */
};

#define MAX_OPTIONS	40	/* bytes, and each option has one at least */

#define IP6_MORE	1
#define IP6_OFFSET	0xfff8

/* linear makes the first len bytes of the frame readable and writable in place, or all
 * if there are fewer. It may move the packet: pointers have to be read again. It is no
 * inline function: no caller is on the fast path.
 */
static __noinline int linear(ctx_t *ctx, __u32 len)
{
	if (ctx_data(ctx) + len <= ctx_data_end(ctx))
		return 0;
	return ctx_pull(ctx, len);
}

/* Most frames' headers, without options. */
#define HEADERS	(ETH_LEN + (__u32)(sizeof(struct ipv6hdr) + sizeof(struct tcphdr)))

static __noinline void pull_headers(ctx_t *ctx)
{
	ctx_pull(ctx, ctx_len(ctx) < HEADERS ? ctx_len(ctx) : HEADERS);
}

/* Makes headers readable in place. A frame that is shorter lies in one piece. */
static __always_inline void linear_headers(ctx_t *ctx)
{
	if (ctx_data(ctx) + HEADERS > ctx_data_end(ctx) &&
	    ctx_data_end(ctx) - ctx_data(ctx) < ctx_len(ctx))
		pull_headers(ctx);
}

/* Makes the transport header readable in place where options are before it. */
static __noinline void linear_l4(ctx_t *ctx, const struct packet *pkt)
{
	__u32 len = sizeof(struct tcphdr);

	linear(ctx, pkt->l4_off + (pkt->l4_len < len ? pkt->l4_len : len));
}

static __always_inline void addr_from4(struct addr *a, __be32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

static __always_inline void addr_from6(struct addr *a, const struct in6_addr *v6)
{
	__builtin_memcpy(a, v6, sizeof(*a));
}

/* The bits in which two addresses differ. One branch on the result is one path more for
 * the verifier; a branch a word would be four.
 */
static __always_inline __u32 addr_differs(const struct addr *a, const struct addr *b)
{
	__u32 bits = (a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) |
		     (a->w[3] ^ b->w[3]);

	/* Else clang makes a branch a word of it. */
	asm volatile("" : "+r"(bits));
	return bits;
}

static __always_inline int addr_equal(const struct addr *a, const struct addr *b)
{
	return !addr_differs(a, b);
}

static __always_inline int addr_none(const struct addr *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

static __always_inline int addr_mapped(const struct addr *a)
{
	return !(a->w[0] | a->w[1] | (a->w[2] ^ bpf_htonl(0xffff)));
}

static __always_inline int addr_linklocal6(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Flags that no TCP sends (RFC 9293 3.10.7), as scanners do. Every segment but a SYN or
 * a RST has an ACK.
 */
static __always_inline int tcp_flags_bad(__u8 flags)
{
	if (!(flags & (TCP_FLAG_SYN | TCP_FLAG_ACK | TCP_FLAG_RST)))
		return 1;
	return (flags & TCP_FLAG_SYN) && (flags & (TCP_FLAG_FIN | TCP_FLAG_RST));
}

static __always_inline int parse_tcp(ctx_t *ctx, struct packet *pkt)
{
	struct tcphdr *tcp;
	__u32 doff;

	tcp = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	if (pkt->l4_len < sizeof(*tcp) || (void *)(tcp + 1) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_TRUNCATED);

	doff = tcp->doff * 4;
	if (doff < sizeof(*tcp) || doff > pkt->l4_len)
		return REFUSE(pkt, REASON_BAD_TCP_HEADER);
	pkt->tcp_flags = ((__u8 *)tcp)[13];
	if (tcp_flags_bad(pkt->tcp_flags))
		return REFUSE(pkt, REASON_BAD_TCP_FLAGS);
	pkt->key.sport = tcp->source;
	pkt->key.dport = tcp->dest;
	pkt->seq = tcp->seq;
	pkt->ack = tcp->ack_seq;
	return REASON_NONE;
}

static __always_inline int parse_udp(ctx_t *ctx, struct packet *pkt)
{
	struct udphdr *udp;
	__u32 len;

	udp = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	if (pkt->l4_len < sizeof(*udp) || (void *)(udp + 1) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_TRUNCATED);

	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) || (len > pkt->l4_len && !pkt->fragment))
		return REFUSE(pkt, REASON_BAD_UDP_LENGTH);
	pkt->key.sport = udp->source;
	pkt->key.dport = udp->dest;
	/* RFC 8200 8.1: only tunnels may leave it out. */
	if (pkt->key.family == FAMILY_IPV6 && !udp->check)
		return REFUSE(pkt, REASON_BAD_UDP_CHECKSUM);
	return REASON_NONE;
}

static __always_inline int parse_sctp(ctx_t *ctx, struct packet *pkt)
{
	struct ports *ports;

	ports = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	if (pkt->l4_len < 12 || (void *)(ports + 1) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_TRUNCATED);

	pkt->key.sport = ports->src;
	pkt->key.dport = ports->dst;
	return REASON_NONE;
}

/* ICMP and ICMPv6 begin alike. A request has its identifier as source port,
 * a reply as destination port, so that each is the other's reverse.
 */
static __always_inline int parse_icmp(ctx_t *ctx, struct packet *pkt)
{
	struct icmphdr *icmp;
	__u8 request, reply;

	icmp = ctx_data(ctx) + (pkt->l4_off & MAX_L4_OFF);
	if (pkt->l4_len < sizeof(*icmp) || (void *)(icmp + 1) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_TRUNCATED);

	request = pkt->key.family == FAMILY_IPV4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
	reply = pkt->key.family == FAMILY_IPV4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
	pkt->icmp_type = icmp->type;
	if (icmp->type != request && icmp->type != reply)
		return REASON_NONE;
	if (icmp->code)
		pkt->icmp_type = ICMP_TYPE_NONE;
	else if (icmp->type == request)
		pkt->key.sport = icmp->id;
	else
		pkt->key.dport = icmp->id;
	return REASON_NONE;
}

static __always_inline int parse_l4(ctx_t *ctx, struct packet *pkt)
{
	switch (pkt->key.proto) {
	case IPPROTO_TCP:
		return parse_tcp(ctx, pkt);
	case IPPROTO_UDP:
		return parse_udp(ctx, pkt);
	case IPPROTO_SCTP:
		return parse_sctp(ctx, pkt);
	case IPPROTO_ICMP:
		return pkt->key.family == FAMILY_IPV4 ? parse_icmp(ctx, pkt) : REASON_NONE;
	case IPPROTO_ICMPV6:
		return pkt->key.family == FAMILY_IPV6 ? parse_icmp(ctx, pkt) : REASON_NONE;
	}
	return REASON_NONE;
}

/* A fragment. parse() has read the L4 header in the first one, whose ports are kept for
 * the others. A fragment that would overlap this header is refused, and so is one that
 * comes before the first, since its ports are not known.
 */
static __noinline int parse_fragment(struct packet *pkt)
{
	struct fragment_key key = {
		.src = pkt->key.src,
		.dst = pkt->key.dst,
		.id = pkt->fragment_id,
		.ifindex = pkt->key.ifindex,
		.hook = pkt->key.hook,
		.family = pkt->key.family,
	};
	struct fragment_ports made = {}, *of;

	/* IPv6 fragments of one packet may name different next headers. */
	if (pkt->key.family == FAMILY_IPV4)
		key.proto = pkt->key.proto;
	if (pkt->fragment_off) {
		pkt->fragment = FRAGMENT_LATER;
		of = bpf_map_lookup_elem(&fragments, &key);
		if (!of || age(pkt, of->seen) > FRAGMENT_PATIENCE ||
		    pkt->fragment_off < of->header_end)
			return REFUSE(pkt, REASON_FRAGMENT);
		pkt->key.proto = of->proto;
		pkt->key.sport = of->sport;
		pkt->key.dport = of->dport;
		pkt->icmp_type = of->icmp_type;
		return REASON_NONE;
	}
	made.seen = pkt->now;
	made.sport = pkt->key.sport;
	made.dport = pkt->key.dport;
	made.proto = pkt->key.proto;
	made.icmp_type = pkt->icmp_type;
	made.header_end = pkt->l4_start + (pkt->key.proto == IPPROTO_TCP ? 20 : 8);
	if (!bpf_map_update_elem(&fragments, &key, &made, BPF_NOEXIST))
		share_charge_fragment(&key);
	else if (bpf_map_update_elem(&fragments, &key, &made, BPF_ANY))
		return REFUSE(pkt, REASON_FRAGMENT);
	return REASON_NONE;
}

/* Walks IPv4 options, which end where L4 begins. A source route leads a packet to
 * destinations that nobody has judged (RFC 7126 4.3, 4.4); others may read as a source
 * route what does not fit in the header.
 */
static __noinline int parse_options(ctx_t *ctx, struct packet *pkt)
{
	__u32 off = ETH_LEN + sizeof(struct iphdr);
	__u32 end = pkt->l4_off;
	__u8 option[2];
	int i;

	linear_l4(ctx, pkt);
	for (i = 0; i < MAX_OPTIONS; i++) {
		if (off >= end)
			return REASON_NONE;
		/* Octet by octet: the last option may be one octet long. */
		if (ctx_load_bytes(ctx, off, option, 1))
			return REFUSE(pkt, REASON_BAD_IP_OPTIONS);
		if (option[0] == IPOPT_END)
			return REASON_NONE;
		if (option[0] == IPOPT_NOOP) {
			off++;
			continue;
		}
		/* An option that has no length is refused like a wrong length. */
		if (ctx_load_bytes(ctx, off + 1, option + 1, 1) || option[1] < 2 ||
		    off + option[1] > end)
			return REFUSE(pkt, REASON_BAD_IP_OPTIONS);
		if (option[0] == IPOPT_LSRR || option[0] == IPOPT_SSRR)
			return REFUSE(pkt, REASON_SOURCE_ROUTE);
		off += option[1];
	}
	return REASON_NONE;
}

static __always_inline int parse_ipv4(ctx_t *ctx, struct packet *pkt)
{
	__u32 ihl, len, frag;
	struct iphdr *ip;
	__be16 id;
	int reason;

	ip = ctx_data(ctx) + ETH_LEN;
	if ((void *)(ip + 1) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_TRUNCATED);

	ihl = ip->ihl * 4;
	if (ip->version != 4 || ihl < sizeof(*ip))
		return REFUSE(pkt, REASON_BAD_IP_HEADER);
	len = bpf_ntohs(ip->tot_len);
	/* Super-packets over 64 KiB have no total length. */
	if (!len && ctx_gso_size(ctx))
		len = ctx_len(ctx) - ETH_LEN;
	if (len < ihl || len > ctx_len(ctx) - ETH_LEN)
		return REFUSE(pkt, REASON_BAD_IP_LENGTH);
	frag = bpf_ntohs(ip->frag_off);
	id = ip->id;

	addr_from4(&pkt->key.src, ip->saddr);
	addr_from4(&pkt->key.dst, ip->daddr);
	pkt->key.family = FAMILY_IPV4;
	pkt->key.proto = ip->protocol;
	pkt->ttl = ip->ttl;
	pkt->len = len;
	pkt->l4_off = ETH_LEN + ihl;
	pkt->l4_len = len - ihl;
	pkt->plain = ihl == sizeof(*ip);
	if (!pkt->plain) {
		reason = parse_options(ctx, pkt);
		if (reason)
			return reason;
	}
	if (frag & (IP_MORE | IP_OFFSET)) {
		pkt->plain = 0;
		pkt->fragment = FRAGMENT_FIRST;
		pkt->fragment_id = id;
		pkt->fragment_off = (frag & IP_OFFSET) * 8;
	}
	return REASON_NONE;
}

/* Whether a header is an extension that is walked. All others count as L4, AH and ESP
 * too: nothing behind them can be read.
 */
static __always_inline int is_extension(__u8 next)
{
	return next == NEXT_HOP_BY_HOP || next == NEXT_DESTINATION || next == NEXT_ROUTING ||
	       next == NEXT_FRAGMENT;
}

/* Steps over the extension header at pkt->l4_off. */
static __noinline int parse_extension(ctx_t *ctx, struct packet *pkt)
{
	struct extension ext;
	__u32 len, frag;

	if (pkt->l4_len < 8 || ctx_load_bytes(ctx, pkt->l4_off, &ext, sizeof(ext)))
		return REFUSE(pkt, REASON_TRUNCATED);
	len = pkt->key.proto == NEXT_FRAGMENT ? 8 : ((__u32)ext.len + 1) * 8;
	if (pkt->fragment)
		pkt->l4_start += len;
	/* RFC 6946: an atomic fragment is no fragment, and its header is skipped. Any
	 * other second fragment header is refused.
	 */
	frag = ((__u32)ext.type << 8) | ext.left;
	if (pkt->key.proto == NEXT_FRAGMENT && (frag & (IP6_OFFSET | IP6_MORE))) {
		if (pkt->fragment)
			return REFUSE(pkt, REASON_FRAGMENT);
		pkt->fragment = FRAGMENT_FIRST;
		pkt->fragment_id = ext.id;
		pkt->fragment_off = frag & IP6_OFFSET;
	}
	/* With segments left, it goes on to another destination than the one judged. */
	if (pkt->key.proto == NEXT_ROUTING && (ext.type == 0 || ext.left))
		return REFUSE(pkt, REASON_ROUTING_HEADER);
	if (len > pkt->l4_len)
		return REFUSE(pkt, REASON_TRUNCATED);
	pkt->key.proto = ext.next;
	pkt->l4_off += len;
	pkt->l4_len -= len;
	return REASON_NONE;
}

/* Walks extension headers from pkt->l4_off on. */
static __noinline int parse_extensions(ctx_t *ctx, struct packet *pkt)
{
	int i, reason;

	pkt->plain = 0;
	/* Unrolled: clang lays the loop out so that its back edge falls through,
	 * which the verifiers of 5.10 and 6.1 refuse ("back-edge from insn").
	 */
#pragma unroll
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		reason = parse_extension(ctx, pkt);
		if (reason)
			return reason;
		if (pkt->fragment_off || !is_extension(pkt->key.proto)) {
			linear_l4(ctx, pkt);
			return REASON_NONE;
		}
	}
	return REFUSE(pkt, REASON_EXTENSION_LIMIT);
}

static __always_inline int parse_ipv6(ctx_t *ctx, struct packet *pkt)
{
	struct ipv6hdr *ip6;
	__u32 len;

	ip6 = ctx_data(ctx) + ETH_LEN;
	if ((void *)(ip6 + 1) > ctx_data_end(ctx))
		return REFUSE(pkt, REASON_TRUNCATED);

	if (ip6->version != 6)
		return REFUSE(pkt, REASON_BAD_IP_HEADER);
	len = sizeof(*ip6) + bpf_ntohs(ip6->payload_len);
	/* Super-packets over 64 KiB have no payload length. */
	if (!ip6->payload_len && ctx_gso_size(ctx))
		len = ctx_len(ctx) - ETH_LEN;
	if (len > ctx_len(ctx) - ETH_LEN)
		return REFUSE(pkt, REASON_BAD_IP_LENGTH);

	addr_from6(&pkt->key.src, &ip6->saddr);
	addr_from6(&pkt->key.dst, &ip6->daddr);
	pkt->key.family = FAMILY_IPV6;
	pkt->key.proto = ip6->nexthdr;
	pkt->ttl = ip6->hop_limit;
	pkt->len = len;
	pkt->l4_off = ETH_LEN + sizeof(*ip6);
	pkt->l4_len = len - sizeof(*ip6);
	pkt->plain = 1;
	/* Not on a wire (RFC 4038 4.2); the tables have IPv4 addresses in this form. */
	if (addr_mapped(&pkt->key.src))
		return REFUSE(pkt, REASON_MARTIAN_SOURCE);
	if (addr_mapped(&pkt->key.dst))
		return REFUSE(pkt, REASON_MARTIAN_DESTINATION);
	return is_extension(pkt->key.proto) ? parse_extensions(ctx, pkt) : REASON_NONE;
}

/* parse reads an IP packet of either family. One function for all hooks: they all read
 * a packet in the same way.
 */
static __noinline __attribute__((unused)) int parse(ctx_t *ctx, struct packet *pkt)
{
	int reason;

	linear_headers(ctx);
	if (ctx_protocol(ctx) == bpf_htons(ETH_P_IP))
		reason = parse_ipv4(ctx, pkt);
	else
		reason = parse_ipv6(ctx, pkt);
	/* A later fragment has no L4 header. */
	if (!reason && !pkt->fragment_off)
		reason = parse_l4(ctx, pkt);
	if (reason || !pkt->fragment)
		return reason;
	return parse_fragment(pkt);
}

/* Addresses that no host has. It does not check for link-local ones, nor for
 * IPv4-mapped ones, which parse_ipv6 has refused. It is one function and not inline:
 * only packets of new flows need it.
 */
static __noinline __attribute__((unused)) int martian(const struct addr *a, __u8 family)
{
	__u32 v4 = bpf_ntohl(a->w[3]);

	if (family == FAMILY_IPV4)
		return v4 >> 24 == 0 || v4 >> 24 == 127 || v4 >> 28 >= 14;
	if ((a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return 1;
	return !(a->w[0] | a->w[1] | a->w[2]) && v4 <= 1;
}

static __always_inline int linklocal(const struct addr *a, __u8 family)
{
	if (family == FAMILY_IPV4)
		return (a->w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
	return addr_linklocal6(a);
}

#endif
