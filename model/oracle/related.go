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
	surelyKnown := false
	for _, e := range j.oracle.entriesAt(flowKey{j.at, quoted.Reversed()}) {
		found, sure := e.flow.presence(j.now)
		if !found {
			continue
		}
		j.relatedTo(e)
		surelyKnown = surelyKnown || sure && !e.former
	}
	if !surelyKnown {
		j.tell("it is an error about %s, of which no flow is known", quoted)
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonICMPNoFlow}})
	}
}

// relatedTo judges an error as a packet of an entry: what is done to those is
// done to the error's addresses, and undone in its quote.
func (j *judgement) relatedTo(e entry) {
	h, f := j.headers, e.flow
	turned := h.quote.tuple.Reversed()
	opens, translated := f.way, f.translated
	back := opens
	var reasons []model.Reason
	j.audit = model.ReasonNone
	stale := f.isStale(e.reply, j.oracle.epoch)
	switch {
	case e.reply:
		if stale {
			opens, reasons = j.judgeAnew(f)
		}
		back, translated = j.replyWay(f), f.opening.tuple.Reversed()
		j.tell("it is an error about the flow %s", f.opening.tuple)
	case stale:
		j.tell("it is an error about an answer in the flow %s, which has to be judged anew first", f.opening.tuple)
		reasons = []model.Reason{model.ReasonICMPNoFlow}
		if f.perhapsEpoch == j.oracle.epoch {
			j.tell("which it has been, perhaps")
			j.branches = append(j.branches, branch{reasons: reasons})
			opens, reasons = j.judgeAnew(f)
			back = opens
		}
	default:
		j.tell("it is an error about an answer in the flow %s", f.opening.tuple)
	}
	if h.src != turned.Src && j.at.Hook == model.FromContainer {
		j.tell("%s speaks for another than itself", h.src)
		reasons = append(reasons, model.ReasonSpoofedSource)
	}
	if h.src != turned.Src && j.at.Hook == model.ToContainer && j.strayLinkLocal() {
		j.tell("no router has the source address %s", h.src)
		reasons = append(reasons, model.ReasonMartianSource)
	}
	if h.quote.tiny {
		j.tell("it claims that a link carries less than any has to")
		reasons = append(reasons, model.ReasonICMPMTU)
	}
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
		flow: f, known: true, reply: e.reply, opens: opens,
	}, reasons)
}
