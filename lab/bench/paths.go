// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// path is a way of packets whose cost is measured.
type path struct {
	name, help string
	hook       model.Hook
	from       string    // the host that sends
	to         [2]string // where to, in each family; where peers are many, the first
	port       uint16
	peers      int // hosts of the other side, from which or to which it goes; 0: one

	out        model.Out // the way out of all packets; none: they are dropped
	translated bool      // packets leave with other addresses or ports
	answers    bool      // the packets that answer are measured
	tunnelled  bool      // they come in a tunnel from another node
	opens      bool      // each packet opens a flow
	byChance   bool      // what becomes of a packet is chance: none is held against another
	ports      []int     // source ports, in their order; nil: all
}

// Targets of paths.
var (
	service = [2]string{"10.96.0.10", "fd96::10"}
	web     = [2]string{"10.0.0.2", "fd00::2"}
	guarded = [2]string{"10.0.0.3", "fd00::3"}
	picky   = [2]string{"10.0.0.4", "fd00::4"}
	farPod  = [2]string{"10.0.1.1", "fd00:1::1"} // the first of them
	world   = [2]string{"203.0.112.0", "2001:db8:9::"}
	node1   = [2]string{"198.18.0.2", "fd00:198:18::2"}
	node2   = [2]string{"198.18.0.3", "fd00:198:18::3"}
)

// many is how many hosts outside take part where one has too few ports.
const many = 1024

// paths are all of them, as they are listed. No two have a flow in common, neither as
// it comes nor as it leaves.
func paths() []path {
	return []path{
		{name: "pod-to-service", help: "a pod to a ClusterIP, led to a pod of the node",
			hook: model.FromContainer, from: client, to: service, port: firstServicePort, out: model.OutLocal, translated: true},
		{name: "service-to-pod", help: "the answers of that pod",
			hook: model.FromContainer, from: client, to: service, port: firstServicePort + servicePorts/2, out: model.OutLocal, translated: true, answers: true},
		{name: "pod-to-pod", help: "a pod to another of the node",
			hook: model.FromContainer, from: client, to: web, port: 7000, out: model.OutLocal},
		{name: "pod-to-world", help: "a pod to hosts outside, with the node's address",
			hook: model.FromContainer, from: client, to: world, port: 443, peers: many, out: model.OutDevice, translated: true},
		{name: "node-port", help: "hosts outside to a node port, led to another node with this one's address",
			hook: model.FromDevice, from: outside, to: node1, port: 30080, peers: many, out: model.OutDevice, translated: true},
		{name: "dsr-out", help: "hosts outside to a node port, led into a tunnel to another node, whose pod answers them itself",
			hook: model.FromDevice, from: outside, to: node1, port: 30090, peers: many, out: model.OutTunnel},
		{name: "dsr-in", help: "the same at that node: taken out of the tunnel, and led to its pod",
			hook: model.FromDevice, from: outside, to: node2, port: 30091, peers: many, out: model.OutLocal, translated: true, tunnelled: true},
		{name: "dsr-answer", help: "the answers of that pod, straight to the hosts outside",
			hook: model.FromDevice, from: outside, to: node2, port: 30092, peers: many, out: model.OutDevice, translated: true, tunnelled: true, answers: true},
		{name: "refused", help: "a pod to one whose policy lets nobody in: dropped",
			hook: model.FromContainer, from: client, to: guarded, port: 8080},
		{name: "new-flow", help: "a pod opens a flow to one whose policy lets it in, with every packet",
			hook: model.FromContainer, from: client, to: picky, port: 8080, out: model.OutLocal, opens: true},
		{name: "new-flow-in", help: "the same by pods of another node, where it comes into the pod",
			hook: model.ToContainer, from: far, to: picky, port: 8080, peers: farPods, out: model.OutLocal, opens: true},
	}
}

// leastOpened is how many flows a path opens at least before they are forgotten: to
// run a few packets alone is to measure the system call.
const leastOpened = 2048

// flows are how many flows of the path take turns where so many are asked for; 0: as
// many were measured already.
func (p *path) flows(asked []int, i int) int {
	if !p.opens || asked[i] > leastOpened {
		return asked[i]
	}
	if slices.ContainsFunc(asked[:i], func(n int) bool { return n <= leastOpened }) {
		return 0
	}
	return leastOpened
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

// Family is that of a path's packets.
type Family string

// Families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

func (f Family) index() int {
	if f == IPv6 {
		return 1
	}
	return 0
}

// sports is how many source ports a host uses towards one port.
const sports = 50_000

// tuple is that of flow i of a path, as its sender has it.
func (p *path) tuple(f Family, i int) model.Tuple {
	peers := max(p.peers, 1)
	peer, rest := i%peers, i/peers
	t := model.Tuple{Sport: uint16(1024 + rest%sports), Dport: p.port + uint16(rest/sports), Protocol: model.ProtocolTCP}
	if p.ports != nil {
		t.Sport, t.Dport = uint16(p.ports[rest%len(p.ports)]), p.port
	}
	to := netip.MustParseAddr(p.to[f.index()])
	switch p.from {
	case outside:
		t.Src, t.Dst = hostAt(netip.MustParseAddr([2]string{"198.51.100.0", "2001:db8:7::"}[f.index()]), peer), to
	case far:
		t.Src, t.Dst = hostAt(netip.MustParseAddr(farPod[f.index()]), peer), to
	default:
		t.Src, t.Dst = netip.MustParseAddr([2]string{"10.0.0.1", "fd00::1"}[f.index()]), to
		if p.peers > 0 {
			t.Dst = hostAt(to, peer)
		}
	}
	return t
}

// hostAt is the address so many behind another, of at most 65,536.
func hostAt(a netip.Addr, n int) netip.Addr {
	octets := a.AsSlice()
	last := octets[len(octets)-2:]
	sum := int(last[0])<<8 + int(last[1]) + n
	last[0], last[1] = byte(sum>>8), byte(sum)
	at, _ := netip.AddrFromSlice(octets)
	return at
}
