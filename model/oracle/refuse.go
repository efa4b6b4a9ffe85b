// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	"github.com/weirnet/weir/model"
)

// What a policy says of what it denies: that it is only told, or that its sender is
// told.

// askAnew forgets what the policies have said that were asked before.
func (j *judgement) askAnew() { j.audit, j.refused = model.ReasonNone, nil }

// heed notes who has decided, a denial that is only told, of two the one that was asked
// for last, and one that is refused.
func (j *judgement) heed(r Ruling) {
	j.rulings = append(j.rulings, r)
	audit, denied := model.ReasonAuditIngress, model.ReasonPolicyIngress
	if r.Direction == model.Egress {
		audit, denied = model.ReasonAuditEgress, model.ReasonPolicyEgress
	}
	switch r.Action {
	case model.RuleAudit:
		j.audit = audit
	case model.RuleRefuse:
		j.refused = append(j.refused, denied)
	}
}

// refusals are the reasons of policies for which the sender of this packet is told.
// Nothing is said of a reset (RFC 9293 3.5.2), of an error (RFC 1122 3.2.2, RFC 4443
// 2.4), of what a link carries to many, of a fragment or what has options or
// extension headers, of what has less than an error quotes, and of what a tunnel has
// led here, which the kernel does not let a program cut.
func (j *judgement) refusals() []model.Reason {
	h := j.headers
	if h.resets() || h.message == errorMessage || h.message == unrelatedError || h.forMany || h.extended || j.isLed() || h.behind < udpLen {
		return nil
	}
	return slices.Clone(j.refused)
}

// denial is what policies of any kind, or the operator where they are silent, want
// done to what is denied: RuleDeny or RuleRefuse.
func (k *knowledge) denial(q *question, annotations map[string]string) model.RuleAction {
	said, found := annotations["weir.net/denied-ingress"]
	otherwise := k.local.Options.DeniedIngress
	if q.direction == model.Egress {
		said, found = annotations["weir.net/denied-egress"]
		otherwise = k.local.Options.DeniedEgress
	}
	if !found {
		said = string(otherwise)
	}
	if said == "refuse" {
		return model.RuleRefuse
	}
	return model.RuleDeny
}
