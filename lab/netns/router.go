// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The router between nodes and outside hosts is a namespace whose stack
// answers for its own addresses, and a program at each of its ports that
// carries packets on: to the node that has the destination, as native routing
// knows pods by their nodes, or to the outside host. What nobody has goes to
// the first node when it comes from outside, and else nowhere.
//
// Linux would route too, but would count the hop limit down and throw away
// whatever it finds wrong: frames that are sent to a node to see what its
// datapath does with them would never come there.
const routerName = "(router)"

// routerV4 is the router's address at all ports; of IPv6 it has the ports'
// link-local ones.
var routerV4 = netip.MustParseAddr("169.254.0.254")

// connectToRouter makes a node's uplinks.
func (w *World) connectToRouter(n *node, number int) error {
	wires := []wire{nodeWire(number)}
	if w.topology.HasSecond() {
		wires = append(wires, secondWire(number))
	}
	for i, wire := range wires {
		if err := n.inside.connect(wire, w.router.ns); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		ifindex, err := w.router.inside.up(wire.hostName)
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		n.links = append(n.links, link{
			name: wire.nodeName, ifindex: wire.nodeIndex,
			mac: wire.nodeMAC, peerMAC: wire.hostMAC, peer: w.router, second: i > 0,
		})
		w.router.ports = append(w.router.ports, link{
			name: wire.hostName, ifindex: ifindex,
			mac: wire.hostMAC, peerMAC: wire.nodeMAC, peer: n.host, second: i > 0,
		})
	}
	return nil
}

func (w *World) configureRouter() error {
	r := w.router
	lo, err := r.inside.up("lo")
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	for _, a := range r.addresses {
		if err := r.inside.addAddress(lo, a); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for _, l := range r.ports {
		if err := r.routeTo(l); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if err := w.carry(); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

func (w *World) attachAll(ports []link, instructions asm.Instructions) error {
	if len(ports) == 0 {
		return nil
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "carry", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: instructions,
	})
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer program.Close()
	for _, l := range ports {
		if err := w.router.inside.attach(l.ifindex, program); err != nil {
			return fmt.Errorf("port %s: %w", l.name, err)
		}
	}
	return nil
}

// attach runs a program on what comes in by an interface.
func (c configurator) attach(ifindex int, program *ebpf.Program) error {
	err := c.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add qdisc clsact: %w (the kernel needs CONFIG_NET_SCH_INGRESS: modprobe sch_ingress)", err)
	}
	err = c.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "carry", DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add filter: %w (the kernel needs CONFIG_NET_CLS_BPF: modprobe cls_bpf)", err)
	}
	return nil
}

// Offsets in struct __sk_buff, and of destinations in frames.
const (
	offsetProtocol = 16
	offsetIPv4     = 14 + 16
	offsetIPv6     = 14 + 24
)

// Actions of a classifier, linux/pkt_cls.h.
const (
	actOK   = 0
	actShot = 2
)

// keyAt is where the key is on the program's stack.
const keyAt = -16

// carrying is the program of a port. R6 is the packet, R7 its protocol and
// then its ways and the way.
func carrying(ways int, fromOutside bool) asm.Instructions {
	lost := asm.Instructions{asm.Mov.Imm(asm.R0, actShot), asm.Return()}
	if fromOutside {
		lost = slices.Concat(clearKey(), lookUp(ways), asm.Instructions{
			asm.JNE.Imm(asm.R0, 0, "on"),
			asm.Mov.Imm(asm.R0, actShot), asm.Return(),
		})
	}
	return slices.Concat(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)},
		clearKey(),
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.R6, offsetProtocol, asm.Word),
			asm.JEq.Imm(asm.R7, int32(networkOrder(unix.ETH_P_IPV6)), "ipv6"),
			asm.JEq.Imm(asm.R7, int32(networkOrder(unix.ETH_P_ARP)), "own"),
			asm.JNE.Imm(asm.R7, int32(networkOrder(unix.ETH_P_IP)), "lost"),
		},
		loadKey(offsetIPv4, 4),
		asm.Instructions{asm.Ja.Label("known")},
		labelled("ipv6", loadKey(offsetIPv6, 16)),
		asm.Instructions{
			// Neighbour discovery is link-local, or multicast on the link.
			asm.LoadMem(asm.R1, asm.RFP, keyAt, asm.Half),
			asm.JEq.Imm(asm.R1, int32(networkOrder(0xfe80)), "own"),
			asm.JEq.Imm(asm.R1, int32(networkOrder(0xff02)), "own"),
		},
		labelled("known", lookUp(ways)),
		asm.Instructions{asm.JNE.Imm(asm.R0, 0, "on")},
		labelled("lost", lost),
		labelled("on", chooseHop()),
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, 0), // offset
			asm.Mov.Reg(asm.R3, asm.R7), asm.Add.Imm(asm.R3, 4),
			asm.Mov.Imm(asm.R4, 12), // bytes
			asm.Mov.Imm(asm.R5, 0),  // flags
			asm.FnSkbStoreBytes.Call(),
			asm.LoadMem(asm.R1, asm.R7, 0, asm.Word),
			asm.Mov.Imm(asm.R2, 0), // flags
			asm.FnRedirect.Call(),
			asm.Return(),
		},
		labelled("own", asm.Instructions{asm.Mov.Imm(asm.R0, actOK), asm.Return()}),
	)
}

func clearKey() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, keyAt, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, keyAt+8, asm.R1, asm.DWord),
	}
}

func loadKey(offset, length int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, offset),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, keyAt),
		asm.Mov.Imm(asm.R4, length),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "lost"),
	}
}

func lookUp(ways int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, ways),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, keyAt),
		asm.FnMapLookupElem.Call(),
	}
}

func labelled(label string, all asm.Instructions) asm.Instructions {
	all[0] = all[0].WithSymbol(label)
	return all
}
