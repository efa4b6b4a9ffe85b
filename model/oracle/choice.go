// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/model"
)

// affinityKey is what a client's affinity is remembered by: frontends do not
// share theirs.
type affinityKey struct {
	frontend frontend
	client   netip.Addr
}

// preference is one backend that a client may be remembered to have: its last
// flow there began between first and last. The zero preference is none.
type preference struct {
	addr        netip.Addr
	port        uint16
	first, last time.Time
	epoch       int // of the objects, then
}

const (
	// affinitySlop is by how much the clocks of oracle and datapath may differ
	// when they see one frame.
	affinitySlop = time.Second
	// maxAffinities is how many clients are remembered for sure.
	maxAffinities = 65536
)

func (j *judgement) scope() model.Scope {
	if j.at.Hook == model.FromDevice {
		return model.ScopeOutside
	}
	return model.ScopeInside
}

// place is the frontend that the packet would be for, if there is one.
func (j *judgement) place() frontend {
	t := j.headers.tuple
	at := frontend{t.Dst, t.Dport, t.Protocol, j.scope()}
	if j.isLed() && j.world.frontends[at] == nil && j.world.isOtherNode(t.Dst) {
		at.addr = anyNode(t.Dst)
	}
	return at
}

// frontend is whose the packet is. The address of none is nobody's: it stands
// for what is led here.
func (j *judgement) frontend() *served {
	if j.headers.dst.IsUnspecified() {
		return nil
	}
	return j.world.frontends[j.place()]
}

// choose judges, for each server that may be chosen, what a new flow to it
// meets.
func (j *judgement) choose(s *served, lead func(server)) {
	client := j.headers.tuple.Src
	if !s.admits(client) && j.at.Hook != model.ToDevice {
		j.tell("%s is not for %s: its source ranges are %s", s, client, s.sources)
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonSourceRange}})
		return
	}
	may := j.candidates(s, client)
	if j.isLed() {
		may = j.led(s)
	}
	for _, to := range may {
		j.tell("%s port %d may lead it to %s port %d", s, s.port, to.addr, to.port)
		if s.affinity > 0 && !j.isLed() {
			key := affinityKey{j.place(), client}
			j.chances = append(j.chances, chance{key, preference{to.addr, to.port, j.now, j.now, j.oracle.epoch}})
		}
		j.audit = model.ReasonNone
		lead(to)
	}
	switch {
	case len(may) > 0:
	case s.local && !j.isLed():
		j.tell("%s port %d has nobody on this node who takes new flows", s, s.port)
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoLocalBackend}})
	default:
		j.tell("%s port %d has nobody who takes new flows", s, s.port)
		j.refuse()
	}
}

// candidates are the servers of whom one is chosen: all that are eligible, or
// the one that the client's flows stay with.
func (j *judgement) candidates(s *served, client netip.Addr) []server {
	var eligible, kept []server
	for _, b := range s.servers {
		if b.eligible {
			eligible = append(eligible, b)
		}
	}
	remembered := j.oracle.affinities[affinityKey{j.place(), client}]
	anybody := s.affinity == 0 || len(remembered) == 0 || len(j.oracle.affinities) > maxAffinities
	if anybody {
		return eligible
	}
	for _, p := range remembered {
		b, found := s.serverAt(p.addr, p.port)
		alive := j.now.Sub(p.last) <= s.affinity+affinitySlop
		surely := j.now.Sub(p.first) <= s.affinity-affinitySlop && s.since <= p.epoch
		if !found || !b.eligible || !alive {
			return eligible
		}
		if !surely {
			anybody = true
		}
		kept = append(kept, b)
	}
	if anybody {
		return eligible
	}
	j.tell("the flows of %s stay where its last ones went", client)
	return kept
}

// chance is a choice that the datapath may have made and remembered.
type chance struct {
	key    affinityKey
	choice preference
}

// prefer remembers for sure where a client's flow went.
func (o *Oracle) prefer(c chance) { o.affinities[c.key] = []preference{c.choice} }

// mayPrefer remembers a choice beside those that were possible before.
func (o *Oracle) mayPrefer(c chance) {
	all := o.affinities[c.key]
	if len(all) == 0 {
		all = []preference{{}}
	}
	same := func(p preference) bool { return p.addr == c.choice.addr && p.port == c.choice.port }
	at := slices.IndexFunc(all, same)
	if at < 0 {
		o.affinities[c.key] = append(slices.Clone(all), c.choice)
		return
	}
	all = slices.Clone(all)
	all[at].last, all[at].epoch = c.choice.last, min(all[at].epoch, c.choice.epoch)
	o.affinities[c.key] = all
}

// learnAffinity remembers the choice by which a new flow was made.
func (o *Oracle) learnAffinity(e *Expectation, f *flow, doubtful bool) {
	for _, c := range e.chances {
		if c.key.frontend != f.frontend || c.choice.addr != f.translated.Dst || c.choice.port != f.translated.Dport {
			continue
		}
		if doubtful {
			o.mayPrefer(c)
		} else {
			o.prefer(c)
		}
	}
}
