// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
)

// Expectation is what should become of a frame. Where the contract leaves a
// choice (which backend, whether an idle flow is still there), everything
// that is right is listed.
type Expectation struct {
	Action model.Action
	// Reasons are, for Drop and Reply, all that are right: a frame may be
	// wrong in several ways, and nothing says which is seen first.
	Reasons []model.Reason
	// Tuple is the frame's, the zero Tuple when it has none.
	Tuple model.Tuple
	// Translations are, for Forward, all that may leave: one for each
	// eligible backend, exactly one for a known flow, the tuple itself where
	// nothing is translated.
	Translations []Translation
	// Alternatives are other actions that are right as well. They have no
	// Alternatives of their own.
	Alternatives []Expectation
	// Story explains the judgement to a person, a sentence each.
	Story []string

	frame headers
	at    model.Where
	met   []half
	// illegal is what should have been met, where the datapath met something else.
	illegal string
	// unsent are those whose flow may be there from now on, though nothing leaves.
	unsent []Translation
}

// Translation is one way in which a frame may leave.
type Translation struct {
	Tuple    model.Tuple // zero for ARP and neighbour discovery, and then not checked
	AnySport bool        // Sport may be any that is free: the datapath chooses
	// Unchanged is a frame that leaves as it came, to the last byte.
	Unchanged bool
	// Portless is a later fragment: Tuple's protocol and ports are those of
	// the first, and only its addresses stand in the bytes that leave.
	Portless bool
	// Quoted is, for an ICMP error, the tuple of the packet that it quotes,
	// as the error leaves; else zero.
	Quoted model.Tuple
	// Inner is, for OutTunnel, the tuple of the packet in the tunnel; Tuple is
	// then that of the packet around it, and Hops and Quoted are Inner's.
	Inner    model.Tuple
	Out      model.Out
	Endpoint string // the pod that gets it, for OutLocal
	Hops     int    // by how much TTL or hop limit goes down
	// Audit is the reason for which a policy would have dropped the frame, and
	// only tells of it; else empty.
	Audit model.Reason

	flow  *flow // the known one, or the one that this packet would open
	known bool
	kept  ought       // of a known one: it is gone by what was decided under other objects
	reply bool        // seen in the flow's reply direction
	opens way         // the flow's, in its opening direction
	led   model.Tuple // as it is to come to the pod behind a tunnel
	ports *portChoice // bounds AnySport; nil: any port
}

// Outcome is what a datapath did to a frame. A field that was not observed
// stays zero and is not checked.
type Outcome struct {
	Action   model.Action
	Reason   model.Reason // with Forward: Translation.Audit
	Told     bool         // a Forward without Reason has met no denial that is only told
	Tuple    model.Tuple  // as it left
	Quoted   model.Tuple  // of the packet that an ICMP error quotes, as it left
	Inner    model.Tuple  // of the packet in the tunnel, for OutTunnel
	Out      model.Out
	Endpoint string // the pod that got it, for OutLocal
}

func (o Outcome) String() string {
	text := string(o.Action)
	if o.Reason != model.ReasonNone {
		text += " (" + string(o.Reason) + ")"
	}
	if o.Tuple != (model.Tuple{}) {
		text += " " + o.Tuple.String()
	}
	if o.Quoted != (model.Tuple{}) {
		text += " about " + o.Quoted.String()
	}
	if o.Inner != (model.Tuple{}) {
		text += " around " + o.Inner.String()
	}
	if o.Out != model.OutNone {
		text += " out " + strings.TrimSpace(string(o.Out)+" "+o.Endpoint)
	}
	return text
}

// ErrUnexpected is wrapped by the error of Check.
var ErrUnexpected = errors.New("not what should happen")

