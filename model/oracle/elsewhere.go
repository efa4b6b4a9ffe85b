// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	"github.com/weirnet/weir/model"
)

// quotedService is the service that has sent what an error quotes, which comes from
// outside to its address, and the packet that asked it; nil where there is none.
func (j *judgement) quotedService() (model.Tuple, *served) {
	asked := j.headers.quote.tuple.Reversed()
	if j.at.Hook != model.FromDevice || j.headers.dst != asked.Dst {
		return asked, nil
	}
	return asked, j.world.frontends[frontend{asked.Dst, asked.Dport, asked.Protocol, model.ScopeOutside}]
}

// ledElsewhere judges an error about a packet of no flow that this node knows, which
// a service's address has sent: the flow may be another node's, where a backend
// answers its clients by itself. It is whether that backend is known for sure, by
// each choice that the node may make; then nobody else has the error.
func (j *judgement) ledElsewhere() bool {
	h := j.headers
	asked, s := j.quotedService()
	if s == nil || j.isLed() || h.quote.tiny || !j.world.services[h.dst] {
		return false
	}
	if _, node := j.world.nodeOf[asked.Src]; node || len(j.foreigner()) > 0 || j.world.isHost(h.src) || j.world.endpointAt(h.src) != nil {
		return false
	}
	if h.src != asked.Src && isMartianSource(h.src) {
		return false
	}
	var eligible []server
	for _, b := range s.servers {
		if b.eligible {
			eligible = append(eligible, b)
		}
	}
	alike := j.world.local.Options.Algorithm == model.AlgorithmMaglev && s.affinity == 0
	if s.algorithm != "" {
		alike = s.algorithm == string(model.AlgorithmMaglev) && s.affinity == 0
	}
	if len(eligible) == 0 || len(eligible) > 1 && !alike {
		return false
	}
	surely := !slices.ContainsFunc(eligible, func(b server) bool {
		return isMartianSource(b.addr) || j.world.wayIn(asked.Src, b.addr, asked.Protocol).out != model.OutTunnel
	})
	for _, b := range eligible {
		if isMartianSource(b.addr) || j.world.wayIn(asked.Src, b.addr, asked.Protocol).out != model.OutTunnel {
			continue
		}
		j.tell("it is an error about %s, which %s of Service %s may have sent", h.quote.tuple, b.addr, s.service)
		j.leave(Translation{
			Tuple: model.Tuple{Src: h.src, Dst: b.addr, Protocol: h.tuple.Protocol}, Quoted: h.quote.tuple, Out: model.OutTunnel,
		}, nil)
	}
	return surely
}

// ledUnseen is whether another node may have led the flow of an error here through
// its tunnel, where nobody who sees no flow table has seen it.
func (j *judgement) ledUnseen() bool {
	asked, s := j.quotedService()
	if s == nil || j.oracle.Sight != nil || !j.world.answersItself(asked.Protocol) {
		return false
	}
	return slices.ContainsFunc(s.servers, func(b server) bool { return j.world.endpointAt(b.addr) != nil })
}
