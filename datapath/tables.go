// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
)

// Table is a table as text, for people.
type Table struct {
	Name    string
	Entries []string // sorted
}

// Tables shows what packets meet now: all tables but flows and counters.
func (d *Datapath) Tables() []Table {
	d.applying.Lock()
	defer d.applying.Unlock()
	half, l := d.half(), d.shown()
	return []Table{
		show("nodes", d.nodes, half, func(_ uint32, n nodeHalf) string {
			return fmt.Sprintf("masquerades by %s %s, ports %d to %d, the first %d the node's own, tunnel %d, MTU %d, rule set %d", text(n.Masquerade4), text(n.Masquerade6), n.FirstPort, n.LastPort, n.OwnPorts, n.Tunnel, n.Mtu, n.Set)
		}),
		show("endpoints", d.endpoints, half, func(ifindex uint32, e endpointHalf) string {
			return fmt.Sprintf("ifindex %d: %s identity %d rule set %d addresses %s %s", ifindex, l.endpoint(ifindex), e.Identity, e.Set, text(e.Addr4), text(e.Addr6))
		}),
		show("ipcache", d.ipcache, half, func(a tableAddr, h ipcacheHalf) string {
			return fmt.Sprintf("%s: identity %d ifindex %d flags %#x%s", text(a), h.Identity, h.Ifindex, h.Flags, behind(&h))
		}),
		show("ipcache_cidrs", d.cidrs, half, func(k cidrKey, h ipcacheHalf) string {
			return fmt.Sprintf("%s/%d: identity %d flags %#x%s", text(k.Addr), k.Bits, h.Identity, h.Flags, behind(&h))
		}),
		show("tunnel_endpoints", d.tunnels, half, func(number uint32, h tunnelHalf) string {
			return fmt.Sprintf("%s: %s %s", tunnelEndpointText(number), text(h.Addr4), text(h.Addr6))
		}),
		show("services", d.services, half, func(k serviceKey, h serviceHalf) string {
			return fmt.Sprintf("%s %s port %d %s: %s id %d slot set %d of %d flags %#x affinity %ds sources %d Maglev table %d of %d",
				model.Protocol(k.Proto), text(k.Addr), decodePort(k.Port), model.Scope(k.Scope), l.service(h.Id), h.Id, h.Set, h.Count,
				h.Flags, h.Affinity, h.Sources, h.Table, h.TableSize)
		}),
		show("backends", d.backends, half, func(k backendKey, h backendHalf) string {
			return fmt.Sprintf("service %d: %s port %d %s", k.Service, text(k.Addr), decodePort(k.Port), backendStates[h.State])
		}),
		d.slotsTable(), d.sourcesTable(), d.rulesTable(&l),
	}
}

var ruleActions = map[uint16]string{0: "allow", 1: "deny", 2: "audit", 3: "refuse", 4: "redirect"}

var backendStates = map[uint32]string{1: "serving", 2: "terminating"}

func text(a tableAddr) string {
	if addr := decodeAddr(a); addr.IsValid() {
		return addr.String()
	}
	return "-"
}

func show[K, H comparable](name string, t *pairTable[K, H], half int, line func(K, H) string) Table {
	var zero H
	table := Table{Name: name}
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, pair := range t.have {
		if pair[half] != zero {
			table.Entries = append(table.Entries, line(key, pair[half]))
		}
	}
	slices.Sort(table.Entries)
	return table
}

func (d *Datapath) slotsTable() Table {
	table := Table{Name: "slot_rows"}
	for set, list := range d.slots.have {
		for i := range list {
			var row []string
			for _, s := range list[i].Slot {
				if s != (slotValue{}) {
					row = append(row, fmt.Sprintf("%s port %d", text(s.Addr), decodePort(s.Port)))
				}
			}
			table.Entries = append(table.Entries, fmt.Sprintf("set %d slots from %d on: %s", set, i*slotsARow, strings.Join(row, ", ")))
		}
	}
	slices.Sort(table.Entries)
	return table
}

func (d *Datapath) sourcesTable() Table {
	table := Table{Name: "sources"}
	for list, keys := range d.sources.have {
		for i := range keys {
			table.Entries = append(table.Entries, fmt.Sprintf("list %d: %s/%d", list, text(keys[i].Addr), keys[i].Bits-listBits))
		}
	}
	slices.Sort(table.Entries)
	return table
}

func (d *Datapath) rulesTable(l *labels) Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	table := Table{Name: "rules"}
	for set, list := range d.rules.have {
		for i := range list.keys {
			table.Entries = append(table.Entries, d.ruleText(set, &list.keys[i], l))
		}
	}
	slices.Sort(table.Entries)
	return table
}

func (d *Datapath) ruleText(set uint32, k *ruleKey, l *labels) string {
	var v ruleValue
	if err := d.rules.m.Lookup(k, &v); err != nil {
		return fmt.Sprintf("set %d: %v", set, err)
	}
	verdict := ruleActions[v.Action]
	if v.ProxyPort != 0 {
		verdict += fmt.Sprintf(" to port %d", decodePort(v.ProxyPort))
	}
	return fmt.Sprintf("set %d %s peer %d %s port %d/%d: %s by %s", set, model.Direction(k.Direction), k.Peer,
		model.Protocol(k.Proto), decodePort(k.Port), max(int(k.Bits)-ruleBitsAnyPort, 0), verdict, l.origin(v.Origin))
}
