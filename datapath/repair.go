// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// Repaired is what a Repair did.
type Repaired struct {
	Compared int             // entries
	Tables   []RepairedTable // those that had drifted, in the order in which they were repaired
}

// RepairedTable is what a table had otherwise than the state in force says.
type RepairedTable struct {
	Table                   string
	Missing, Surplus, Wrong int      // entries
	Keys                    []string // the first of them, as "wrong ifindex 7"
}

// Entries is how many were repaired.
func (t *RepairedTable) Entries() int { return t.Missing + t.Surplus + t.Wrong }

// mostNamed is how many entries of a table are named.
const mostNamed = 5

// Repair compares all tables of the state with the state in force, slowly, and puts
// right what differs: Apply writes differences alone, and never sees what somebody
// else has changed. Behind a repair flows are judged anew. What is believed of the
// tables is compared first: where that is wrong, the whole state is applied again.
//
// It walks the tables without a lock, a batch at a time, and sleeps between them. Each
// batch is compared as the tables are then, so that it may go on while states are
// applied: it waits for an Apply, which waits for no more than a batch. Rules and lists come
// first, endpoints last, as in Apply: killed at any step, it leaves entries that are
// right and others as they were. What it did is given with an error too.
func (d *Datapath) Repair(ctx context.Context) (Repaired, error) {
	r := &repair{d: d, ctx: ctx}
	for _, step := range []func() error{
		r.believed, r.rules, r.slots, r.sources, r.maglev,
		func() error { return pairs(r, bpf.ContainerMapBackends, d.backends, backendText) },
		func() error { return pairs(r, bpf.ContainerMapServices, d.services, serviceText) },
		func() error { return pairs(r, bpf.ContainerMapNodes, d.nodes, func(uint32) string { return "node" }) },
		func() error { return pairs(r, bpf.ContainerMapTunnelEndpoints, d.tunnels, tunnelEndpointText) },
		func() error { return pairs(r, bpf.ContainerMapIpcacheCidrs, d.cidrs, cidrText) },
		func() error { return pairs(r, bpf.ContainerMapIpcache, d.ipcache, text) },
		func() error { return pairs(r, bpf.ContainerMapEndpoints, d.endpoints, endpointText) },
	} {
		if err := step(); err != nil {
			return r.done, errors.Join(fmt.Errorf("repair tables: %w", err), r.end())
		}
	}
	return r.done, r.end()
}

// repair is one run.
type repair struct {
	d    *Datapath
	ctx  context.Context
	done Repaired
}

// note counts an entry that was repaired.
func (r *repair) note(table, what, key string) {
	i := slices.IndexFunc(r.done.Tables, func(t RepairedTable) bool { return t.Table == table })
	if i < 0 {
		i = len(r.done.Tables)
		r.done.Tables = append(r.done.Tables, RepairedTable{Table: table})
	}
	t := &r.done.Tables[i]
	switch what {
	case "missing":
		t.Missing++
	case "surplus":
		t.Surplus++
	default:
		t.Wrong++
	}
	if len(t.Keys) < mostNamed {
		t.Keys = append(t.Keys, what+" "+key)
	}
}

// repairShare is which part of a CPU a Repair takes at most: one of so many.
const repairShare = 8

// rest sleeps as long as the work since a time allows.
func (r *repair) rest(since time.Time) error {
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-time.After((repairShare - 1) * time.Since(since)):
		return nil
	}
}

// end compares the settings, and has flows judged anew where anything was repaired.
func (r *repair) end() error {
	d := r.d
	d.applying.Lock()
	defer d.applying.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	zero := uint32(0)
	var is settings
	if err := d.maps[bpf.ContainerMapControl].Lookup(&zero, &is); err != nil {
		return fmt.Errorf("repair tables: read table control: %w", err)
	}
	r.done.Compared++
	if is != d.settings {
		r.note(bpf.ContainerMapControl, "wrong", fmt.Sprintf("settings: epoch %d, and not %d", is.Epoch, d.settings.Epoch))
	}
	if len(r.done.Tables) == 0 {
		return nil
	}
	d.opts.Step("repair control")
	if err := d.changed.put(placeOfAll, d.settings.Epoch+2); err != nil {
		return fmt.Errorf("repair tables: %w", err)
	}
	d.settings.Epoch += 2 // the same half
	if err := d.writeSettings(); err != nil {
		d.settings.Epoch -= 2
		return fmt.Errorf("repair tables: %w", err)
	}
	return nil
}

