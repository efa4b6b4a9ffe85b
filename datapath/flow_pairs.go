// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// FlowPair is a flow with both its directions, as the side that opened it
// sees it.
type FlowPair struct {
	Hook       model.Hook // that the opening packets meet
	Endpoint   string     // there
	Tuple      model.Tuple
	Translated model.Tuple // as they leave
	Src, Dst   model.Key   // names of the ends, before and behind all translation, where they are known
	Service    model.PortRef
	State      FlowState
	Out        model.Out
	Policy     string // the rule that let it through; empty where none was asked
	Idle       time.Duration
	Half       bool // one of its two entries is gone
}

// FlowPairs reads the flow table. Flows whose time is over are left out.
func (v *View) FlowPairs() ([]FlowPair, error) {
	t, err := v.readFlowTables()
	if err != nil {
		return nil, err
	}
	var pairs []FlowPair
	t.each(func(e, half *entry) { pairs = append(pairs, v.pair(t, e, half)) })
	return pairs, nil
}

// flowTables are both flow tables at one time.
type flowTables struct {
	lifetimes            model.Lifetimes
	answered, unanswered map[flowKey]*entry
	names                map[netip.Addr]model.Key
	now                  uint64
}

func (v *View) readFlowTables() (*flowTables, error) {
	t := &flowTables{lifetimes: v.labels.Lifetimes}
	var err error
	if t.answered, err = readFlows(v.maps[bpf.ContainerMapCtAnswered]); err != nil {
		return nil, err
	}
	if t.unanswered, err = readFlows(v.maps[bpf.ContainerMapCtUnanswered]); err != nil {
		return nil, err
	}
	s, err := v.settings()
	if err != nil {
		return nil, err
	}
	if t.now, err = v.clock.read(&s); err != nil {
		return nil, err
	}
	t.names, err = v.ends(int(s.Epoch & 1))
	return t, err
}

// each gives every flow once: its opening entry and the other, which may be
// nil; where the opening one is gone, the reply's alone.
func (t *flowTables) each(do func(e, half *entry)) {
	for _, table := range []map[flowKey]*entry{t.answered, t.unanswered} {
		for key, e := range table {
			if e.dead() || t.over(e) || (e == t.unanswered[key] && t.shadowed(key)) {
				continue
			}
			half := otherHalf(e, t.answered, t.unanswered)
			if e.reply() && half != nil && half.other() == key {
				continue // told from the other side
			}
			if half != nil && half.other() != key {
				half = nil // another flow's
			}
			do(e, half)
		}
	}
}

// shadowed says whether an answered entry stands in front of an unanswered one.
func (t *flowTables) shadowed(key flowKey) bool {
	e := t.answered[key]
	return e != nil && !e.dead()
}

// over says whether a flow's time is over, in both directions.
func (t *flowTables) over(e *entry) bool {
	half := otherHalf(e, t.answered, t.unanswered)
	return t.idle(e, half) > timeoutOf(t.lifetimes, e.key.Proto, pairState(e, half))
}

func (t *flowTables) idle(e, half *entry) time.Duration {
	last := e.value.LastSeen
	if half != nil {
		last = max(last, half.value.LastSeen)
	}
	if t.now <= last {
		return 0
	}
	return time.Duration(t.now - last)
}

func (v *View) pair(t *flowTables, e, half *entry) FlowPair {
	p := FlowPair{
		Hook: hooks[e.key.Hook], Tuple: decodeTuple(&e.key), Translated: translated(e),
		Service: v.labels.service(e.value.Service), State: pairState(e, half),
		Out: outs[e.value.Out], Policy: v.labels.policy(e.value.Origin),
		Idle: t.idle(e, half), Half: half == nil && !e.tunnelled(),
	}
	p.Endpoint = v.labels.at(p.Hook, e.key.Ifindex)
	if e.reply() { // as the opening entry would have it
		p.Hook, p.Out = hooks[e.value.OtherHook], model.OutNone
		p.Endpoint = v.labels.at(p.Hook, e.value.OtherIfindex)
		p.Tuple, p.Translated = reversed(p.Translated), reversed(p.Tuple)
	}
	p.Src, p.Dst = t.names[p.Tuple.Src], t.names[p.Translated.Dst]
	return p
}

// translated is how packets leave that meet an entry: in the family that they came
// in, though IPv6 may name an address that is IPv4's, mapped.
func translated(e *entry) model.Tuple {
	to := e.key
	to.Src, to.Dst, to.Sport, to.Dport = e.value.Src, e.value.Dst, e.value.Sport, e.value.Dport
	return decodeTuple(&to)
}

func reversed(t model.Tuple) model.Tuple {
	return model.Tuple{Src: t.Dst, Dst: t.Src, Sport: t.Dport, Dport: t.Sport, Protocol: t.Protocol}
}
