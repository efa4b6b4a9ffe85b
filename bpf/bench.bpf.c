//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* For measuring: BPF_PROG_TEST_RUN with repeat gives a program its own output
 * again, and from the second round on another path is measured. `again` puts
 * the frame back, or the next of several, and then tail-calls the program, so
 * every round is the first. What `again` costs by itself is measured with
 * `nothing` as the program.
 */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* With its key, a frame has four lines of cache. */
#define SAVED_BYTES	208
#define MAX_SAVED	65536	/* where the loader does not say otherwise */

/* A key and a value as large as those of the flow table. */
#define FLOW_KEY_WORDS		11
#define FLOW_VALUE_WORDS	26

struct bare_key {
	__u32 words[FLOW_KEY_WORDS];
};

struct bare_value {
	__u32 words[FLOW_VALUE_WORDS];
};

struct saved_frame {
	__u32 len;
	struct bare_key key;	/* of its flow */
	__u8 frame[SAVED_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SAVED);
	__type(key, __u32);
	__type(value, struct saved_frame);
} saved SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

/* How many frames take turns, and whose turn it is. */
volatile __u32 frames = 1;
volatile __u32 turn;

SEC("tc")
int again(struct __sk_buff *skb)
{
	struct saved_frame *s;
	__u32 index = turn;
	__u32 len;

	turn = index + 1 < frames ? index + 1 : 0;
	s = bpf_map_lookup_elem(&saved, &index);
	if (!s)
		return TC_ACT_SHOT;
	len = s->len;
	if (!len || len > sizeof(s->frame))
		return TC_ACT_SHOT;
	/* Removes the headers that the program has put before the frame. */
	if (skb->len != len &&
	    bpf_skb_adjust_room(skb, (__s32)len - (__s32)skb->len, BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, s->frame, len, BPF_F_INVALIDATE_HASH))
		return TC_ACT_SHOT;
	skb->mark = 0;
	bpf_tail_call(skb, &target, 0);
	return TC_ACT_SHOT;
}

/* The flow table itself, where the loader puts it here; else one of its size. What
 * one lookup costs there, in the order of the frames, is the least that a packet of
 * theirs can cost.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * MAX_SAVED);
	__type(key, struct bare_key);
	__type(value, struct bare_value);
} bare SEC(".maps");

/* Finds the entry of this turn and reads its first and its last word. */
SEC("tc")
int lookup(struct __sk_buff *skb)
{
	struct bare_value *value;
	struct saved_frame *s;
	__u32 index = turn;

	s = bpf_map_lookup_elem(&saved, &index);
	if (!s)
		return TC_ACT_SHOT;
	value = bpf_map_lookup_elem(&bare, &s->key);
	if (!value)
		return TC_ACT_SHOT;
	skb->mark = value->words[0] + value->words[FLOW_VALUE_WORDS - 1];
	return TC_ACT_OK;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
