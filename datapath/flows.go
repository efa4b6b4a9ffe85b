// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Flow is one entry of the flow table: one direction of a flow at one hook.
type Flow struct {
	Hook       model.Hook
	Endpoint   string        // name, or "ifindex N" of an endpoint that is gone
	Tuple      model.Tuple   // as the hook sees the packets
	Translated model.Tuple   // as they leave
	Reply      bool          // the reply direction
	Answered   bool          // in the table of answered flows
	State      FlowState     // of the flow, from both its entries
	Service    model.PortRef // by whose frontend it was translated
	Out        model.Out
	Ifindex    int
	Epoch      uint32
	Idle       time.Duration // of this direction
}

// FlowState is where a flow is. For TCP the names are those of the kernel's
// connection tracking, from the flags that each direction has shown.
type FlowState string

// States of a flow.
const (
	StateUnanswered FlowState = "unanswered" // not TCP: one direction was seen
	StateAnswered   FlowState = "answered"   // not TCP: both were

	StateSynSent     FlowState = "syn-sent"     // TCP: a SYN, no answer
	StateSynReceived FlowState = "syn-received" // SYNs both ways, no acknowledgement yet
	StateEstablished FlowState = "established"
	StateFinWait     FlowState = "fin-wait"  // one side has closed
	StateTimeWait    FlowState = "time-wait" // both have
	StateClosed      FlowState = "closed"    // reset
)

// ofTCP are the lifetimes of connections by their state.
var ofTCP = map[FlowState]model.Lifetime{
	StateSynSent:     model.LifetimeTCPUnanswered,
	StateSynReceived: model.LifetimeTCPSynReceived,
	StateEstablished: model.LifetimeTCPEstablished,
	StateFinWait:     model.LifetimeTCPFinWait,
	StateTimeWait:    model.LifetimeTCPTimeWait,
	StateClosed:      model.LifetimeTCPClosed,
}

// stateOf gives a flow's state from the flags that its opening and its reply
// direction have shown.
func stateOf(proto uint8, opening, reply uint8, answered bool) FlowState {
	const (
		fin = uint8(bpf.ContainerFlowSeenSEEN_FIN)
		syn = uint8(bpf.ContainerFlowSeenSEEN_SYN)
		rst = uint8(bpf.ContainerFlowSeenSEEN_RST)
		ack = uint8(bpf.ContainerFlowSeenSEEN_ACK)
	)
	if model.Protocol(proto) != model.ProtocolTCP {
		if answered {
			return StateAnswered
		}
		return StateUnanswered
	}
	switch {
	case (opening|reply)&rst != 0:
		return StateClosed
	case opening&reply&fin != 0:
		return StateTimeWait
	case (opening|reply)&fin != 0:
		return StateFinWait
	case reply == 0:
		return StateSynSent
	case opening&ack == 0:
		return StateSynReceived
	case opening&syn != 0 && reply&syn == 0:
		return StateSynSent // something came back, but no SYN
	}
	return StateEstablished
}

// timeoutOf is how long an answered flow may be idle, in both directions.
func timeoutOf(l model.Lifetimes, proto uint8, state FlowState) time.Duration {
	switch model.Protocol(proto) {
	case model.ProtocolTCP:
		return l.Of(ofTCP[state])
	case model.ProtocolUDP:
		return l.Of(model.LifetimeUDP)
	case model.ProtocolICMP, model.ProtocolICMPv6:
		return l.Of(model.LifetimeICMP)
	}
	return l.Of(model.LifetimeOther)
}

// timeoutUnanswered is how long packets find a flow that nobody has answered.
func timeoutUnanswered(l model.Lifetimes, proto uint8) time.Duration {
	switch model.Protocol(proto) {
	case model.ProtocolTCP:
		return l.Of(model.LifetimeTCPUnanswered)
	case model.ProtocolUDP:
		return l.Of(model.LifetimeUDPUnanswered)
	case model.ProtocolICMP, model.ProtocolICMPv6:
		return l.Of(model.LifetimeICMPUnanswered)
	}
	return l.Of(model.LifetimeOtherUnanswered)
}

// lifetimesOfPrograms are those that programs know, in seconds by their constants.
// Those of answered flows are the longest: programs tell no states apart.
func lifetimesOfPrograms(l model.Lifetimes) map[string]uint32 {
	longest := func(kinds ...model.Lifetime) time.Duration {
		var span time.Duration
		for _, kind := range kinds {
			span = max(span, l.Of(kind))
		}
		return span
	}
	return map[string]uint32{
		bpf.ContainerVarUnansweredTcp:   seconds(l.Of(model.LifetimeTCPUnanswered)),
		bpf.ContainerVarUnansweredUdp:   seconds(l.Of(model.LifetimeUDPUnanswered)),
		bpf.ContainerVarUnansweredIcmp:  seconds(l.Of(model.LifetimeICMPUnanswered)),
		bpf.ContainerVarUnansweredOther: seconds(l.Of(model.LifetimeOtherUnanswered)),
		bpf.ContainerVarAnsweredTcp: seconds(longest(model.LifetimeTCPEstablished, model.LifetimeTCPFinWait,
			model.LifetimeTCPSynReceived, model.LifetimeTCPTimeWait, model.LifetimeTCPClosed)),
		bpf.ContainerVarAnsweredOther: seconds(longest(model.LifetimeUDP, model.LifetimeICMP, model.LifetimeOther)),
	}
}

