// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// errMoved is a state that is not in force any more: another was applied meanwhile.
var errMoved = errors.New("another state is in force")

// believed compares what the tables are believed to hold with the state in force: Apply
// works out differences, and an error in one would stay for ever. Where they differ, the
// whole state is applied again.
func (r *repair) believed() error {
	state, known := r.inForce()
	if state == nil {
		return nil
	}
	if !known { // an Apply has failed since, and what it left is not known
		return r.applyAgain(state)
	}
	noted := len(r.done.Tables)
	err := r.compareState(state)
	if errors.Is(err, errMoved) {
		return nil // the next run compares that one
	}
	if err != nil || len(r.done.Tables) == noted {
		return err
	}
	return r.applyAgain(state)
}

// inForce gives the state in force, and whether it is known what the tables hold.
func (r *repair) inForce() (state *model.State, known bool) {
	r.d.applying.Lock()
	defer r.d.applying.Unlock()
	return r.d.inForce, r.d.last != nil
}

// applyAgain looks at all tables, unless another state is in force.
func (r *repair) applyAgain(state *model.State) error {
	r.d.takeTurn()
	defer r.d.applying.Unlock()
	if r.d.inForce != state {
		return nil
	}
	r.d.last = nil
	if err := cmp.Or(r.d.tend(), r.d.sweep()); err != nil {
		return err
	}
	_, err := r.d.enforce(state)
	return err
}

func (r *repair) compareState(state *model.State) error {
	began := time.Now()
	want, err := r.d.planOwn(state)
	if err != nil {
		return err
	}
	if err := planTunnelEndpoints(state, want); err != nil {
		return err
	}
	planIPCache(state, want)
	if err := r.rest(began); err != nil {
		return err
	}
	for _, compare := range []func() error{
		func() error { return r.services(state, want) },
		func() error {
			return halvesOf(r, state, bpf.ContainerMapNodes, r.d.nodes, want.nodes, true, func(uint32) string { return "node" })
		},
		func() error {
			return halvesOf(r, state, bpf.ContainerMapTunnelEndpoints, r.d.tunnels, want.tunnels, true, tunnelEndpointText)
		},
		// A CIDR that is not in the state repeats a shorter one, until it is swept.
		func() error {
			return halvesOf(r, state, bpf.ContainerMapIpcacheCidrs, r.d.cidrs, want.cidrs, false, cidrText)
		},
		func() error {
			return halvesOf(r, state, bpf.ContainerMapIpcache, r.d.ipcache, want.ipcache, true, text)
		},
		func() error {
			return halvesOf(r, state, bpf.ContainerMapEndpoints, r.d.endpoints, want.endpoints, true, endpointText)
		},
	} {
		if err := compare(); err != nil {
			return err
		}
	}
	return nil
}

// batch calls do with the half that packets read, with applying and mu held, unless
// another state is in force.
func (r *repair) batch(state *model.State, do func(half int)) error {
	began := time.Now()
	r.lock()
	moved := r.d.last == nil || r.d.last.state != state
	if !moved {
		do(int(r.d.settings.Epoch & 1))
	}
	r.unlock()
	if moved {
		return errMoved
	}
	return r.rest(began)
}

// halvesOf compares the half that packets read with what a state says. What was
// connected beside the state is left out.
func halvesOf[K, H comparable](r *repair, state *model.State, table string, t *pairTable[K, H], want map[K]H, all bool, text func(K) string) error {
	for keys := range slices.Chunk(slices.Collect(maps.Keys(want)), repairBatch) {
		err := r.batch(state, func(half int) {
			for _, key := range keys {
				r.differs(table, t.have[key][half] == want[key] || t.isKept(key), text(key))
			}
		})
		if err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return r.batch(state, func(half int) { surplus(r, table, t, half, func(key K) bool { _, ok := want[key]; return ok }, text) })
}

func (t *pairTable[K, H]) isKept(key K) bool {
	_, kept := t.kept[key]
	return kept
}

// surplus notes what packets read and no state says.
func surplus[K, H comparable](r *repair, table string, t *pairTable[K, H], half int, wanted func(K) bool, text func(K) string) {
	var zero H
	for key, pair := range t.have {
		if pair[half] != zero && !wanted(key) && !t.isKept(key) {
			r.note(table, "surplus", text(key))
		}
	}
}

func (r *repair) differs(table string, same bool, key string) {
	if !same {
		r.note(table, "wrong", key)
	}
}

// services compares frontends, what they choose from, and their backends.
func (r *repair) services(state *model.State, want *desired) error {
	want.services, want.backends = map[serviceKey]serviceHalf{}, map[backendKey]backendHalf{}
	for services := range slices.Chunk(state.Services.Slice(), repairBatch/8) {
		frontends := make([]frontend, len(services))
		for i := range services {
			frontends[i] = newFrontend(&services[i])
		}
		var failed error
		err := r.batch(state, func(half int) { failed = r.servicesBatch(services, frontends, half, want) })
		if err := errors.Join(err, failed); err != nil {
			return err
		}
	}
	return r.batch(state, func(half int) {
		for _, addr := range state.ServiceAddresses {
			key := addressRow(addr)
			row := r.d.services.have[key][half]
			r.differs(bpf.ContainerMapServices, row.Id != 0 && row == serviceHalf{Id: row.Id, Flags: pings(state)}, serviceText(key))
			want.services[key] = row
		}
		surplus(r, bpf.ContainerMapServices, r.d.services, half, func(key serviceKey) bool { _, ok := want.services[key]; return ok }, serviceText)
		surplus(r, bpf.ContainerMapBackends, r.d.backends, half, func(key backendKey) bool { _, ok := want.backends[key]; return ok }, backendText)
	})
}

// servicesBatch compares some services. A list that no table has gets a number that
// no row has.
func (r *repair) servicesBatch(services []model.Service, frontends []frontend, half int, want *desired) error {
	d := r.d
	rows, err := d.planLists(services, frontends, &desired{})
	if err != nil {
		return fmt.Errorf("compare services: %w", err)
	}
	for i := range services {
		s, key := &services[i], encodeServiceKey(&services[i])
		is := d.services.have[key][half]
		row := rows[i]
		row.Id = is.Id
		if m := d.last.groups[groupOf(s)]; m != nil {
			row.Group = m.number
		}
		r.differs(bpf.ContainerMapServices, is.Id != 0 && is == row, serviceText(key))
		want.services[key] = row
		backends := map[backendKey]backendHalf{}
		addBackends(backends, is.Id, s)
		for socket := range want.sockets(s) {
			backends[socket] = stateOfBackend(&model.Backend{})
		}
		for key, backend := range backends {
			r.differs(bpf.ContainerMapBackends, d.backends.have[key][half] == backend, backendText(key))
			want.backends[key] = backend
		}
	}
	return nil
}
