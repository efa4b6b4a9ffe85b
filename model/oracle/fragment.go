// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"github.com/weirnet/weir/model"
)

// fragmentKey is what the fragments of one packet have in common.
type fragmentKey struct {
	where    model.Where
	src, dst netip.Addr
	id       uint32
	protocol model.Protocol // of IPv4
}

// firstFragment is what is remembered of one for those that follow.
type firstFragment struct {
	transport
	headerEnd int // later fragments begin there or behind
	seen      time.Time
}

const (
	// fragmentPatience is how long a first fragment is remembered.
	fragmentPatience = 30 * time.Second
	// fragmentSlop is by how much the clocks of oracle and datapath may
	// differ when they see one frame: so near to the end, both answers are
	// right.
	fragmentSlop = time.Second
)

func keyOfFragment(h *headers, at model.Where) fragmentKey {
	return fragmentKey{where: at, src: h.src, dst: h.dst, id: h.fragment.id, protocol: h.fragment.protocol}
}

// recall gives a later fragment what was read of the first. What lies over the
// first one's header, or comes without it, is dropped: there is no guess.
func (j *judgement) recall() {
	h := j.headers
	first, found := j.oracle.fragments[keyOfFragment(h, j.at)]
	age := j.now.Sub(first.seen)
	switch {
	case !found || age > fragmentPatience+fragmentSlop:
		j.condemn(model.ReasonFragment, "it is a later fragment of a packet whose first fragment has not come, or long ago")
		return
	case h.fragment.offset < first.headerEnd:
		j.condemn(model.ReasonFragment, "it would lie over the transport header of the first fragment, which ends at %d", first.headerEnd)
		return
	}
	old := age > fragmentPatience-fragmentSlop
	h.transport = first.transport
	if old {
		j.forgotten()
	}
	j.tell("it follows the first fragment of %s", h.tuple)
	for _, reason := range h.messageReasons() {
		j.condemn(reason, "fragments of this ICMP message are dropped: %s", reason)
	}
}

// forgotten is for when nobody can tell whether the first fragment is still
// remembered.
func (j *judgement) forgotten() {
	if j.isDevice() && !j.isGuarded() {
		j.passBy("its first fragment may be forgotten")
		return
	}
	j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonFragment}})
}

// learnFragment remembers the ports of a first fragment, whatever became of it.
func (o *Oracle) learnFragment(e *Expectation, now time.Time) {
	h := &e.frame
	if h.fragment == nil || !h.fragment.learnable {
		return
	}
	length := 8
	if h.tuple.Protocol == model.ProtocolTCP {
		length = tcpLen
	}
	key := keyOfFragment(h, e.at)
	o.fragments[key] = firstFragment{transport: h.transport, headerEnd: h.fragment.start + length, seen: now}
	o.takePart(key)
}

// forgetFragments drops the first fragments that nobody can refer to any more.
func (o *Oracle) forgetFragments(now time.Time) {
	for key, first := range o.fragments {
		if now.Sub(first.seen) > fragmentPatience+fragmentSlop {
			delete(o.fragments, key)
		}
	}
}