// mirror is what a table is to hold. Its functions are called with applying and mu
// held.
type mirror[K comparable, V comparable] struct {
	table string
	m     *ebpf.Map
	want  func(K) (V, bool)
	count func() int          // of all entries
	each  func(do func(K, V)) // all of them
	text  func(K) string      // names one for people
	skip  func(K) bool        // one that is being written; nil: none is
}

// pairs repairs a table whose entries have two halves.
func pairs[K, H comparable](r *repair, table string, t *pairTable[K, H], text func(K) string) error {
	return compareTable(r, &mirror[K, [2]H]{
		table: table, m: t.m, text: text,
		want:  func(key K) ([2]H, bool) { pair, ok := t.have[key]; return pair, ok },
		count: func() int { return len(t.have) },
		each: func(do func(K, [2]H)) {
			for key, pair := range t.have {
				do(key, pair)
			}
		},
	})
}

func (r *repair) slots() error {
	t := r.d.slots
	return compareTable(r, &mirror[slotRowKey, slotRow]{
		table: bpf.ContainerMapSlotRows, m: t.m, text: func(k slotRowKey) string { return fmt.Sprintf("row %d of set %d", k.Row, k.Set) },
		want: func(key slotRowKey) (slotRow, bool) {
			if list := t.have[key.Set]; int(key.Row) < len(list) {
				return list[key.Row], true
			}
			return slotRow{}, false
		},
		count: func() int { return t.used },
		each: func(do func(slotRowKey, slotRow)) {
			for set, list := range t.have {
				for i := range list {
					do(slotRowKey{Set: set, Row: uint32(i)}, list[i])
				}
			}
		},
	})
}

func (r *repair) sources() error {
	t := r.d.sources
	return compareTable(r, &mirror[sourceKey, uint32]{
		table: bpf.ContainerMapSources, m: t.m, text: func(k sourceKey) string { return fmt.Sprintf("%s of list %d", decodeSource(&k), k.List) },
		want:  func(key sourceKey) (uint32, bool) { return 1, slices.Contains(t.have[key.List], key) },
		count: func() int { return t.used },
		each: func(do func(sourceKey, uint32)) {
			for _, keys := range t.have {
				for i := range keys {
					do(keys[i], 1)
				}
			}
		},
	})
}

func (r *repair) rules() error {
	t := r.d.rules
	// The keys of a set follow each other in the table.
	set, of := uint32(0), map[ruleKey]ruleValue{}
	want := func(key ruleKey) (ruleValue, bool) {
		if key.Set != set || len(of) != len(t.have[set].keys) {
			set = key.Set
			clear(of)
			for i, k := range t.have[set].keys {
				of[k] = t.have[set].values[i]
			}
		}
		value, ok := of[key]
		return value, ok
	}
	return compareTable(r, &mirror[ruleKey, ruleValue]{
		table: bpf.ContainerMapRules, m: t.m, want: want, skip: func(key ruleKey) bool { return t.coming[key.Set] },
		text: func(k ruleKey) string {
			return fmt.Sprintf("rule of set %d, peer %d, protocol %d, port %d", k.Set, k.Peer, k.Proto, decodePort(k.Port))
		},
		count: func() int { return t.used },
		each: func(do func(ruleKey, ruleValue)) {
			for _, list := range t.have {
				for i := range list.keys {
					do(list.keys[i], list.values[i])
				}
			}
		},
	})
}

func endpointText(ifindex uint32) string { return fmt.Sprintf("ifindex %d", ifindex) }

func cidrText(k cidrKey) string {
	return decodeSource(&sourceKey{Bits: k.Bits + listBits, Addr: k.Addr}).String()
}

func backendText(k backendKey) string {
	return fmt.Sprintf("%s port %d of service %d", text(k.Addr), decodePort(k.Port), k.Service)
}

func serviceText(k serviceKey) string {
	return fmt.Sprintf("protocol %d %s port %d scope %d", k.Proto, text(k.Addr), decodePort(k.Port), k.Scope)
}
