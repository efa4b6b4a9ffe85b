// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"github.com/weirnet/weir/model"
)

// affinityKey is what a client's affinity is remembered by: all frontends of a
// service's port share it, for as long as the service asks for that.
type affinityKey struct {
	service  model.Key
	port     uint16 // by which the service calls it
	protocol model.Protocol
	client   netip.Addr
}

// preference is the backend that a client is known to have, since its last
// flow began.
type preference struct {
	addr  netip.Addr
	port  uint16
	since time.Time
	epoch int // of the objects, then
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
		j.askAnew()
		if isMartianSource(to.addr) && !j.isLed() {
			j.tell("no host serves at %s, whoever lists it", to.addr)
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonMartianDestination}})
			continue
		}
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

// keeps is by what a client of a service is remembered.
func (s *served) keeps(protocol model.Protocol, client netip.Addr) affinityKey {
	return affinityKey{s.service, s.of, protocol, client}
}

// candidates are the servers of whom one is chosen: all that are eligible, or
// the one that the client's flows stay with.
func (j *judgement) candidates(s *served, client netip.Addr) []server {
	var eligible []server
	for _, b := range s.servers {
		if b.eligible {
			eligible = append(eligible, b)
		}
	}
	p, known := j.oracle.affinities[s.keeps(j.headers.tuple.Protocol, client)]
	b, found := s.serverAt(p.addr, p.port)
	age := j.now.Sub(p.since)
	if s.affinity == 0 || !known || !found || !b.eligible || age > s.affinity-affinitySlop ||
		s.stays > p.epoch || len(j.oracle.affinities) > maxAffinities {
		return eligible
	}
	j.tell("the flows of %s stay where its last ones went", client)
	return []server{b}
}

// stick remembers who serves the client of a flow that begins; nobody, where
// that is in doubt.
func (o *Oracle) stick(f *flow, doubtful bool, now time.Time) {
	key := f.sticks
	switch {
	case key == affinityKey{}:
	case doubtful:
		delete(o.affinities, key)
	default:
		o.affinities[key] = preference{f.translated.Dst, f.translated.Dport, now, o.epoch}
	}
}