// entry is an element of a flow table.
type entry struct {
	key   flowKey
	value flowValue
}

func (e *entry) reply() bool { return e.value.Flags&uint8(bpf.ContainerFlowFlagsFLOW_REPLY) != 0 }
func (e *entry) dead() bool  { return e.value.Flags&uint8(bpf.ContainerFlowFlagsFLOW_DEAD) != 0 }
func (e *entry) answered() bool {
	return e.value.Flags&uint8(bpf.ContainerFlowFlagsFLOW_ANSWERED) != 0
}

// other is the key of the flow's other direction.
func (e *entry) other() flowKey {
	return flowKey{
		Src: e.value.Dst, Dst: e.value.Src, Sport: e.value.Dport, Dport: e.value.Sport,
		Proto: e.key.Proto, Family: e.key.Family, Hook: e.value.OtherHook, Ifindex: e.value.OtherIfindex,
	}
}

// readFlows reads a flow table. Entries that come and go meanwhile may be
// missing or be there twice: the last one read counts.
func readFlows(m *ebpf.Map) (map[flowKey]*entry, error) {
	found := map[flowKey]*entry{}
	err := readBatches(m, func(key flowKey, value flowValue) { found[key] = &entry{key, value} })
	return found, err
}

// readBatches reads a hash table that packets may write meanwhile.
func readBatches[K, V any](m *ebpf.Map, each func(K, V)) error {
	const chunk = 512
	keys, values := make([]K, chunk), make([]V, chunk)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read table %s: %w", mapName(m), err)
		}
		for i := range n {
			each(keys[i], values[i])
		}
		if err != nil {
			return nil
		}
	}
}

// Flows reads the flow table.
func (d *Datapath) Flows() ([]Flow, error) {
	answered, err := readFlows(d.maps[bpf.ContainerMapCtAnswered])
	if err != nil {
		return nil, err
	}
	unanswered, err := readFlows(d.maps[bpf.ContainerMapCtUnanswered])
	if err != nil {
		return nil, err
	}
	now, err := d.now()
	if err != nil {
		return nil, err
	}
	l := d.shown()
	var flows []Flow
	for _, table := range []map[flowKey]*entry{answered, unanswered} {
		for key, e := range table {
			if e.dead() {
				continue
			}
			f := l.flow(e, otherHalf(e, answered, unanswered), now)
			_, f.Answered = answered[key]
			flows = append(flows, f)
		}
	}
	return flows, nil
}

func (l *labels) flow(e, half *entry, now uint64) Flow {
	f := Flow{
		Hook: hooks[e.key.Hook], Endpoint: l.at(hooks[e.key.Hook], e.key.Ifindex),
		Tuple: decodeTuple(&e.key), Reply: e.reply(),
		State: pairState(e, half), Out: outs[e.value.Out],
		Ifindex: int(e.value.Ifindex), Epoch: e.value.Epoch,
		Service:    l.service(e.value.Service),
		Translated: translated(e),
	}
	if now > e.value.LastSeen {
		f.Idle = time.Duration(now - e.value.LastSeen)
	}
	return f
}

// tunnelled flows have their answers go another way: there is one entry only.
func (e *entry) tunnelled() bool { return e.value.Out == uint8(bpf.ContainerOutOUT_TUNNEL) }

func pairState(e, half *entry) FlowState {
	if e.tunnelled() {
		return tunnelledState(e)
	}
	opening, reply := e.value.Seen, uint8(0)
	answered := e.answered()
	if half != nil {
		reply = half.value.Seen
		answered = answered || half.answered()
	}
	if e.reply() {
		opening, reply = reply, opening
	}
	return stateOf(e.key.Proto, opening, reply, answered)
}

// tunnelledState takes the opener's word for what the other side did: who
// acknowledges has seen an answer.
func tunnelledState(e *entry) FlowState {
	reply := uint8(0)
	if e.value.Seen&uint8(bpf.ContainerFlowSeenSEEN_ACK) != 0 {
		reply = uint8(bpf.ContainerFlowSeenSEEN_SYN) | uint8(bpf.ContainerFlowSeenSEEN_ACK)
	}
	return stateOf(e.key.Proto, e.value.Seen, reply, e.answered())
}
