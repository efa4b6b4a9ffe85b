// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

// endpoint is a pod whose device packets pass.
type endpoint struct {
	name    string
	ifindex int
}

// endpoints find the device at which a packet met, or would have met, a hook.
type endpoints struct {
	hook    model.Hook
	byAddr  map[netip.Addr]*endpoint
	byMAC   map[[6]byte]*endpoint // of senders seen; at most one an endpoint
	strange *endpoint             // for packets whose address no pod can have; nil with objects
	anyone  *endpoint             // for frames that are condemned before anybody asks whose
	outside map[netip.Addr]bool   // taken for hosts beyond the node
	named   bool                  // the pods are those of objects
	node    *endpoint             // whose device all packets pass; nil at the hooks of pods
	own     map[netip.Addr]bool   // the node's addresses
}

// Why a packet has no endpoint.
const (
	noSource      = "No pod of the node has its source address."
	noDestination = "No pod of the node has its destination address."
	noRoom        = "The endpoint table is full: its address got no endpoint."
	isOutside     = "Its destination is taken for a host outside, by the first packet in which it was seen: name the pods by objects to have it judged."
)

// Why a packet does not pass a node's device in the hook's direction.
const (
	leaves    = "It leaves by the device: the hook to-device sees it."
	arrives   = "It comes in by the device: the hook from-device sees it."
	isOfPod   = "It is a pod's, which the hook from-container has judged: to-device lets it pass."
	isNoNodes = "Its source is no address of the node, and to-device sees what the node sends."
)

// isOfDevice is whether a hook is one of the node's own devices.
func isOfDevice(hook model.Hook) bool { return hook == model.FromDevice || hook == model.ToDevice }

// atDevice gives the node, or why a packet is none that the hook sees.
func (e *endpoints) atDevice(h *Header, direction pcap.Direction) (*endpoint, string) {
	local := func(a netip.Addr) bool { return e.own[a] || e.byAddr[a] != nil }
	if e.hook == model.FromDevice {
		if direction == pcap.Out || direction == pcap.Unknown && local(h.Src) {
			return nil, leaves
		}
		return e.node, ""
	}
	switch {
	case direction == pcap.In || direction == pcap.Unknown && local(h.Dst) && !local(h.Src):
		return nil, arrives
	case e.byAddr[h.Src] != nil:
		return nil, isOfPod
	case h.IP && !e.own[h.Src] && hostAddress(h.Src):
		return nil, isNoNodes
	}
	return e.node, ""
}

// find gives the endpoint of a frame, or why there is none.
func (e *endpoints) find(frame []byte, h *Header, direction pcap.Direction) (*endpoint, string) {
	if e.node != nil {
		return e.atDevice(h, direction)
	}
	if !h.IP && !h.ARP {
		return e.anyone, ""
	}
	addr := h.Src
	if e.hook == model.ToContainer {
		addr = h.Dst
	}
	if ep, ok := e.byAddr[addr]; ok {
		e.remember(frame, ep)
		return ep, ""
	}
	if e.hook == model.FromContainer && !hostAddress(addr) {
		if ep, ok := e.byMAC[[6]byte(frame[6:12])]; ok {
			return ep, ""
		}
	}
	switch {
	case e.named && e.hook == model.FromContainer:
		return nil, noSource
	case e.named:
		return nil, noDestination
	case e.outside[addr]:
		return nil, isOutside
	case hostAddress(addr):
		return nil, noRoom
	case e.strange == nil:
		return e.anyone, ""
	}
	return e.strange, ""
}

// remember keeps whose hardware address a sender has, for packets of his that
// have no address of his: of neighbour discovery and DHCP.
func (e *endpoints) remember(frame []byte, ep *endpoint) {
	if e.hook != model.FromContainer || len(e.byMAC) >= len(e.byAddr) {
		return
	}
	mac := [6]byte(frame[6:12])
	if _, ok := e.byMAC[mac]; !ok {
		e.byMAC[mac] = ep
	}
}

// maxOutside bounds what is remembered of hosts that are taken for outside.
const maxOutside = 1 << 16

