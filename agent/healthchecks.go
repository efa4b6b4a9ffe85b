// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// healthChecks are those that the node answers, by Service. One is made again
// when its Service, or a slice of that, changes.
type healthChecks struct {
	node     string
	of       map[string]string          // Services by the keys of their slices
	slicesOf map[string]map[string]bool // and the other way round
	checks   map[string]compile.HealthCheck
	out      map[model.Ref]bool    // Services and slices that are refused
	list     []compile.HealthCheck // all checks, by port; never changed
	revision uint64                // how often it was made
}

func newHealthChecks(node string) *healthChecks {
	return &healthChecks{
		node: node, of: map[string]string{}, slicesOf: map[string]map[string]bool{}, checks: map[string]compile.HealthCheck{}, revision: 1,
	}
}

// take takes in objects that have changed, or are refused.
func (h *healthChecks) take(objs *manifest.Objects, changed []model.Ref, refusals []compile.Refusal) {
	again := map[string]bool{}
	for _, ref := range append(h.refuse(refusals), changed...) {
		switch ref.Kind {
		case "Service":
			again[ref.Key()] = true
		case "EndpointSlice":
			key := ref.Key()
			again[h.of[key]] = true
			h.name(key, objs.EndpointSlices[key])
			again[h.of[key]] = true
		}
	}
	others := false
	for key := range again {
		check, asked := h.make(objs, key)
		before, was := h.checks[key]
		if others = others || was != asked || before != check; asked {
			h.checks[key] = check
		} else {
			delete(h.checks, key)
		}
	}
	if others {
		h.list = slices.SortedFunc(maps.Values(h.checks), byPort)
		h.revision++
	}
}

// byPort orders those that have a port too by name: the first of them has it.
func byPort(a, b compile.HealthCheck) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Service.String(), b.Service.String()))
}

// refuse gives those that are refused, and were not, and the other way round.
func (h *healthChecks) refuse(refusals []compile.Refusal) (changed []model.Ref) {
	out := map[model.Ref]bool{}
	for i := range refusals {
		if ref := refusals[i].Object; ref.Kind == "Service" || ref.Kind == "EndpointSlice" {
			if out[ref] = true; !h.out[ref] {
				changed = append(changed, ref)
			}
		}
	}
	for ref := range h.out {
		if !out[ref] {
			changed = append(changed, ref)
		}
	}
	h.out = out
	return changed
}

// name keeps whose a slice is; nil: it is gone.
func (h *healthChecks) name(key string, slice *discoveryv1.EndpointSlice) {
	if of, known := h.of[key]; known {
		delete(h.slicesOf[of], key)
		if delete(h.of, key); len(h.slicesOf[of]) == 0 {
			delete(h.slicesOf, of)
		}
	}
	if slice == nil {
		return
	}
	of := manifest.ServiceOf(slice)
	if h.of[key] = of; h.slicesOf[of] == nil {
		h.slicesOf[of] = map[string]bool{}
	}
	h.slicesOf[of][key] = true
}

func (h *healthChecks) make(objs *manifest.Objects, key string) (check compile.HealthCheck, asked bool) {
	svc := objs.Services[key]
	if svc == nil || svc.Spec.HealthCheckNodePort == 0 || h.out[manifest.RefOf(svc)] {
		return check, false
	}
	var list []*discoveryv1.EndpointSlice
	for name := range h.slicesOf[key] {
		if slice := objs.EndpointSlices[name]; slice != nil && !h.out[manifest.RefOf(slice)] {
			list = append(list, slice)
		}
	}
	return compile.HealthCheckOf(svc, list, h.node)
}
