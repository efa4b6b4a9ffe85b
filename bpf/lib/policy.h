/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef WEIR_POLICY_H
#define WEIR_POLICY_H

#include "verdict.h"

/* The port that rules are asked for. For ICMP of the packet's own family it is the type
 * that opens a flow, which is an echo request.
 */
static __always_inline __be16 rule_port(const struct packet *pkt, __be16 port)
{
	if (pkt->key.proto == IPPROTO_ICMP && pkt->key.family == FAMILY_IPV4)
		return bpf_htons(ICMP_ECHO);
	if (pkt->key.proto == IPPROTO_ICMPV6 && pkt->key.family == FAMILY_IPV6)
		return bpf_htons(ICMPV6_ECHO_REQUEST);
	return port;
}

/* Asks a rule set about a peer by two lookups: rules for the peer's identity, and rules
 * for any peer. The higher precedence decides; of equal ones a denial does.
 */
static __noinline int policy_check(struct packet *pkt, __u32 set, __u32 direction,
				   __u32 peer, __be16 port)
{
	struct rule_key key = {
		.bits = RULE_BITS_EXACT,
		.set = set,
		.peer = peer,
		.direction = direction,
		.proto = pkt->key.proto,
		.port = rule_port(pkt, port),
	};
	int reason = direction == DIRECTION_EGRESS ? REASON_POLICY_EGRESS : REASON_POLICY_INGRESS;
	enum table table = direction == DIRECTION_EGRESS ? TABLE_RULES_EGRESS : TABLE_RULES_INGRESS;
	struct rule *rule, *any;

	rule = bpf_map_lookup_elem(&rules, &key);
	key.peer = 0;
	any = bpf_map_lookup_elem(&rules, &key);
	if (!rule)
		rule = any;
	else if (any && (any->precedence > rule->precedence ||
			 (any->precedence == rule->precedence && (any->action & RULE_DENY))))
		rule = any;
	note_read(pkt, table, !!rule);
	if (!rule) {
		pkt->origin = 0;
		return REFUSE(pkt, reason);
	}
	/* Of an audited packet, events name the rule that would have denied it. */
	if (!pkt->audit || rule->action != RULE_ALLOW)
		pkt->origin = rule->origin;
	if (rule->action == RULE_ALLOW)
		return REASON_NONE;
	if (rule->action != RULE_AUDIT) {
		pkt->refused = rule->action == RULE_REFUSE;
		return REFUSE(pkt, reason);
	}
	pkt->audit |= 1 << direction;
	pkt->audit_reason = direction == DIRECTION_EGRESS ? REASON_AUDIT_EGRESS : REASON_AUDIT_INGRESS;
	return REASON_NONE;
}

/* Counts and reports a packet that passes though a policy denies it. */
static __noinline int emit_audit(ctx_t *ctx, struct packet *pkt)
{
	if (pkt->audit & (1 << DIRECTION_EGRESS))
		count_packet(pkt, ctx_len(ctx), REASON_AUDIT_EGRESS);
	if (pkt->audit & (1 << DIRECTION_INGRESS))
		count_packet(pkt, ctx_len(ctx), REASON_AUDIT_INGRESS);
	emit_event(ctx_len(ctx), EVENT_VERDICT, VERDICT_AUDIT, pkt->audit_reason);
	return 0;
}

#endif