// seen is the addresses of captures that are to be endpoints.
type seen struct {
	hook    model.Hook
	room    int
	list    []netip.Addr
	is      map[netip.Addr]bool
	outside map[netip.Addr]bool
	full    bool
	strange bool // there are packets of addresses that no pod can have
}

func newSeen(hook model.Hook, room int) *seen {
	return &seen{hook: hook, room: room, is: map[netip.Addr]bool{}, outside: map[netip.Addr]bool{}}
}

// see reads captures for the addresses of pods: at from-container those that
// send, at to-container those that are sent to. There, the two ends of a
// packet cannot both be pods, for what a pod sends to another of its node
// never comes that way: who was first seen as a sender, or as sent to by a pod,
// is outside.
func see(ctx context.Context, captures *Captures, hook model.Hook, room int) (*seen, error) {
	s := newSeen(hook, room)
	var buf []byte
	quiet := Captures{Paths: captures.Paths, Progress: captures.Progress, Filter: captures.Filter}
	err := quiet.each(ctx, func(p *packet) error {
		frame, added, err := p.link.Frame(buf, p.Data)
		if err != nil {
			return nil //nolint:nilerr // the replay tells it
		}
		if added != 0 {
			buf = frame
		}
		h := readHeader(frame)
		s.add(&h)
		return nil
	})
	// Files that are damaged give what they have; the replay tells of it.
	var damage *pcap.DamageError
	if err != nil && !errors.As(err, &damage) && !errors.Is(err, pcap.ErrFormat) {
		return nil, err
	}
	if s.strange && len(s.list) == room { // which takes an endpoint of its own
		s.list, s.full = s.list[:room-1], true
	}
	return s, nil
}

func (s *seen) add(h *Header) {
	if !h.IP && !h.ARP {
		return
	}
	addr, peer := h.Src, h.Dst
	if s.hook == model.ToContainer {
		addr, peer = h.Dst, h.Src
	}
	switch {
	case !hostAddress(addr):
		s.strange = true
	case s.is[addr] || s.outside[addr]:
	case s.hook == model.ToContainer && s.is[peer] && peer != addr:
		s.leaveOutside(addr)
	case len(s.list) >= s.room:
		s.full = true
	default:
		s.is[addr] = true
		s.list = append(s.list, addr)
	}
	if s.hook == model.ToContainer && !s.is[peer] {
		s.leaveOutside(peer)
	}
}

func (s *seen) leaveOutside(addr netip.Addr) {
	if len(s.outside) < maxOutside {
		s.outside[addr] = true
	}
}

const (
	allowAll = "replay" // the key of the rules
	nobody   = "nobody" // whose address no pod has
)

// state makes the endpoints of addresses that were seen. Everything is allowed.
func (s *seen) state(ctx context.Context, n *Network) (*model.State, *endpoints, error) {
	count := len(s.list)
	if s.strange || count == 0 {
		count++
	}
	devices, err := n.Devices(ctx, count)
	if err != nil {
		return nil, nil, err
	}
	state := openState()
	found := &endpoints{hook: s.hook, byAddr: map[netip.Addr]*endpoint{}, byMAC: map[[6]byte]*endpoint{}, outside: s.outside}
	for i, device := range devices {
		ep := model.Endpoint{Device: device, Identity: model.FirstLabelIdentity, RuleSet: allowAll}
		made := &endpoint{nobody, device.Ifindex}
		found.anyone = made
		if i == len(s.list) {
			found.strange = made
		} else if addr := s.list[i]; true {
			made.name = addr.String()
			found.byAddr[addr] = made
			if addr.Is4() {
				ep.IPv4 = addr
			} else {
				ep.IPv6 = addr
			}
		}
		ep.Name = model.Key{Name: made.name}
		state.Endpoints = append(state.Endpoints, ep)
	}
	slices.SortFunc(state.Endpoints, func(a, b model.Endpoint) int { return a.Device.Ifindex - b.Device.Ifindex })
	return state, found, nil
}

