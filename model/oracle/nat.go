// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"github.com/weirnet/weir/model"
)

// learnNative finds what is reached without masquerading, beside the addresses
// of pods and nodes.
func (k *knowledge) learnNative() {
	k.native = append(k.native, k.local.Options.MasqueradeExcluded...)
	for _, block := range k.blocks {
		if block.node.Name != k.node {
			k.native = append(k.native, block.Prefix)
		}
	}
}

// masquerades is whether what pods send to an address leaves the cluster, and
// their source with it.
func (k *knowledge) masquerades(addr netip.Addr) bool {
	_, isNode := k.nodeOf[addr]
	if !k.local.Options.Masquerade || isNode || k.isPodOrWorkload(addr) || k.isGateway(addr) {
		return false
	}
	for _, prefix := range k.native {
		if prefix.Contains(addr) {
			return false
		}
	}
	return true
}

// lent is the address that the node lends to flows of one family. A node
// without uplinks would not see their answers.
func (k *knowledge) lent(like netip.Addr) (netip.Addr, bool) {
	if len(k.local.Uplinks) == 0 {
		return netip.Addr{}, false
	}
	return k.source(like)
}

// lentPorts are the source ports that are taken where a flow's own is not free.
func (k *knowledge) lentPorts() (first, last uint16) {
	first, last = k.local.Options.FirstPort, k.local.Options.LastPort
	if first == 0 {
		first = model.DefaultFirstPort
	}
	if last == 0 {
		last = model.DefaultLastPort
	}
	return first, last
}

// lentPortsAt are those of them that flows which open at a hook may be given: the
// first eighth, or the first one, is for what the node itself sends, and all others
// have what is left. One port alone is for all.
func (k *knowledge) lentPortsAt(hook model.Hook) (first, last uint16) {
	first, last = k.lentPorts()
	size := (uint32(last) - uint32(first) + 1) >> 3
	if first == last {
		return first, last
	}
	if size == 0 {
		size = 1
	}
	if end := first + uint16(size) - 1; hook == model.ToDevice {
		return first, end
	} else {
		return end + 1, last
	}
}

// portProbes is how many source ports are tried at least where the own is taken.
const portProbes = 47

// portChoice is which source ports a translation may be given: those under
// which no other flow has its answers.
type portChoice struct {
	oracle      *Oracle
	answers     flowKey // with the own port
	opening     flowKey
	now         time.Time
	first, last uint16
	kept        uint16 // what the flow had before
	fenced      bool   // it is lent its source: a port outside of the range may be the node's own
	shared      bool   // it is a pod's, which has a share of the ports towards a peer
	plain       bool   // nothing of it needs a port but others' answers
}

// keepsOwn is whether a flow may have the port that it came with.
func (c *portChoice) keepsOwn() bool {
	own := c.answers.tuple.Dport
	return !c.fenced || own >= c.first && own <= c.last
}

func (c *portChoice) allows(port uint16) bool {
	key := c.answers
	own := port == key.tuple.Dport && c.keepsOwn()
	key.tuple.Dport = port
	_, surely := c.taken(key)
	if _, over := c.overShare(port); over && port != c.kept {
		return false
	}
	return !surely && (own || port != 0 && port == c.kept || port >= c.first && port <= c.last)
}

// ownTaken is whether the port that it came with is another flow's, or more than its
// pod may have.
func (c *portChoice) ownTaken() (maybe, surely bool) {
	maybe, surely = c.taken(c.answers)
	perhaps, over := c.overShare(c.answers.tuple.Dport)
	return maybe || perhaps, surely || over
}

// portsApart is how many of a range's ports towards a peer one pod may have at most: a
// quarter. Those that are so far apart it has one of.
func (c *portChoice) portsApart() int { return (int(c.last) - int(c.first) + 4) / 4 }

// partners are the ports that its pod has none of where it has this one.
func (c *portChoice) partners(port uint16) (all []uint16) {
	if !c.shared || port < c.first || port > c.last {
		return nil
	}
	apart := c.portsApart()
	for nth := (int(port) - int(c.first)) % apart; nth < 4*apart; nth += apart {
		if partner := c.first + uint16(nth); partner != port {
			all = append(all, partner)
		}
	}
	return all
}

