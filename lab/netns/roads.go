// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
)

// way is where the router sends a destination: a port, and the addresses of
// the Ethernet header there in their order.
type way struct {
	Ifindex uint32
	To      [6]byte
	From    [6]byte
}

func (l link) way() way {
	return way{uint32(l.ifindex), [6]byte(l.peerMAC), [6]byte(l.mac)}
}

// maxHops is how many nodes may share an address: a power of two.
const maxHops = 8

// hops are the ways that share a destination, by frame.Path.
type hops struct {
	Count uint32
	Ways  [maxHops]way
}

const (
	sizeOfWay  = 16
	sizeOfHops = 4 + maxHops*sizeOfWay
)

func hopsOf(ways ...way) (h hops) {
	h.Count = uint32(copy(h.Ways[:], ways))
	return h
}

// elsewhere is the key of the way of what comes from outside for nobody. As
// an address it is nobody's.
var elsewhere [16]byte

// wayTo is the key of an address: an IPv4 address has zeros behind it. The
// IPv6 addresses that look like that are nobody's here.
func wayTo(a netip.Addr) (key [16]byte) {
	copy(key[:], a.AsSlice())
	return key
}

// roads are the router's tables: of what comes in by the ports of first uplinks
// and of the hosts that they lead to, and of what comes from behind the second
// ones. Both know the same destinations.
type roads struct {
	mu     sync.Mutex
	leads  lab.Leads
	tables [2]*ebpf.Map // nil where there is none
}