// Check is nil when the outcome is one of those that e allows; else the error
// names both sides and wraps ErrUnexpected.
func (e Expectation) Check(o Outcome) error {
	if e.illegal != "" {
		return fmt.Errorf("%w: %s; expected %s", ErrUnexpected, o, e)
	}
	all := e.all()
	doubtful := len(all) > 1 || len(e.Translations) > 1
	for _, possible := range all {
		if possible.allows(o, doubtful) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s; expected %s", ErrUnexpected, o, e)
}

func (e Expectation) all() []Expectation {
	return append([]Expectation{e}, e.Alternatives...)
}

func (e Expectation) allows(o Outcome, doubtful bool) bool {
	if o.Action != e.Action {
		return false
	}
	if e.Action != model.Forward {
		return o.Reason == model.ReasonNone || slices.Contains(e.Reasons, o.Reason)
	}
	return slices.ContainsFunc(e.Translations, func(t Translation) bool { return t.allows(o, doubtful) })
}

// Telling is what a datapath tells of a frame that it forwards: a denial that is
// only told, or none. It is not sure where the denial may have been told before,
// and where the frame may leave in several ways.
func (e Expectation) Telling() (reason model.Reason, sure bool) {
	if e.Action != model.Forward || len(e.Alternatives) > 0 || len(e.Translations) != 1 {
		return model.ReasonNone, false
	}
	t := e.Translations[0]
	return t.Audit, t.Audit == model.ReasonNone || !t.mayBeTold(false)
}

// mayBeTold is whether what was told of the flow need not be told again. Of a
// flow that is judged anew the half that answers may have been written with the
// other one, and one that may have begun again with its first packet; a packet
// that may have been of no flow may have had it judged. What is kept is not told of.
func (t Translation) mayBeTold(doubtful bool) bool {
	return t.known && (t.reply || doubtful || t.kept == may)
}

func (t Translation) allows(o Outcome, doubtful bool) bool {
	if o.Out != model.OutNone && o.Out != t.Out {
		return false
	}
	if told := o.Reason == model.ReasonNone && t.mayBeTold(doubtful); (o.Told || o.Reason != model.ReasonNone) && o.Reason != t.Audit && !told {
		return false
	}
	if o.Endpoint != "" && o.Endpoint != t.Endpoint {
		return false
	}
	// What leaves as it came need not have been read, or not as far.
	if o.Quoted != (model.Tuple{}) && o.Quoted != t.Quoted && !t.Unchanged {
		return false
	}
	if o.Inner != (model.Tuple{}) && o.Inner != t.Inner {
		return false
	}
	return o.Tuple == model.Tuple{} || t.leavesAs(o.Tuple)
}

func (t Translation) leavesAs(observed model.Tuple) bool {
	if t.Portless {
		return observed.Src == t.Tuple.Src && observed.Dst == t.Tuple.Dst
	}
	if t.AnySport && (t.ports == nil || t.ports.allows(observed.Sport)) {
		observed.Sport = t.Tuple.Sport
	} else if t.AnySport {
		return false
	}
	return observed == t.Tuple || t.Tuple == model.Tuple{}
}

func (e Expectation) String() string {
	if e.illegal != "" {
		return e.illegal
	}
	var ways []string
	for _, possible := range e.all() {
		if possible.Action != model.Forward {
			var reasons []string
			for _, r := range possible.Reasons {
				reasons = append(reasons, string(r))
			}
			ways = append(ways, fmt.Sprintf("%s (%s)", possible.Action, strings.Join(reasons, " or ")))
			continue
		}
		for _, t := range possible.Translations {
			ways = append(ways, t.String())
		}
	}
	return strings.Join(ways, ", or ")
}

func (t Translation) String() string {
	text := Outcome{Action: model.Forward, Reason: t.Audit, Tuple: t.Tuple, Quoted: t.Quoted, Inner: t.Inner, Out: t.Out, Endpoint: t.Endpoint}.String()
	if t.AnySport {
		text += " from any port"
	}
	if t.ports != nil {
		own := ""
		if t.ports.keepsOwn() {
			own = "its own or "
		}
		text += fmt.Sprintf(" that is free, %sone of %d-%d", own, t.ports.first, t.ports.last)
	}
	return text
}