// overShare is whether a port is more than its pod may have towards the peer: maybe, and
// surely. A port that the flow had before it was over may count too, until it is
// collected.
func (c *portChoice) overShare(port uint16) (maybe, surely bool) {
	for _, partner := range c.partners(port) {
		key := c.answers
		key.tuple.Dport = partner
		whose, known := c.whose(key)
		if known && whose != c.opening.where {
			continue
		}
		perhaps, held := c.taken(key)
		seen := c.oracle.Sight != nil && known
		maybe, surely = maybe || perhaps || seen, surely || held
	}
	return maybe, surely
}

// whose is where the flow was opened that has its answers under a key; no pod's where it
// has none.
func (c *portChoice) whose(key flowKey) (where model.Where, known bool) {
	if c.oracle.Sight != nil {
		if e, there := c.oracle.sees(key); there && e.Reply && !e.Dead {
			return e.Other, true
		}
		return where, true
	}
	h := c.oracle.flows[key]
	if h.flow != nil && h.reply {
		where = h.opening.where
	}
	_, dying := c.oracle.dying[key]
	return where, h.flow != nil || !dying
}

// taken is whether answers under a key are another flow's: maybe, and surely.
// What is seen there when the packet has left is either its own or another's.
func (c *portChoice) taken(key flowKey) (maybe, surely bool) {
	h := c.oracle.flows[key]
	if c.oracle.Sight != nil {
		e, there := c.oracle.sees(key)
		own := e.Reply && !e.Dead && e.Leaves == c.opening.tuple.Reversed() && e.Other == c.opening.where
		taken := there && !own
		// What is over, and not written over yet, takes nothing: a reset of nothing
		// known borrows its port, and leaves it there, even when it was collected. What
		// nobody has answered in time is no flow, and is there all the same; of what was
		// answered only those that need a port wait until it is collected.
		_, over := c.oracle.dying[key]
		if h.flow != nil {
			ought := h.ought(key.tuple.Protocol, c.now)
			over = h.is(e) && (ought == mustNot || ought != must && (c.plain || !e.Answered)) || h.states&^unanswered == 0 && ought != must
		}
		return taken, taken && !e.Dead && !over
	}
	_, maybe = c.oracle.dying[key]
	if h.flow == nil {
		return maybe, false
	}
	ought := h.ought(key.tuple.Protocol, c.now)
	return maybe || ought != mustNot, ought == must && h.opening != c.opening
}

// crowded is whether so many ports may be taken that all that are tried are.
func (c *portChoice) crowded() bool {
	room := portProbes
	if size := int(c.last) - int(c.first) + 1; size < room {
		room = size
	}
	busy := map[uint16]bool{}
	count := func(key flowKey) {
		like := c.answers
		like.tuple.Dport = key.tuple.Dport
		if key != like || key.tuple.Dport < c.first || key.tuple.Dport > c.last {
			return
		}
		busy[key.tuple.Dport] = true
		if whose, known := c.whose(key); !known || whose == c.opening.where {
			for _, partner := range c.partners(key.tuple.Dport) {
				busy[partner] = true
			}
		}
	}
	for key := range c.oracle.flows {
		count(key)
	}
	for key := range c.oracle.dying {
		count(key)
	}
	return len(busy) >= room
}

// portsFor gives the ports that a flow may be given.
func (j *judgement) portsFor(f flow) *portChoice {
	f.node = j.oracle.node
	c := &portChoice{oracle: j.oracle, answers: f.answersAt(), opening: f.opening, now: j.now}
	c.first, c.last = 1024, 65535
	if len(j.world.local.Uplinks) > 0 && !f.hairpin { // some are the node's own
		c.first, c.last = j.world.lentPortsAt(f.opening.where.Hook)
	}
	c.fenced = f.translated.Src != f.opening.tuple.Src && f.opening.where.Hook != model.ToDevice && !f.hairpin && hasPorts(f.translated)
	c.shared = c.fenced && len(j.world.local.Uplinks) > 0 && f.opening.where.Hook == model.FromContainer
	return c
}

