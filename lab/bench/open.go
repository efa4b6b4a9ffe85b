// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

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

// atOnce is how many flows are opened before they are answered: half of what one pod
// may have in the table of unanswered flows.
const atOnce = 1 << 12

// open opens flows of a path, has them answered, and gives what a Bench of them is of.
func (s *site) open(p *path, f Family, flows int) (datapath.Benched, error) {
	what := datapath.Benched{Hook: p.hook, Ifindex: s.ifindex(p.hook, p.from), Opens: p.opens, ByChance: p.byChance}
	for from := 0; from < flows; from += atOnce {
		var tuples []model.Tuple
		for i := from; i < min(from+atOnce, flows); i++ {
			tuples = append(tuples, p.tuple(f, i))
		}
		if err := s.openSome(p, tuples, &what); err != nil {
			return what, fmt.Errorf("open flows of path %s: %w", p.name, err)
		}
	}
	if p.byChance {
		return what, nil
	}
	return what, s.expect(p, &what)
}

// openSome opens some flows, and adds the packets that go on with them.
func (s *site) openSome(p *path, tuples []model.Tuple, what *datapath.Benched) error {
	openings, err := s.segments(p, p.from, tuples, syn)
	if err != nil {
		return err
	}
	if p.opens || p.out == model.OutNone {
		what.Frames = append(what.Frames, openings...)
		return nil
	}
	hook, ifindex := p.hook, s.ifindex(p.hook, p.from)
	if err := s.d.Pass(hook, ifindex, openings); err != nil {
		return err
	}
	answered, err := s.answer(p)
	if err != nil {
		return err
	}
	going, err := s.segments(p, p.from, tuples, ack)
	if err != nil {
		return err
	}
	// The second has the entry of the opening's direction move to the answered.
	for range 2 {
		if err := s.d.Pass(hook, ifindex, going); err != nil {
			return err
		}
	}
	if p.answers {
		what.Hook, what.Ifindex, tuples = answered.hook, answered.ifindex, answered.tuples
		if going, err = s.segments(&path{}, s.at(answered.hook, answered.ifindex), tuples, ack); err != nil {
			return err
		}
		if err := s.d.Pass(what.Hook, what.Ifindex, going); err != nil {
			return err
		}
	}
	what.Frames, what.Flows = append(what.Frames, going...), append(what.Flows, tuples...)
	return nil
}

// awaited are answers that come by one device.
type awaited struct {
	hook    model.Hook
	ifindex int
	tuples  []model.Tuple
}

// answer answers all who wait. What goes into a tunnel is answered elsewhere.
func (s *site) answer(p *path) (awaited, error) {
	var all awaited
	var mixed error
	err := s.d.Awaited(func(hook model.Hook, ifindex int, answer model.Tuple) {
		if ifindex == 0 {
			ifindex = s.ifindex(hook, outside)
		}
		if len(all.tuples) > 0 && (all.hook != hook || all.ifindex != ifindex) {
			mixed = fmt.Errorf("answers come at %s of device %d, and at %s of %d", all.hook, all.ifindex, hook, ifindex)
		}
		all.hook, all.ifindex, all.tuples = hook, ifindex, append(all.tuples, answer)
	})
	if err == nil {
		err = mixed
	}
	if err != nil || len(all.tuples) == 0 {
		return all, err
	}
	answers, err := s.segments(&path{}, s.at(all.hook, all.ifindex), all.tuples, syn|ack)
	if err != nil {
		return all, err
	}
	return all, s.d.Pass(all.hook, all.ifindex, answers)
}

// segments makes one of TCP for each tuple, as its sender's machine sends it.
func (s *site) segments(p *path, from string, tuples []model.Tuple, flags uint8) ([][]byte, error) {
	sender := from
	if p.tunnelled {
		sender = far
	}
	own, gateway, err := s.w.MACs(sender)
	if err != nil {
		return nil, err
	}
	frames := make([][]byte, len(tuples))
	for i, t := range tuples {
		layers := []frame.Layer{frame.Layer{Kind: "eth"}.With("src", frame.MAC(own)).With("dst", frame.MAC(gateway))}
		if p.tunnelled {
			layers = append(layers, around(t)...)
		}
		layers = append(layers, ip(t.Src, t.Dst),
			frame.Layer{Kind: "tcp"}.With("sport", frame.Num(t.Sport)).With("dport", frame.Num(t.Dport)).With("flags", frame.Num(flags)))
		if frames[i], err = frame.Build(layers...); err != nil {
			return nil, err
		}
	}
	return frames, nil
}

// around is the tunnel from the other node to the pod that it has chosen.
func around(t model.Tuple) []frame.Layer {
	f := 0
	if t.Src.Is6() {
		f = 1
	}
	return []frame.Layer{
		ip(netip.MustParseAddr(node2[f]), netip.MustParseAddr(web[f])),
		frame.Layer{Kind: "udp"}.With("sport", frame.Num(50000)).With("dport", frame.Num(6081)),
		{Kind: "geneve"},
	}
}

func ip(src, dst netip.Addr) frame.Layer {
	kind := "ipv4"
	if src.Is6() {
		kind = "ipv6"
	}
	return frame.Layer{Kind: kind}.With("src", frame.Addr(src)).With("dst", frame.Addr(dst))
}

// expect holds what becomes of the first packet against what the path says.
func (s *site) expect(p *path, what *datapath.Benched) error {
	ran, err := s.d.Run(what.Hook, datapath.Frame{Data: what.Frames[0], Ifindex: what.Ifindex})
	if err != nil {
		return fmt.Errorf("path %s: %w", p.name, err)
	}
	d := ran.Decision
	known := len(what.Flows) > 0
	if d.Out != p.out || known != (d.Flow == datapath.FlowKnown) {
		return fmt.Errorf("path %s: its packets are to leave by '%s': %+v", p.name, p.out, d)
	}
	if p.out == model.OutNone || p.tunnelled {
		return nil
	}
	if same := sameEnds(what.Frames[0], ran.Data); same == p.translated && p.out != model.OutTunnel {
		return fmt.Errorf("path %s: its packets are to be translated: %t, and this is not so: %x, %x", p.name, p.translated, what.Frames[0], ran.Data)
	}
	return nil
}

// sameEnds says whether two frames have the same addresses and ports.
func sameEnds(a, b []byte) bool { return bytes.Equal(ends(a), ends(b)) }

func ends(data []byte) []byte {
	p := frame.Decode(data)
	out := append(p.Src.AsSlice(), p.Dst.AsSlice()...)
	if p.L4 < 0 || len(data) < p.L4+4 {
		return out
	}
	return binary.BigEndian.AppendUint32(out, binary.BigEndian.Uint32(data[p.L4:]))
}

func (s *site) ifindex(hook model.Hook, host string) int {
	switch hook {
	case model.FromDevice:
		return s.w.Uplinks("")[0].Ifindex
	case model.ToContainer:
		return s.w.Devices("")["default/picky"].Ifindex
	}
	return s.w.Devices("")[host].Ifindex
}

// at is who sends what a hook of a device sees.
func (s *site) at(hook model.Hook, ifindex int) string {
	if hook == model.FromDevice {
		return outside
	}
	for name, device := range s.w.Devices("") {
		if device.Ifindex == ifindex {
			return name
		}
	}
	return ""
}
