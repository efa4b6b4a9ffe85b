// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// What the kernel obeys is the number that a program returns and the mark that it
// leaves. The note in skb->cb only tells of it: this file holds both against
// each other.

// Return is what a kind of program returned.
type Return struct {
	Kind  ProgramKind
	Value int32
}

// ProgramKind is what numbers a program's return value is one of.
type ProgramKind string

// Kinds of programs.
const (
	KindTC     ProgramKind = "tc"     // TC_ACT_*, linux/pkt_cls.h
	KindXDP    ProgramKind = "xdp"    // enum xdp_action, linux/bpf.h
	KindSocket ProgramKind = "socket" // of a cgroup: 1 goes on, 0 fails the system call
)

// Conduct is what the kernel does with what a program has seen.
type Conduct string

// Conducts.
const (
	Passes    Conduct = "pass"     // goes on with it where it is
	Drops     Conduct = "drop"     // ends it
	Redirects Conduct = "redirect" // to where a helper of the program said
	Bounces   Conduct = "bounce"   // out of the device that it came from
)

// conducts are all numbers that a program of a kind may return. The kernel takes
// others for one of these, or complains; no program of ours has a use for them.
var conducts = map[ProgramKind]map[int32]Conduct{
	KindTC:     {0: Passes, 2: Drops, 7: Redirects},
	KindXDP:    {1: Drops, 2: Passes, 3: Bounces, 4: Redirects},
	KindSocket: {0: Drops, 1: Passes},
}

// Conduct is what the kernel does for this value; empty for one that no program
// should return.
func (r Return) Conduct() Conduct { return conducts[r.Kind][r.Value] }

// String is for people: "pass", or the number that is none of the kind's.
func (r Return) String() string {
	if c := r.Conduct(); c != "" {
		return string(c)
	}
	return fmt.Sprintf("%d", r.Value)
}

// due is what a program of a kind has to return for a decision.
func (d *Decision) due(kind ProgramKind) Conduct {
	switch {
	case d.Action == model.Drop:
		return Drops
	case d.AsItIs, d.Action == model.Forward && d.Out == model.OutHost:
		return Passes
	case kind == KindXDP && d.Action == model.Reply:
		return Bounces
	case kind == KindXDP && d.Out != model.OutLocal:
		return Passes // no program asks for the next hop's MAC: the kernel does
	case kind == KindSocket:
		return Passes
	}
	return Redirects
}

// stays is whether the kernel has to go on, where it is, with a packet that was
// forwarded. What leaves by a node's own device may be led to another one.
func (d *Decision) stays(hook model.Hook) bool {
	switch {
	case d.Action != model.Forward:
		return false
	case hook == model.ToContainer:
		return true
	case hook == model.FromDevice:
		return d.Out == model.OutHost
	case hook == model.ToDevice:
		return d.AsItIs && d.Out == model.OutDevice
	}
	return false
}

// Bits of skb->mark that are the datapath's (bpf/lib/mark.h).
const (
	markMask      = uint32(bpf.ContainerMarkMARK_MASK)
	markDecided   = uint32(bpf.ContainerMarkMARK_DECIDED)
	markAnswer    = uint32(bpf.ContainerMarkMARK_ANSWER)
	markDelivered = uint32(bpf.ContainerMarkMARK_DELIVERED)
)

// MarkOfOthers is a mark that has all bits which are not the datapath's: they
// have to be there when a program ends.
const MarkOfOthers = ^markMask

// Judged says whether a mark tells a hook that another one, or the hook itself,
// has judged a packet already.
func Judged(hook model.Hook, mark uint32) bool {
	switch mark &= markMask; hook {
	case model.ToContainer:
		return mark == markAnswer || mark == markDelivered
	case model.FromContainer, model.FromDevice:
		return mark == markAnswer
	case model.ToDevice:
		return mark != 0
	}
	return false
}

// marked is the mark that a program has to leave for a decision.
func (d *Decision) marked(hook model.Hook, mark uint32) uint32 {
	with := func(value uint32) uint32 { return mark&^markMask | value }
	switch {
	case d.Action == model.Drop, d.AsItIs:
		return mark
	case d.Action == model.Reply:
		return with(markAnswer)
	case hook == model.ToDevice && d.Out == model.OutLocal:
		return with(markDelivered)
	}
	return with(markDecided)
}

// Contradiction is a program that did something else than it noted. What the
// kernel obeys is what it did.
type Contradiction struct {
	Hook     model.Hook
	Noted    string // what the note, or a mark in the place of one, says
	Did      string // what the program returned, or the mark that it left
	Returned Return
}

func (c *Contradiction) Error() string {
	return fmt.Sprintf("%s contradicts itself: noted %s, %s", c.Hook, c.Noted, c.Did)
}

// contradiction compares what a program of a hook did with its note. noted is
// whether there is one; in and out are the mark before and after.
func (d *Decision) contradiction(hook model.Hook, noted bool, returned Return, in, out uint32) *Contradiction {
	told := func(noted, did string) *Contradiction {
		return &Contradiction{Hook: hook, Noted: noted, Did: did, Returned: returned}
	}
	switch judged := Judged(hook, in); {
	case judged && noted:
		return told(d.says(noted), fmt.Sprintf("though the mark %#x says that the packet is judged already", in))
	case !judged && !noted:
		return told("nothing", fmt.Sprintf("though no mark says that the packet is judged already (%#x); returned %s", in, returned))
	}
	if noted && d.AsItIs != d.stays(hook) {
		return told(d.says(noted), fmt.Sprintf("and as it is: %t", d.AsItIs))
	}
	if returned.Conduct() != d.due(returned.Kind) {
		return told(d.says(noted), "returned "+returned.String())
	}
	if want := d.marked(hook, in); out != want {
		return told(d.says(noted), fmt.Sprintf("left the mark %#x in the place of %#x", out, want))
	}
	return nil
}

// says is what a program has noted, in words.
func (d *Decision) says(noted bool) string {
	switch {
	case !noted:
		return "nothing, for a packet that is judged already"
	case d.Out != model.OutNone && d.Action == model.Forward:
		return string(d.Action) + " out " + string(d.Out)
	}
	return string(d.Action)
}

// Obeyed is what the kernel made of a run: what the program noted, unless it
// returned something else. Where it redirected what was noted to stay or to
// end, nobody knows where to: there is no way out then.
func (r *Ran) Obeyed(hook model.Hook, ifindex int) Decision {
	d := r.Decision
	did := r.Returned.Conduct()
	if did == d.due(r.Returned.Kind) {
		return d
	}
	switch did {
	case Passes:
		return unnoted(hook, ifindex)
	case Drops:
		return Decision{Action: model.Drop, Reason: d.Reason, File: d.File, Line: d.Line}
	}
	return Decision{Action: model.Forward}
}
