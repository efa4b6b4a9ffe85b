// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

// path is a way of packets whose cost is measured.
type path struct {
	name, help string
	hook       model.Hook
	from       string // the host that sends
	to         string // an address, a %d of which is filled in where there is one
	port       uint16
	answers    bool // the packets that answer are measured
	refused    bool // each packet is dropped
}

// paths are all of them, as they are listed.
func paths() []path {
	return []path{
		{name: "pod-to-service", help: "a pod to a ClusterIP, led to a pod of the node", hook: model.FromContainer, from: client, to: "10.96.0.10", port: 80},
		{name: "service-to-pod", help: "the answers of that pod", hook: model.FromContainer, from: client, to: "10.96.0.10", port: 80, answers: true},
		{name: "pod-to-pod", help: "a pod to another of the node", hook: model.FromContainer, from: client, to: "10.0.0.2", port: 8080},
		{name: "pod-to-world", help: "a pod to hosts outside, with the node's address", hook: model.FromContainer, from: client, to: "203.0.113.%d", port: 443},
		{name: "node-port", help: "a host outside to a node port, led to another node with this one's address", hook: model.FromDevice, from: outside, to: "198.18.0.2", port: 30080},
		{name: "refused", help: "a pod to one whose policy lets nobody in", hook: model.FromContainer, from: client, to: "10.0.0.3", port: 8080, refused: true},
	}
}

// Path is a path by name, for people.
type Path struct {
	Name string `json:"name"`
	Help string `json:"help"`
}

// Paths lists what can be measured.
func Paths() []Path {
	var all []Path
	for _, p := range paths() {
		all = append(all, Path{p.name, p.help})
	}
	return all
}

// ErrNoPath is a name that no path has.
var ErrNoPath = errors.New("there is no such path")

// chosen gives the paths of some names; of none: all.
func chosen(names []string) ([]path, error) {
	all := paths()
	if len(names) == 0 {
		return all, nil
	}
	var some []path
	for _, name := range names {
		i := slices.IndexFunc(all, func(p path) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("measure %s: %w", name, ErrNoPath)
		}
		some = append(some, all[i])
	}
	return some, nil
}

// flags of TCP.
const (
	syn = 0x02
	ack = 0x10
)

// site is where paths are: a world whose first node's datapath is measured.
type site struct {
	w *prog.World
	d *datapath.Datapath
}

// segment makes one of TCP from a host.
func (s *site) segment(from string, t model.Tuple, flags uint8) ([]byte, error) {
	own, gateway, err := s.w.MACs(from)
	if err != nil {
		return nil, err
	}
	return frame.Build(
		frame.Layer{Kind: "eth"}.With("src", frame.MAC(own)).With("dst", frame.MAC(gateway)),
		frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(t.Src)).With("dst", frame.Addr(t.Dst)),
		frame.Layer{Kind: "tcp"}.With("sport", frame.Num(t.Sport)).With("dport", frame.Num(t.Dport)).With("flags", frame.Num(flags)))
}

// tuple is that of flow i of a path.
func (p *path) tuple(i int) model.Tuple {
	t := model.Tuple{Dport: p.port, Sport: uint16(1024 + i/256), Protocol: model.ProtocolTCP}
	to := p.to
	switch p.from {
	case outside:
		t.Src = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
	default:
		t.Src, t.Sport = netip.MustParseAddr("10.0.0.1"), uint16(1024+i)
	}
	if p.hook == model.FromContainer && p.port == 443 {
		to, t.Sport = fmt.Sprintf(p.to, i%256), uint16(1024+i/256)
	}
	t.Dst = netip.MustParseAddr(to)
	return t
}

// frames opens a path's flows, and gives the packets that go on with them, and where.
func (s *site) frames(p *path, flows int) (hook model.Hook, ifindex int, frames [][]byte, err error) {
	for i := range flows {
		var one []byte
		if hook, ifindex, one, err = s.talk(p, p.tuple(i)); err != nil {
			return "", 0, nil, fmt.Errorf("open flow %d of path %s: %w", i, p.name, err)
		}
		frames = append(frames, one)
	}
	return hook, ifindex, frames, nil
}

// talk opens one flow, answers it, and goes on with it.
func (s *site) talk(p *path, t model.Tuple) (model.Hook, int, []byte, error) {
	hook, ifindex := p.hook, s.ifindex(p.hook, p.from)
	opened, _, err := s.send(p.from, hook, ifindex, t, syn)
	if p.refused {
		if err == nil && opened.Decision.Action != model.Drop {
			err = fmt.Errorf("it is not refused: %+v", opened.Decision)
		}
		sent, built := s.segment(p.from, t, syn)
		return hook, ifindex, sent, errors.Join(err, built)
	}
	if err != nil {
		return "", 0, nil, err
	}
	there, backHook, backFrom := translated(opened.Data), model.FromDevice, outside
	if opened.Decision.Out == model.OutLocal {
		backHook, backFrom = model.FromContainer, s.podAt(opened.Decision.Ifindex)
	}
	back := s.ifindex(backHook, backFrom)
	if _, _, err := s.send(backFrom, backHook, back, there.Reversed(), syn|ack); err != nil {
		return "", 0, nil, err
	}
	known, sent, err := s.send(p.from, hook, ifindex, t, ack)
	if err == nil && p.answers {
		hook, ifindex = backHook, back
		known, sent, err = s.send(backFrom, backHook, back, there.Reversed(), ack)
	}
	if err == nil && known.Decision.Flow != datapath.FlowKnown {
		err = fmt.Errorf("its flow is not known: %+v", known.Decision)
	}
	return hook, ifindex, sent, err
}

// send passes a segment through a hook, and gives what became of it and the frame.
func (s *site) send(from string, hook model.Hook, ifindex int, t model.Tuple, flags uint8) (datapath.Ran, []byte, error) {
	sent, err := s.segment(from, t, flags)
	if err != nil {
		return datapath.Ran{}, nil, err
	}
	ran, err := s.d.Run(hook, datapath.Frame{Data: sent, Ifindex: ifindex})
	return ran, sent, err
}

func (s *site) ifindex(hook model.Hook, host string) int {
	if hook == model.FromDevice {
		return s.w.Uplinks("")[0].Ifindex
	}
	return s.w.Devices("")[host].Ifindex
}

func (s *site) podAt(ifindex int) string {
	for name, device := range s.w.Devices("") {
		if device.Ifindex == ifindex {
			return name
		}
	}
	return ""
}

// translated reads the addresses and ports of a frame.
func translated(data []byte) model.Tuple {
	p := frame.Decode(data)
	t := model.Tuple{Src: p.Src, Dst: p.Dst, Protocol: model.ProtocolTCP}
	if p.L4 >= 0 && len(data) >= p.L4+4 {
		t.Sport, t.Dport = binary.BigEndian.Uint16(data[p.L4:]), binary.BigEndian.Uint16(data[p.L4+2:])
	}
	return t
}
