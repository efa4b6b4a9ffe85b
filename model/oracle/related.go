// SPDX-License-Identifier: Apache-2.0

package oracle

import "github.com/weirnet/weir/model"

// related judges an ICMP error by the flow of the packet that it quotes. It
// goes where the answers to that packet go, so the flow is looked for by the
// quoted tuple turned round, at this very hook.
func (j *judgement) related() {
	quoted := j.headers.quote.tuple
	if j.headers.dst != quoted.Src {
		j.condemn(model.ReasonICMPNoFlow, "it is an error about %s, and is not sent to who sent that", quoted)
		return
	}
	f := j.search(false)
	if f.ought != mustNot {
		j.relatedTo(f.half)
	}
	if f.ought != must {
		j.tell("it is an error about %s, of which no flow is known", quoted)
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonICMPNoFlow}})
	}
}

// relatedTo judges an error as a packet of an entry: what is done to those is
// done to the error's addresses, and undone in its quote.
func (j *judgement) relatedTo(f half) {
	h := j.headers
	turned := h.quote.tuple.Reversed()
	opens, translated := f.way, f.translated
	back := opens
	var reasons []model.Reason
	j.askAnew()
	stale := f.isStale(j.oracle.epoch)
	switch {
	case f.reply:
		if stale {
			opens, reasons = j.judgeAnew(f.flow)
		}
		back, translated = j.replyWay(f.flow), f.leaves()
		j.tell("it is an error about the flow %s", f.opening.tuple)
	case stale && !j.mayKeep(f):
		j.tell("it is an error about an answer in the flow %s, which has to be judged anew first", f.opening.tuple)
		reasons = []model.Reason{model.ReasonICMPNoFlow}
	default:
		j.tell("it is an error about an answer in the flow %s", f.opening.tuple)
	}
	reasons = append(reasons, j.impostor()...)
	outer := model.Tuple{Src: h.src, Dst: translated.Dst, Protocol: h.tuple.Protocol}
	if h.src == turned.Src {
		outer.Src = translated.Src
	}
	quoted := translated.Reversed()
	if back.out == model.OutTunnel {
		quoted = h.quote.tuple // the other node knows it as it is
	}
	j.leave(Translation{
		Tuple: outer, Quoted: quoted, Out: back.out, Endpoint: back.endpoint,
		flow: f.flow, known: true, reply: f.reply, opens: opens,
	}, reasons)
}

// mayKeep is whether an error about an answer may find its flow kept. Where nobody
// tells whether it did, the flow may have to be judged anew first.
func (j *judgement) mayKeep(f half) bool {
	kept := j.keeps(f)
	if kept == may && !j.isDevice() {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonICMPNoFlow}})
	}
	if kept == mustNot || !f.service.IsZero() && !j.stillServes(f.flow) {
		return false
	}
	opens, reasons := j.judgeAnew(f.flow)
	j.askAnew()
	return opens == f.way && len(reasons) == 0
}

// impostor is why nobody can have told of an error so.
func (j *judgement) impostor() []model.Reason {
	h := j.headers
	var reasons []model.Reason
	other := h.src != h.quote.tuple.Dst
	if other && j.at.Hook == model.FromContainer {
		j.tell("%s speaks for another than itself", h.src)
		reasons = append(reasons, model.ReasonSpoofedSource)
	}
	if other && j.at.Hook == model.ToContainer && (j.strayLinkLocal() || j.ledOn && j.world.isHost(h.src)) {
		j.tell("no router has the source address %s", h.src)
		reasons = append(reasons, model.ReasonMartianSource)
	}
	if local := j.world.endpointAt(h.src); other && local != nil && j.at.Hook == model.ToContainer {
		j.tell("%s is %s of this node, whose packets never come this way", h.src, j.world.nameOf(local).Ref())
		reasons = append(reasons, model.ReasonSpoofedSource)
	}
	if h.quote.tiny {
		j.tell("it claims that a link carries less than any has to")
		reasons = append(reasons, model.ReasonICMPMTU)
	}
	return reasons
}
