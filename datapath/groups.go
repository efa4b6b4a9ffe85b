// SPDX-License-Identifier: Apache-2.0

package datapath

import "github.com/weirnet/weir/model"

// group is a port of a service: all of its frontends, in both families, which keep
// a client with one backend.
type group struct {
	service  model.PortRef
	protocol model.Protocol
}

// groupOf gives the group of a frontend; the zero group where it keeps nobody.
func groupOf(s *model.Service) group {
	if s.Affinity == 0 {
		return group{}
	}
	return group{s.Name, s.Protocol}
}

// groupsOf numbers the groups of services. A group keeps its number while one of its
// frontends is in the table under the service's name: who has the frontend from
// then on does not have its clients. The zero group is number 0.
func (d *Datapath) groupsOf(services []model.Service) map[group]uint32 {
	numbers := map[group]uint32{{}: 0}
	next := max(1, d.oldest)
	for key, pair := range d.services.have {
		for _, half := range pair {
			next = max(next, half.Group+1)
			name, known := d.labels.Services[half.Id]
			if of := (group{name.Name, model.Protocol(key.Proto)}); known && half.Group != 0 {
				numbers[of] = max(numbers[of], half.Group)
			}
		}
	}
	for i := range services {
		of := groupOf(&services[i])
		if _, numbered := numbers[of]; !numbered {
			numbers[of] = next
			next++
		}
	}
	return numbers
}
