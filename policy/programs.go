// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/replay"
)

// Programs is the datapath's programs, in a network namespace of their
// own, for one goroutine.
type Programs struct {
	network *replay.Network
	dp      *datapath.Datapath
	used    bool
}

// WithPrograms loads the programs, and removes them after use.
func WithPrograms(ctx context.Context, use func(*Programs) error) error {
	return replay.WithNetwork(ctx, func(n *replay.Network) error {
		dp, err := datapath.Open(datapath.Options{})
		if err != nil {
			return fmt.Errorf("open datapath for policies: %w", err)
		}
		return errors.Join(use(&Programs{network: n, dp: dp}), dp.Close())
	})
}

var gateways = model.Gateways()

// Table fills one: all pods are put on one node, and a frame of each flow is
// sent from the device of its sender.
func (p *Programs) Table(ctx context.Context, objs *manifest.Objects, pods []Pod, ports []Port) (*Table, error) {
	together, _, err := onOneNode(objs)
	if err != nil {
		return nil, err
	}
	// Policy is asked what leads to a pod's address; services would answer
	// for addresses of their own alone.
	devices, err := p.network.Devices(ctx, len(pods))
	if err != nil {
		return nil, err
	}
	local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: gateways}
	for i, pod := range pods {
		local.Devices[model.ParseKey(pod.Name)] = devices[i]
	}
	state, _, err := compile.All(together, "node", local)
	if err != nil {
		return nil, err
	}
	if p.used {
		if err := p.dp.Reset(); err != nil {
			return nil, fmt.Errorf("empty the tables for other policies: %w", err)
		}
	}
	p.used = true
	if _, err := p.dp.Apply(state); err != nil {
		return nil, fmt.Errorf("apply policies: %w", err)
	}
	runner := p.dp.Runner(model.FromContainer)
	table := &Table{Engine: "bpf"}
	sport := freeSource(ports, pods)
	err = table.fill(ctx, pods, ports, func(from, to *Pod, port Port) (bool, error) {
		src, dst, ok := meeting(from, to)
		if !ok {
			return false, nil
		}
		device := local.Devices[model.ParseKey(from.Name)]
		data, err := openingFrame(&device, src, dst, sport, port)
		if err != nil {
			return false, err
		}
		ran, err := runner.Run(data, device.Ifindex, 0)
		if err != nil {
			return false, err
		}
		return verdictOf(from, to, port, &ran.Decision)
	})
	return table, err
}

// verdictOf reads a decision that only policy should have made.
func verdictOf(from, to *Pod, port Port, d *datapath.Decision) (bool, error) {
	switch {
	case d.Action == model.Forward && d.Out == model.OutLocal:
		return true, nil
	case d.Action != model.Forward && (d.Reason == model.ReasonPolicyEgress || d.Reason == model.ReasonPolicyIngress):
		return false, nil
	}
	return false, fmt.Errorf("ask the datapath for %s to %s %s: it says %s %s, at %s:%d, which is not for policy to say", from.Name, to.Name, port, d.Action, d.Reason, d.File, d.Line)
}

// freeSource gives a source port that no flow asked for has as its target's: a
// flow of a pair would be the other's reply.
func freeSource(ports []Port, pods []Pod) uint16 {
	taken := map[uint16]bool{}
	for _, port := range ports {
		taken[port.Number] = true
	}
	for i := range pods {
		for _, port := range pods[i].ports {
			taken[uint16(port.ContainerPort)] = true
		}
	}
	source := uint16(40000)
	for taken[source] {
		source++
	}
	return source
}

// openingFrame is the first of a flow.
func openingFrame(device *model.Device, src, dst netip.Addr, sport uint16, port Port) ([]byte, error) {
	eth := frame.Layer{Kind: "eth"}.With("src", frame.MAC(device.PodMAC)).With("dst", frame.MAC(device.MAC))
	ip := frame.Lower(frame.Layer{Kind: "ip"}, src.Is6()).With("src", frame.Addr(src)).With("dst", frame.Addr(dst))
	var transport frame.Layer
	switch port.Protocol {
	case model.ProtocolTCP:
		transport = frame.Layer{Kind: "tcp"}.With("flags", frame.Num(uint8(0x02)))
	case model.ProtocolUDP:
		transport = frame.Layer{Kind: "udp"}
	case model.ProtocolSCTP:
		transport = frame.Layer{Kind: "sctp"}
	default:
		transport = frame.Lower(frame.Layer{Kind: "echo"}, src.Is6()).With("id", frame.Num(sport))
	}
	if port.Protocol != model.ProtocolICMP {
		transport = transport.With("sport", frame.Num(sport)).With("dport", frame.Num(port.Number))
	}
	data, err := frame.Build(eth, ip, transport)
	if err != nil {
		return nil, fmt.Errorf("build frame for %s to %s %s: %w", src, dst, port, err)
	}
	return data, nil
}
