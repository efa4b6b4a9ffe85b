// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"

	"github.com/weirnet/weir/model"
)

// labels are what numbers in tables and events stand for. They lie beside the
// pins, for loaders and readers that come later, and decide nothing: where they
// are gone, numbers are shown.
type labels struct {
	stateNames
	Origins []model.Origin `json:"origins"` // by number; 0 is no rule
	numbers map[model.Origin]uint32
}

// stateNames are the names of one state.
type stateNames struct {
	Node      string                 `json:"node"`
	Endpoints map[uint32]model.Key   `json:"endpoints"` // by ifindex
	Services  map[uint32]ServiceName `json:"services"`  // by id
	// Lifetimes are those by which flows are collected.
	Lifetimes model.Lifetimes `json:"lifetimes,omitempty"`
}

// ServiceName is what people call a frontend.
type ServiceName struct {
	Name model.PortRef     `json:"name"`
	Kind model.ServiceKind `json:"kind,omitempty"`
}

func newStateNames(node string) stateNames {
	return stateNames{Node: node, Endpoints: map[uint32]model.Key{}, Services: map[uint32]ServiceName{}}
}

func newLabels() labels {
	return labels{
		stateNames: newStateNames(""),
		Origins:    []model.Origin{{}},
		numbers:    map[model.Origin]uint32{},
	}
}

// number gives an origin the number that tables and events have for it.
func (l *labels) number(o model.Origin) uint32 {
	if n, ok := l.numbers[o]; ok {
		return n
	}
	n := uint32(len(l.Origins))
	l.Origins = append(l.Origins, o)
	l.numbers[o] = n
	return n
}

// shown are the names of now, for who only reads.
func (d *Datapath) shown() labels {
	d.mu.Lock()
	defer d.mu.Unlock()
	return labels{stateNames: d.labels.stateNames, Origins: d.labels.Origins}
}

func (l *labels) origin(n uint32) model.Origin {
	if int(n) >= len(l.Origins) {
		return model.Origin{} // its label is lost
	}
	return l.Origins[n]
}

// policy says which rule a number stands for; empty where none was asked.
func (l *labels) policy(n uint32) string {
	switch {
	case n == 0:
		return ""
	case int(n) >= len(l.Origins):
		return fmt.Sprintf("rule %d", n)
	}
	return l.Origins[n].String()
}

// service names a frontend, by its number alone where its name is lost.
func (l *labels) service(id uint32) model.PortRef {
	if id == 0 {
		return model.PortRef{}
	}
	if name, ok := l.Services[id]; ok {
		return name.Name
	}
	return model.PortRef{Name: fmt.Sprintf("service %d", id)}
}

// at names the endpoint at a hook: the node, at its own devices.
func (l *labels) at(hook model.Hook, ifindex uint32) string {
	if hook == model.FromDevice || hook == model.ToDevice || hook == Socket {
		return l.Node
	}
	return l.endpoint(ifindex).String()
}

// endpoint names a pod, by its device's number where its name is lost.
func (l *labels) endpoint(ifindex uint32) model.Key {
	if name, ok := l.Endpoints[ifindex]; ok {
		return name
	}
	return model.Key{Name: fmt.Sprintf("ifindex %d", ifindex)}
}

// with adds the names of a state to those of the one before: both are in use
// while the epoch turns.
func (s *stateNames) with(next stateNames) stateNames {
	both := stateNames{Node: next.Node, Endpoints: maps.Clone(s.Endpoints), Services: maps.Clone(s.Services)}
	maps.Copy(both.Endpoints, next.Endpoints)
	maps.Copy(both.Services, next.Services)
	return both
}
