// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// NAT is a source that stands for another: of a flow that left by masquerading
// or through a service, and is answered at one of the node's devices.
type NAT struct {
	Protocol model.Protocol
	Inside   netip.AddrPort // the port is an ICMP echo's identifier
	Outside  netip.AddrPort // what stands for it
	Peer     netip.AddrPort
	Name     model.Key // of who is inside, where it is known
	Service  model.PortRef
	State    FlowState
	Idle     time.Duration
	// Taken of Ports source ports stand for somebody towards this peer.
	Taken, Ports int
}

// NATs lists the sources that are translated, and how full the ports towards
// their peers are.
func (v *View) NATs() ([]NAT, error) {
	t, err := v.readFlowTables()
	if err != nil {
		return nil, err
	}
	first, last, err := v.sourcePorts()
	if err != nil {
		return nil, err
	}
	taken := t.takenPorts(first, last)
	var nats []NAT
	t.each(func(e, half *entry) {
		p := v.pair(t, e, half)
		if !sourceTranslated(e, &p) {
			return
		}
		n := NAT{
			Protocol: p.Tuple.Protocol, Name: p.Src, Service: p.Service, State: p.State, Idle: p.Idle,
			Inside:  netip.AddrPortFrom(p.Tuple.Src, p.Tuple.Sport),
			Outside: netip.AddrPortFrom(p.Translated.Src, p.Translated.Sport),
			Peer:    netip.AddrPortFrom(p.Translated.Dst, p.Translated.Dport),
			Ports:   int(last) - int(first) + 1,
		}
		n.Taken = taken[peer{n.Protocol, n.Outside.Addr(), n.Peer}]
		nats = append(nats, n)
	})
	return nats, nil
}

func sourceTranslated(e *entry, p *FlowPair) bool {
	answeredAt := hooks[e.value.OtherHook]
	if e.reply() {
		answeredAt = hooks[e.key.Hook]
	}
	return answeredAt == model.FromDevice && (p.Tuple.Src != p.Translated.Src || p.Tuple.Sport != p.Translated.Sport)
}

// peer is what has all source ports once: a protocol, an address that stands
// for others, and who is spoken to.
type peer struct {
	protocol model.Protocol
	outside  netip.Addr
	at       netip.AddrPort
}

// takenPorts counts the keys under which answers would come, by peer.
func (t *flowTables) takenPorts(first, last uint16) map[peer]int {
	taken := map[peer]int{}
	for _, table := range []map[flowKey]*entry{t.answered, t.unanswered} {
		for key, e := range table {
			if !e.reply() || hooks[key.Hook] != model.FromDevice {
				continue
			}
			if e == t.unanswered[key] && (t.answered[key] != nil || t.over(e)) {
				continue
			}
			tuple := decodeTuple(&key)
			if tuple.Dport < first || tuple.Dport > last {
				continue
			}
			taken[peer{tuple.Protocol, tuple.Dst, netip.AddrPortFrom(tuple.Src, tuple.Sport)}]++
		}
	}
	return taken
}

// sourcePorts is the range of ports that masquerading takes.
func (v *View) sourcePorts() (first, last uint16, err error) {
	err = v.consistent(func(half int) error {
		zero := uint32(0)
		var pair [2]nodeHalf
		err := v.maps[bpf.ContainerMapNodes].Lookup(&zero, &pair)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read table nodes: %w", err)
		}
		first, last = pair[half].FirstPort, pair[half].LastPort
		if last == 0 { // as bpf/lib/nat.h has it
			first, last = 1024, 65535
		}
		return nil
	})
	return first, last, err
}
