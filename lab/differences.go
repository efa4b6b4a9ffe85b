// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

// Difference is something that a world loads otherwise than an agent does. All
// else is the same: programs to the byte, constants, tables and settings.
type Difference struct {
	What   string   // kind and name, by datapath.Loaded
	Worlds []string // those that differ
	// OtherNodes: on all nodes of a world but the first, and on all where shares are
	// small.
	OtherNodes bool
	// SmallShares: in a network that has them.
	SmallShares bool
	Room        uint32 // of a table, or a constant that follows from one; 0 where the world does not have it at all
	// Half is a table that has room for one state, and an agent's for two.
	Half bool
	Why  string
}

// Differences are all there are. A test opens an agent's datapath and those of
// the worlds, and compares what the kernel has of each.
var Differences = differences()

// Room for flows in worlds with several datapaths at once, in entries: the
// default takes some 60 MB each, and guests have a few hundred. It is what
// netns gives every datapath, and prog all but the first.
const FlowRoom = 16384

// SmallShare is what a pod has in a network with small shares: flows that nobody
// has answered, entries of answered ones, and fragmented packets by each hook.
const SmallShare = 4

// SmallRefusals is after how long the sender of a packet is told again why it goes no
// farther, in a network with small shares, if he was told SmallShare times.
const SmallRefusals = 10 * time.Second

func differences() []Difference {
	out := []Difference{
		{What: "table ct_answered", Worlds: []string{"netns"}, Room: FlowRoom, Why: "several datapaths are open at once"},
		{What: "table ct_unanswered", Worlds: []string{"netns"}, Room: FlowRoom, Why: "several datapaths are open at once"},
		{What: "table ct_answered", Worlds: []string{"prog"}, OtherNodes: true, Room: FlowRoom, Why: "several datapaths are open at once"},
		{What: "table ct_unanswered", Worlds: []string{"prog"}, OtherNodes: true, Room: FlowRoom, Why: "several datapaths are open at once"},
		{What: "constant flow_share", Worlds: []string{"netns"}, Room: FlowRoom / 8, Why: "it is a part of the table of unanswered flows"},
		{What: "constant flow_share", Worlds: []string{"prog"}, OtherNodes: true, Room: FlowRoom / 8, Why: "it is a part of the table of unanswered flows"},
		{What: "constant answered_share", Worlds: []string{"netns"}, Room: FlowRoom / 4, Why: "it is a part of the table of flows"},
		{What: "constant answered_share", Worlds: []string{"prog"}, OtherNodes: true, Room: FlowRoom / 4, Why: "it is a part of the table of flows"},
		{What: "table peers", Worlds: []string{"prog"}, Room: 1, Why: "only programs of sockets write it, and it is allocated whole"},
	}
	for _, name := range []string{"flow_share", "answered_share", "fragment_share"} {
		out = append(out, Difference{What: "constant " + name, Worlds: []string{"prog"}, SmallShares: true, Room: SmallShare, Why: "a script sends few frames"})
	}
	for name, ms := range map[string]time.Duration{"refusal_takes": SmallRefusals, "refusal_ahead": SmallShare * SmallRefusals} {
		out = append(out, Difference{What: "constant " + name, Worlds: []string{"prog"}, SmallShares: true, Room: uint32(ms.Milliseconds()), Why: "a script sends few frames"})
	}
	for _, table := range model.Tables() {
		out = append(out, Difference{
			What: "table " + string(table), Worlds: []string{"prog", "netns"}, Half: true,
			Why: "an agent bounds what objects may fill, so that a new state fits beside the old one; a lab's states are small",
		})
	}
	for _, hook := range []string{"connect", "sendmsg", "recvmsg", "getpeername"} {
		for _, family := range []string{"4", "6"} {
			out = append(out, Difference{
				What: "program " + hook + family, Worlds: []string{"prog"},
				Why: "it runs for sockets alone, and the kernel runs it with nothing that is made by hand",
			})
		}
	}
	return out
}

var room = regexp.MustCompile(`room=\d+`)

// In is what a world has in the place of what an agent has.
func (d *Difference) In(agent *datapath.Loaded) string {
	table := agent.Tables[strings.TrimPrefix(d.What, "table ")]
	switch {
	case d.Half:
		return room.ReplaceAllStringFunc(table, func(text string) string {
			entries, _ := strconv.Atoi(strings.TrimPrefix(text, "room=")) // digits, by the pattern
			return fmt.Sprintf("room=%d", entries/2)
		})
	case d.Room == 0:
		return "none"
	case strings.HasPrefix(d.What, "constant "):
		return fmt.Sprint(d.Room)
	}
	return room.ReplaceAllString(table, fmt.Sprintf("room=%d", d.Room))
}
