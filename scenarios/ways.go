// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

// Where packets meet hooks in worlds that do not tell, by what a topology says
// of the routes.

// place is a hook of a node.
type place struct {
	node  string
	where model.Where
	ledOn bool // the node has not made the packet: it came in by another device
}

// firstHook is where a packet of a host first meets a datapath; false when it
// does not.
func (p *play) firstHook(from string, packet []byte) (place, bool) {
	sender, to := p.hosts[from], frame.Decode(packet).Dst
	switch {
	case sender.Node != "" && slices.Contains(sender.Addresses, to):
		return place{}, false // by its loopback device
	case slices.ContainsFunc(p.topology.Pods, func(h lab.Host) bool { return h.Name == sender.Name }):
		return place{node: sender.Node, where: model.Where{Hook: model.FromContainer, Endpoint: sender.Name}}, true
	case !p.HasNode(from):
		return p.arriving(packet, p.topology.Nodes[0].Name)
	case slices.Contains(sender.Addresses, to), p.leads.Has(from, to):
		return place{}, false // by its loopback device
	}
	if at, ok := p.intoPod(from, to); ok {
		return at, true
	}
	if p.topology.Uplinks {
		return place{node: from, where: model.Where{Hook: model.ToDevice, Endpoint: from}}, true
	}
	return p.arriving(packet, "")
}

// nextHook is where a packet that a hook let pass meets a datapath again.
func (p *play) nextHook(at place, t oracle.Translation) (place, bool) {
	switch {
	case t.Out == model.OutHost && at.where.Hook == model.FromDevice:
		next, ok := p.intoPod(at.node, t.Tuple.Dst)
		next.ledOn = true
		return next, ok
	case t.Out == model.OutDevice || t.Out == model.OutTunnel:
		packet, err := leaving(t)
		if err != nil {
			return place{}, false
		}
		return p.arriving(packet, "")
	}
	return place{}, false
}

// arriving is the hook that meets what is on its way between nodes and others:
// on the node that has the address, else on the other one.
func (p *play) arriving(packet []byte, other string) (place, bool) {
	to := frame.Decode(packet).Dst
	node := p.nodeTowards(packet, to)
	if node == "" {
		node = other
	}
	for _, h := range p.topology.Outside {
		if slices.Contains(h.Addresses, to) {
			return place{}, false
		}
	}
	if node == "" || !p.topology.Uplinks {
		at, ok := p.intoPod(node, to)
		at.ledOn = true
		return at, ok
	}
	return place{node: node, where: model.Where{Hook: model.FromDevice, Endpoint: node}}, true
}

// nodeTowards is the node to which a packet is led by its destination, if any.
func (p *play) nodeTowards(packet []byte, to netip.Addr) string {
	for _, h := range slices.Concat(p.topology.Nodes, p.topology.Pods) {
		switch {
		case !slices.Contains(h.Addresses, to):
		case h.Node != "":
			return h.Node
		default:
			return h.Name
		}
	}
	nodes := p.leads.Towards(to)
	if len(nodes) == 0 {
		return ""
	}
	return nodes[frame.Path(packet, len(nodes))]
}

// intoPod is the hook of the node's pod that has an address.
func (p *play) intoPod(node string, to netip.Addr) (place, bool) {
	for _, pod := range p.topology.Pods {
		if pod.Node == node && slices.Contains(pod.Addresses, to) {
			return place{node: node, where: model.Where{Hook: model.ToContainer, Endpoint: pod.Name}}, true
		}
	}
	return place{}, false
}

// opening builds the first packet of an exchange, as a hook may see it.
func opening(t model.Tuple) ([]byte, error) {
	return leaving(oracle.Translation{Tuple: t})
}

// leaving builds the packet that a first one is translated to.
func leaving(t oracle.Translation) ([]byte, error) {
	mac := frame.MAC([]byte{2, 0, 0, 0, 0, 1})
	layers := []frame.Layer{frame.Layer{Kind: "eth"}.With("src", mac).With("dst", mac)}
	if t.Inner != (model.Tuple{}) {
		layers = append(layers, ipOf(t.Tuple))
		if t.Tuple.Protocol == model.ProtocolUDP {
			layers = append(layers, transportOf(t.Tuple), frame.Layer{Kind: "geneve"})
		}
		t.Tuple = t.Inner
	}
	return frame.Build(append(layers, ipOf(t.Tuple), transportOf(t.Tuple))...)
}

func ipOf(t model.Tuple) frame.Layer {
	return frame.Lower(frame.Layer{Kind: "ip"}, t.Src.Is6()).With("src", frame.Addr(t.Src)).With("dst", frame.Addr(t.Dst))
}

func transportOf(t model.Tuple) (transport frame.Layer) {
	switch t.Protocol {
	case model.ProtocolTCP:
		transport = frame.Layer{Kind: "tcp"}.With("flags", frame.Num(2)).With("sport", frame.Num(t.Sport)).With("dport", frame.Num(t.Dport))
	case model.ProtocolUDP:
		transport = frame.Layer{Kind: "udp"}.With("sport", frame.Num(t.Sport)).With("dport", frame.Num(t.Dport))
	default:
		transport = frame.Lower(frame.Layer{Kind: "echo"}, t.Src.Is6()).With("id", frame.Num(t.Sport))
	}
	return transport
}
