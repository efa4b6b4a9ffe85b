// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios/syntax"
)

// rehearse plays a scenario without a network: names are looked up in each
// family, objects are compiled as they are at each step, frames are built.
// What cannot be done is a mistake in the file.
func (s *Scenario) rehearse() error {
	var errs []error
	seen := map[string]bool{}
	for _, family := range s.Families {
		p := newPlay(s, family, syntax.Prog, &paper{topology: s.topology})
		for i := range s.Steps {
			step := &s.Steps[i]
			if step.Only != "" && step.Only != family {
				continue
			}
			err := step.Verb.Rehearse(context.Background(), p)
			if err == nil {
				continue
			}
			mistake := &syntax.Error{Pos: step.Pos, Err: err}
			if !seen[mistake.Error()] {
				seen[mistake.Error()] = true
				errs = append(errs, mistake)
			}
		}
	}
	return errors.Join(errs...)
}

// LookUp finds the addresses of names.
func (p *play) LookUp(names ...string) error {
	for _, name := range names {
		if _, err := p.addressIn(name); err != nil {
			return err
		}
	}
	return nil
}

// Describe makes a frame and does not send it.
func (p *play) Describe(v *syntax.Send) error {
	_, err := p.build(v)
	return err
}

// Resolve finds what the layers at a host name.
func (p *play) Resolve(host string, layers []syntax.Layer) error {
	_, err := p.resolve(layers, host)
	return err
}

// Expand finds what a text names.
func (p *play) Expand(text string) error {
	_, err := p.expand(text)
	return err
}

// build makes the frame that a send describes.
func (p *play) build(v *syntax.Send) ([]byte, error) {
	layers, err := p.resolve(v.Layers, v.Host)
	if err != nil {
		return nil, err
	}
	if layers, err = p.pose(layers, v.Sender); err != nil {
		return nil, err
	}
	if layers, err = p.complete(layers, v.Host); err != nil {
		return nil, err
	}
	data, err := frame.Build(layers...)
	if err != nil {
		return nil, mismatch("the frame cannot be built: %v", err)
	}
	return data, nil
}

// paper is a world of which nothing is asked but its hardware addresses.
type paper struct {
	lab.World
	topology lab.Topology
}

func (w *paper) Devices(node string) map[string]model.Device {
	out := map[string]model.Device{}
	for i, p := range w.topology.Pods {
		if p.Node != node {
			continue
		}
		n := byte(i + 1)
		out[p.Name] = model.Device{Name: "pod", Ifindex: i + 1, MAC: net.HardwareAddr{2, 0xfe, 0, 0, 0, n}, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, n}}
	}
	return out
}

func (w *paper) Uplinks(string) []model.Uplink {
	if !w.topology.Uplinks {
		return nil
	}
	uplinks := []model.Uplink{{Name: "uplink", Ifindex: 255, MAC: net.HardwareAddr{2, 0xfe, 0, 0, 0, 0xff}}}
	if w.topology.HasSecond() {
		uplinks = append(uplinks, model.Uplink{Name: "second", Ifindex: 254, MAC: net.HardwareAddr{2, 0xfe, 0, 0, 0, 0xfe}})
	}
	return uplinks
}

func (w *paper) Assign(context.Context, string, netip.Addr, bool) error { return nil }

func (w *paper) Lead(context.Context, netip.Addr, ...string) error { return nil }

func (w *paper) Apply(context.Context, string, *model.State) (datapath.Change, error) {
	return datapath.Change{}, nil
}

func (w *paper) MACs(host string) (own, gateway net.HardwareAddr, err error) {
	n := slices.IndexFunc(w.topology.Pods, func(h lab.Host) bool { return h.Name == host })
	return net.HardwareAddr{2, 0, 0, 0, 0, byte(n + 1)}, net.HardwareAddr{2, 0xfe, 0, 0, 0, byte(n + 1)}, nil
}