// hasPorts is whether a source port can be changed: SCTP's checksum covers it,
// and of ICMP only the family's own has identifiers.
func hasPorts(t model.Tuple) bool {
	switch t.Protocol {
	case model.ProtocolTCP, model.ProtocolUDP:
		return true
	case model.ProtocolICMP:
		return t.Src.Is4()
	case model.ProtocolICMPv6:
		return t.Src.Is6()
	}
	return false
}

// leaveByPort judges a new flow whose answers are told from others' by its
// source port: its own, or another where that is taken.
func (j *judgement) leaveByPort(t model.Tuple, to way, s *served, reasons []model.Reason) {
	j.leaveApart(t, to, j.newFlow(t, to, s), j.portsFor(flow{opening: flowKey{j.at, j.headers.tuple}, translated: t, way: to}), reasons)
}

// leaveApart is that for the flow that would be remembered, and its ports.
func (j *judgement) leaveApart(t model.Tuple, to way, f *flow, c *portChoice, reasons []model.Reason) {
	c.kept = j.kept
	maybe, surely := c.ownTaken()
	tr := Translation{Tuple: t, Out: to.out, Endpoint: to.endpoint, flow: f, opens: to}
	switch {
	case !maybe && !j.again && c.keepsOwn():
	case !hasPorts(t):
		if surely {
			j.tell("another flow has its answers under the same addresses and port")
			reasons = append(reasons, model.ReasonNoSourcePort)
		} else {
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoSourcePort}})
		}
	default:
		tr.AnySport, tr.ports = true, c
		if c.crowded() {
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoSourcePort}})
		}
	}
	j.leave(tr, reasons)
}

// masqueraded is whether a flow has a source that is not its opener's.
func (f *flow) masqueraded() bool { return f.translated.Src != f.opening.tuple.Src && !f.hairpin }

// hasSource is whether a flow's answers are told from others' by a source port
// that it alone has.
func (f *flow) hasSource() bool {
	return f.hairpin || f.masqueraded() || f.opening.where.Hook == model.ToDevice ||
		f.way.out != model.OutTunnel && f.translated.Sport != f.opening.tuple.Sport
}

// sourceFor gives what leaves a hook by some way the source that it has there;
// false when there is none of its family.
func (j *judgement) sourceFor(own, dst netip.Addr, hook model.Hook, out model.Out) (netip.Addr, bool) {
	if out != model.OutDevice {
		return own, true
	}
	lent, has := j.world.lent(dst)
	switch {
	case hook == model.FromDevice:
		return lent, has
	case hook == model.FromContainer && has && j.world.masquerades(dst):
		return lent, true
	}
	return own, true
}

// resource gives a known flow that is judged anew the source that it has by
// its way now, and its port where it keeps that: not where the answers of another
// come to where its own would. One that is kept has both.
func (j *judgement) resource(f *flow, opens way, kept ought) (Translation, []model.Reason) {
	t := Translation{Tuple: f.translated, Out: opens.out, Endpoint: opens.endpoint, flow: f, known: true, kept: kept, opens: opens}
	own, source := f.opening.tuple, f.translated.Src
	if !f.hairpin {
		lent, has := j.sourceFor(own.Src, t.Tuple.Dst, f.opening.where.Hook, opens.out)
		if source = lent; !has {
			return t, []model.Reason{model.ReasonNoSourcePort}
		}
	}
	if source != f.translated.Src {
		t.Tuple.Src, t.Tuple.Sport = source, own.Sport
	} else if kept == must {
		return t, nil
	}
	if opens.out == model.OutTunnel {
		return t, nil // this node does not see its answers
	}
	like := flow{opening: f.opening, translated: t.Tuple, way: opens, hairpin: f.hairpin}
	c := j.portsFor(like)
	c.kept, c.plain = f.translated.Sport, !like.hasSource()
	if c.answers == f.replies && j.oracle.flows[f.replies].flow == f {
		return t, nil
	}
	maybe, surely := c.ownTaken()
	switch {
	case !maybe && (source == f.translated.Src || c.keepsOwn()):
	case !hasPorts(t.Tuple):
		if surely {
			return t, []model.Reason{model.ReasonNoSourcePort}
		}
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoSourcePort}})
	default:
		t.AnySport, t.ports = true, c
		if c.crowded() {
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoSourcePort}})
		}
	}
	return t, nil
}
