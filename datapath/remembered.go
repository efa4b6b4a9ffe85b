// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"

	"github.com/weirnet/weir/model"
)

// remembered is what Apply knows of the state in force, so that the next one
// costs what differs. All of it follows from that state and the tables.
type remembered struct {
	state   *model.State
	own     *desired           // what is the node's own
	sockets map[backendKey]int // how many services have a row of service 0
	groups  map[group]*members
	lost    bool // a group that kept clients is gone, and not swept yet

	nextID, nextGroup uint32

	lists  uses[uint32] // slots
	source uses[uint32] // sources
	tables uses[maglevRange]
}

// members are the frontends of a group.
type members struct {
	number uint32
	count  int
}

// uses counts who uses a list, in the half that packets read.
type uses[K comparable] struct {
	count  map[K]int
	unused keySet[K] // may be; not swept yet
}

func newUses[K comparable]() uses[K] {
	return uses[K]{count: map[K]int{}}
}

func (u *uses[K]) add(key K, n int) {
	u.count[key] += n
	if u.count[key] <= 0 {
		delete(u.count, key)
		u.unused.add(key)
	}
}

// take gives what nobody uses.
func (u *uses[K]) take() []K {
	var keys []K
	for key := range u.unused.all() {
		if u.count[key] == 0 {
			keys = append(keys, key)
		}
	}
	u.unused = keySet[K]{}
	return keys
}

// use counts a row's lists.
func (r *remembered) use(row serviceHalf, n int) {
	if row.Set != 0 {
		r.lists.add(row.Set, n)
	}
	if row.Sources != 0 {
		r.source.add(row.Sources, n)
	}
	if row.TableSize != 0 {
		r.tables.add(maglevRange{row.Table, row.TableSize}, n)
	}
}

// remember is called when a state has come into force. last is what the state
// before left, and planFrom has changed; nil where all was planned.
func (d *Datapath) remember(last *remembered, state *model.State, want *desired) *remembered {
	if want.changes {
		half := d.half()
		for key, row := range want.services {
			last.use(row, 1)
			last.use(d.services.have[key][1-half], -1)
		}
		last.state, last.own = state, want.own()
		return last
	}
	r := &remembered{
		state: state, own: want.own(), sockets: map[backendKey]int{}, groups: map[group]*members{}, nextID: want.nextID, nextGroup: 1,
		lists: newUses[uint32](), source: newUses[uint32](), tables: newUses[maglevRange](),
	}
	for s := range state.Services.All() {
		for key := range want.sockets(s) {
			r.sockets[key]++
		}
		if of := groupOf(s); of != (group{}) {
			if r.groups[of] == nil {
				r.groups[of] = &members{number: want.groups[of]}
			}
			r.groups[of].count++
		}
	}
	for _, number := range want.groups {
		r.nextGroup = max(r.nextGroup, number+1)
	}
	for _, row := range want.services {
		r.use(row, 1)
	}
	// What a state before has left is nowhere counted.
	for set := range d.slots.have {
		r.lists.add(set, 0)
	}
	for list := range d.sources.have {
		r.source.add(list, 0)
	}
	for at := range d.maglev.have {
		r.tables.add(at, 0)
	}
	r.lost = true // of a state before, perhaps
	return r
}

// sweepUnused deletes the lists and tables that no service uses any more.
func (r *remembered) sweepUnused(d *Datapath) error {
	d.last = nil // until all of it is done
	var errs []error
	for _, set := range r.lists.take() {
		errs = append(errs, d.slots.remove(set))
	}
	for _, list := range r.source.take() {
		errs = append(errs, d.sources.remove(list))
	}
	for _, at := range r.tables.take() {
		d.maglev.forget(at, d.maglev.have[at])
	}
	if len(d.maglev.recipes) > 2*len(d.maglev.tables)+1024 {
		d.maglev.sweepRecipes()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.last = r
	return nil
}
