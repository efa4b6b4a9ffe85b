// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"time"

	"github.com/weirnet/weir/model"
)

// Refusals is how often senders are told: one each Every, and Burst at once of each hook
// and endpoint.
type Refusals struct {
	Every time.Duration
	Burst int
}

// defaultRefusals are what a datapath has that nobody has told otherwise.
var defaultRefusals = Refusals{Every: time.Second / model.DefaultRefusals, Burst: model.DefaultRefusals}

// clockSlack is how far the datapath's clock may be from where the oracle has it.
const clockSlack = time.Second

// tolds is how far ahead of time the refusals of one hook and endpoint are: at least,
// and at most.
type tolds struct {
	least, most time.Duration
	last        time.Time
}

// at is the same at a later time.
func (t tolds) at(now time.Time) tolds {
	if t.last.IsZero() {
		return tolds{last: now}
	}
	since := max(now.Sub(t.last), 0)
	t.least = max(t.least-since-clockSlack, 0)
	t.most = max(t.most-max(since-clockSlack, 0), 0)
	t.last = now
	return t
}

// due is whether one that is to be told at a time is.
func (o *Oracle) due(where model.Where, now time.Time) ought {
	t, room := o.told[where].at(now), o.Refusals.Every*time.Duration(o.Refusals.Burst-1)
	switch {
	case t.most <= room:
		return must
	case t.least > room:
		return mustNot
	}
	return may
}

// Answered tells the oracle that the sender of the frame that e is about was told why
// it goes no farther.
func (o *Oracle) Answered(e Expectation, reason model.Reason, now time.Time) {
	if !e.frame.takesRefusal(reason) {
		return
	}
	t := o.told[e.at].at(now)
	t.least += o.Refusals.Every
	t.most += o.Refusals.Every
	o.told[e.at] = t
}

// takesRefusal is whether an answer for a reason is one of those that are bounded: a
// reset, or an error. That of a ping is neither.
func (h *headers) takesRefusal(reason model.Reason) bool {
	switch reason {
	case model.ReasonPolicyIngress, model.ReasonPolicyEgress, model.ReasonTooBig:
		return true
	case model.ReasonNoBackend, model.ReasonNoFrontend:
		return h.tuple.Protocol != model.ProtocolICMP && h.tuple.Protocol != model.ProtocolICMPv6
	}
	return false
}

// bound takes from the reasons for which a sender is told those for which he is told no
// more, and gives all for which the frame may be dropped instead.
func (j *judgement) bound(told []model.Reason) (answered, dropped []model.Reason) {
	due := must
	for _, reason := range told {
		if j.headers.takesRefusal(reason) {
			due = j.oracle.due(j.at, j.now)
		}
	}
	if due == must {
		return told, nil
	}
	j.tell("its endpoint was told as often as it may be")
	for _, reason := range told {
		limited := j.headers.takesRefusal(reason)
		if limited {
			dropped = append(dropped, reason)
		}
		if !limited || due == may {
			answered = append(answered, reason)
		}
	}
	return answered, dropped
}