// openState is a node without endpoints, where everything is allowed.
func openState() *model.State {
	return &model.State{
		Node: model.Node{Name: "node", Addresses: nodeAddresses, Gateways: gateways},
		RuleSets: []model.RuleSet{{Key: allowAll, Rules: []model.Rule{
			{Direction: model.Ingress}, {Direction: model.Egress}}}},
	}
}

// ErrNode is that it is not clear which node's datapath is meant.
var ErrNode = errors.New("which node?")

// nodeOf finds the node whose datapath is meant: the one named, or the only one.
func nodeOf(objs *manifest.Objects, name string) (string, error) {
	names := map[string]bool{}
	for n := range objs.Nodes {
		names[n] = true
	}
	if len(names) == 0 {
		for _, pod := range objs.Pods {
			if pod.Spec.NodeName != "" {
				names[pod.Spec.NodeName] = true
			}
		}
	}
	switch {
	case name != "" && (names[name] || len(names) == 0):
		return name, nil
	case name != "":
		return "", fmt.Errorf("find node %s: %w: the objects have none of that name", name, ErrNode)
	case len(names) > 1:
		return "", fmt.Errorf("find the node: %w: the objects have %d, name one", ErrNode, len(names))
	}
	for only := range names {
		return only, nil
	}
	return "node", nil
}

// clusterState compiles objects as one node's datapath has them.
func clusterState(ctx context.Context, n *Network, objs *manifest.Objects, name string, hook model.Hook, room int) (*model.State, *endpoints, []compile.Warning, error) {
	node, err := nodeOf(objs, name)
	if err != nil {
		return nil, nil, nil, err
	}
	objs = objs.Clone()
	if objs.Nodes[node] == nil && isOfDevice(hook) {
		return nil, nil, nil, fmt.Errorf("find node %s: %w: at %s the objects have to have it, with its addresses", node, ErrNode, hook)
	}
	if objs.Nodes[node] == nil {
		if err := objs.Upsert(standIn(node)); err != nil {
			return nil, nil, nil, err
		}
	}
	local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: gateways}
	pods := localPods(objs, node)
	if len(pods) > room {
		return nil, nil, nil, fmt.Errorf("make endpoints of node %s: it has %d pods, and the endpoint table room for %d", node, len(pods), room)
	}
	devices, err := n.Devices(ctx, len(pods)+1)
	if err != nil {
		return nil, nil, nil, err
	}
	for i, pod := range pods {
		local.Devices[model.ParseKey(pod)] = devices[i]
	}
	if isOfDevice(hook) {
		local.Uplinks = []model.Uplink{n.beyond}
	}
	state, warnings, err := compile.All(manifest.DeriveEndpointSlices(objs), node, local)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("compile the objects for node %s: %w", node, err)
	}
	found := &endpoints{hook: hook, named: true, byAddr: map[netip.Addr]*endpoint{}, byMAC: map[[6]byte]*endpoint{}}
	found.anyone = &endpoint{nobody, devices[len(pods)].Ifindex}
	if isOfDevice(hook) {
		found.node, found.own = &endpoint{node, n.beyond.Ifindex}, map[netip.Addr]bool{}
		for _, a := range state.Node.Addresses {
			found.own[a] = true
		}
	}
	for i := range state.Endpoints {
		ep := &state.Endpoints[i]
		for _, a := range []netip.Addr{ep.IPv4, ep.IPv6} {
			if a.IsValid() {
				found.byAddr[a] = &endpoint{ep.Name.String(), ep.Device.Ifindex}
			}
		}
	}
	return state, found, warnings, nil
}

// standIn is the node of objects that describe none.
func standIn(name string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range nodeAddresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	return node
}

// localPods lists the pods that have, or may have, a device on the node.
func localPods(objs *manifest.Objects, node string) []string {
	var names []string
	for name, pod := range objs.Pods {
		here := pod.Spec.NodeName == node || pod.Spec.NodeName == ""
		if here && !pod.Spec.HostNetwork && len(pod.Status.PodIPs)+len(pod.Status.PodIP) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
