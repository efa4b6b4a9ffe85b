// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// try asks what the suggested policies do beside those that are there: of the record's
// flows each, and of all pairs of workloads.
func (s *suggester) try(found *Suggestion) error {
	objs := s.objs.Clone()
	for _, p := range found.Policies {
		objs.NetworkPolicies[manifest.NameOf(p)] = p
	}
	before, err := NewSide(s.objs)
	if err != nil {
		return err
	}
	after, err := NewSide(objs)
	if err != nil {
		return err
	}
	if found.Lost, err = s.lost(after); err != nil {
		return err
	}
	found.Pairs, err = s.compare(before, after)
	return err
}

// lost are the record's flows that are denied, each once.
func (s *suggester) lost(after *Side) ([]Cut, error) {
	var lost []Cut
	told := map[*Opening]bool{}
	for i := range s.asked {
		a := &s.asked[i]
		d, err := after.explainer.Explain(a.from.name(), a.to.name(), a.port.Number, a.port.Protocol)
		if err == nil && a.seen != "" {
			err = asSeen(after.explainer, a, &d)
		}
		if err != nil {
			return nil, err
		}
		if d.Allowed || told[a.flow] {
			continue
		}
		told[a.flow] = true
		c := Cut{From: netip.AddrPortFrom(a.flow.Src, a.flow.Sport), To: netip.AddrPortFrom(a.flow.Dst, a.flow.Dport), Protocol: a.flow.Protocol.String(), Because: because(&d, &d)}
		if at := netip.AddrPortFrom(a.to.addr, a.port.Number); at != c.To {
			c.Backend = at
		}
		lost = append(lost, c)
	}
	return lost, nil
}

// asSeen takes what the target's policies say of the source that the target sees.
func asSeen(e *oracle.Explainer, a *asked, d *oracle.Decision) error {
	other, err := e.Explain(a.seen, a.to.name(), a.port.Number, a.port.Protocol)
	if err != nil {
		return err
	}
	isEgress := func(r oracle.Ruling) bool { return r.Direction == model.Egress }
	d.Rulings = slices.DeleteFunc(d.Rulings, func(r oracle.Ruling) bool { return !isEgress(r) })
	d.Rulings = append(d.Rulings, slices.DeleteFunc(other.Rulings, isEgress)...)
	d.Allowed = d.Denial() == nil
	return nil
}

// compare compares pairs of workloads by one pod of each, a workload with itself by
// two, and each with an address that is in no block.
func (s *suggester) compare(before, after *Side) ([]Change, error) {
	type one struct {
		name        string
		first, next *Pod // next: another pod of it, if there is one
	}
	var all []one
	for _, w := range s.works {
		at := one{name: w.String()}
		for _, name := range w.pods {
			pod, has := after.pods[name]
			switch {
			case !has:
			case at.first == nil:
				at.first = &pod
			case at.next == nil:
				at.next = &pod
			}
		}
		if at.first != nil {
			all = append(all, at)
		}
	}
	inside := len(all)
	for _, p := range partiesOf(before, after) {
		if p.outside && (p.Name == "outside 0.0.0.0/0" || p.Name == "outside ::/0") {
			all = append(all, one{name: p.Name, first: &p.Pod})
		}
	}
	var changes []Change
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP, model.ProtocolICMP} {
		starts := portStarts(protocol, before.state, after.state)
		for i := range all {
			for j := range all {
				to := all[j].first
				if i == j {
					to = all[j].next
				}
				if to == nil || i >= inside && j >= inside {
					continue
				}
				found, err := compareFamilies(before, after, all[i].first, to, protocol, starts)
				if err != nil {
					return nil, err
				}
				for n := range found {
					found[n].From, found[n].To = all[i].name, all[j].name
				}
				changes = append(changes, found...)
			}
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return changes, nil
}