func (r *roads) close() error {
	var errs []error
	for _, t := range r.tables {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	return errors.Join(errs...)
}

// portTo is the router's port towards a node by its first or second uplink, or
// towards an outside host.
func (w *World) portTo(h *host, second bool) link {
	i := slices.IndexFunc(w.router.ports, func(l link) bool { return l.peer == h && (l.second == second || l.peer.wire.hostName != "") })
	return w.router.ports[i]
}

// waysOf are where everything goes from the start.
func (w *World) waysOf(second bool) map[[16]byte]hops {
	ways := map[[16]byte]hops{elsewhere: hopsOf(w.portTo(w.nodes[0].host, second).way())}
	lead := func(h *host, by link) {
		for _, a := range h.addresses {
			ways[wayTo(a)] = hopsOf(by.way())
		}
	}
	for _, a := range w.roads.leads.All() {
		ways[wayTo(a)] = w.ledTo(a, second)
	}
	for _, n := range w.nodes {
		lead(n.host, w.portTo(n.host, second))
		for _, pod := range n.pods {
			lead(pod, w.portTo(n.host, second))
		}
	}
	for _, h := range w.outside {
		lead(h, w.portTo(h, second))
	}
	return ways
}

// ledTo are the hops of an address that no host has from the start.
func (w *World) ledTo(a netip.Addr, second bool) hops {
	var ways []way
	for _, name := range w.roads.leads.Towards(a) {
		ways = append(ways, w.portTo(w.byName[name], second).way())
	}
	return hopsOf(ways...)
}

// roomForLeads is how many addresses may be led anywhere while a world is there.
const roomForLeads = 64

// carry attaches a program to each port. They stay for as long as the ports.
func (w *World) carry() error {
	for i := range w.roads.tables {
		second := i == 1
		if second && !w.topology.HasSecond() {
			break
		}
		all := w.waysOf(second)
		table, err := ebpf.NewMap(&ebpf.MapSpec{
			Name: "ways", Type: ebpf.Hash, KeySize: 16, ValueSize: sizeOfHops, MaxEntries: uint32(len(all) + roomForLeads),
		})
		if err != nil {
			return fmt.Errorf("create table of ways: %w", err)
		}
		w.roads.tables[i] = table
		for to, hops := range all {
			if err := table.Put(&to, &hops); err != nil {
				return fmt.Errorf("add way to %x: %w", to, err)
			}
		}
		var toNodes, toOutside []link
		for _, l := range w.router.ports {
			switch isNode := l.peer.wire.hostName == ""; {
			case isNode && l.second == second:
				toNodes = append(toNodes, l)
			case !isNode && l.peer.second == second:
				toOutside = append(toOutside, l)
			}
		}
		if second {
			// What comes out of a node goes to other nodes by their first uplinks.
			table = w.roads.tables[0]
		}
		err = errors.Join(
			w.attachAll(toNodes, carrying(table.FD(), false)),
			w.attachAll(toOutside, carrying(w.roads.tables[i].FD(), true)),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// Lead implements lab.World.
func (w *World) Lead(_ context.Context, to netip.Addr, nodes ...string) error {
	if w.router == nil {
		return fmt.Errorf("lead %s: this network has no router", to)
	}
	if len(nodes) > maxHops {
		return fmt.Errorf("lead %s to %d nodes: the router spreads over %d at most", to, len(nodes), maxHops)
	}
	for _, name := range nodes {
		if _, err := w.node(name); err != nil {
			return fmt.Errorf("lead %s: %w", to, err)
		}
	}
	w.roads.mu.Lock()
	defer w.roads.mu.Unlock()
	w.roads.leads.Lead(to, nodes...)
	return w.tellRouter(to)
}

// tellRouter makes the router's tables right for an address.
func (w *World) tellRouter(to netip.Addr) error {
	key := wayTo(to)
	for i, table := range w.roads.tables {
		if table == nil {
			continue
		}
		hops := w.ledTo(to, i == 1)
		if hops.Count > 0 {
			if err := table.Put(&key, &hops); err != nil {
				return fmt.Errorf("lead %s: %w", to, err)
			}
			continue
		}
		if err := table.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("lead %s nowhere: %w", to, err)
		}
	}
	return nil
}

// wordsAt is where the words of the hash are on the program's stack; behind
// them is a place for one more.
const (
	wordsAt = keyAt - 4*frame.PathWords
	portsAt = wordsAt + 4*8
	protoAt = wordsAt + 4*9 + 3 // the last octet of a word
	spareAt = wordsAt - 8
)

// chooseHop gives R7 the way that frame.Path chooses of R0's, for the packet R6.
func chooseHop() asm.Instructions {
	all := asm.Instructions{
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.LoadMem(asm.R8, asm.R7, 0, asm.Word),
		asm.Mov.Imm(asm.R9, 0),
		asm.JLT.Imm(asm.R8, 2, "chosen"),
		asm.Mov.Imm(asm.R1, 0),
	}
	for at := int16(spareAt); at < wordsAt+4*frame.PathWords; at += 8 {
		all = append(all, asm.StoreMem(asm.RFP, at, asm.R1, asm.DWord))
	}
	all = append(all,
		asm.LoadMem(asm.R1, asm.R6, offsetProtocol, asm.Word),
		asm.JEq.Imm(asm.R1, int32(networkOrder(unix.ETH_P_IPV6)), "words6"))
	all = slices.Concat(all,
		loadTo(wordsAt, 14+12, 4), loadTo(wordsAt+16, 14+16, 4), loadTo(protoAt, 14+9, 1),
		loadTo(spareAt, 14+6, 2), loadTo(spareAt+2, 14, 1),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, spareAt, asm.Half),
			asm.And.Imm(asm.R1, int32(networkOrder(0x3fff))), // more fragments, offset
			asm.JNE.Imm(asm.R1, 0, "mix"),
			asm.LoadMem(asm.R9, asm.RFP, spareAt+2, asm.Byte),
			asm.And.Imm(asm.R9, 0xf),
			asm.LSh.Imm(asm.R9, 2),
			asm.Add.Imm(asm.R9, 14),
			asm.Ja.Label("ports"),
		},
		labelled("words6", loadTo(wordsAt, 14+8, 32)), loadTo(protoAt, 14+6, 1),
		asm.Instructions{
			asm.Mov.Imm(asm.R9, 14+40),
			asm.LoadMem(asm.R1, asm.RFP, protoAt, asm.Byte).WithSymbol("ports"),
			asm.JEq.Imm(asm.R1, unix.IPPROTO_TCP, "load ports"),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "mix"),
			asm.Mov.Reg(asm.R2, asm.R9).WithSymbol("load ports"),
		},
		loadAtR2(portsAt, 4),
		asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("mix")},
	)
	for i := range int16(frame.PathWords) {
		all = append(all,
			asm.LoadMem(asm.R1, asm.RFP, wordsAt+4*i, asm.Word),
			asm.HostTo(asm.BE, asm.R1, asm.Word),
			asm.Xor.Reg32(asm.R0, asm.R1),
			asm.Mov.Imm32(asm.R1, factor()),
			asm.Mul.Reg32(asm.R0, asm.R1),
			asm.Mov.Reg32(asm.R1, asm.R0),
			asm.LSh.Imm32(asm.R0, frame.PathRotation),
			asm.RSh.Imm32(asm.R1, 32-frame.PathRotation),
			asm.Or.Reg32(asm.R0, asm.R1),
		)
	}
	return append(all,
		asm.Mov.Reg32(asm.R1, asm.R0),
		asm.RSh.Imm32(asm.R1, 16),
		asm.Xor.Reg32(asm.R0, asm.R1),
		asm.Mov.Imm32(asm.R1, factor()),
		asm.Mul.Reg32(asm.R0, asm.R1),
		asm.RSh.Imm32(asm.R0, 16),
		asm.Mul.Reg(asm.R0, asm.R8),
		asm.RSh.Imm(asm.R0, 16),
		asm.And.Imm(asm.R0, maxHops-1), // for the verifier
		asm.Mul.Imm(asm.R0, sizeOfWay),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.Add.Reg(asm.R7, asm.R9).WithSymbol("chosen"),
		asm.Add.Imm(asm.R7, 4),
	)
}

// factor is frame.PathFactor as an immediate operand, which has a sign.
func factor() int32 {
	f := uint32(frame.PathFactor)
	return int32(f)
}

// loadTo puts bytes of the packet on the stack: zeros where it has none.
func loadTo(at int16, offset, length int32) asm.Instructions {
	return append(asm.Instructions{asm.Mov.Imm(asm.R2, offset)}, loadAtR2(at, length)...)
}

func loadAtR2(at int16, length int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, int32(at)),
		asm.Mov.Imm(asm.R4, length),
		asm.FnSkbLoadBytes.Call(),
	}
}
