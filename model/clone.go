// SPDX-License-Identifier: Apache-2.0

package model

import "slices"

// Clone gives a state that shares nothing which a change of one could reach in the
// other. Who changes a state that a datapath has been given changes a clone.
func (s *State) Clone() *State {
	c := *s
	c.Node.Addresses, c.Node.Gateways = slices.Clone(s.Node.Addresses), slices.Clone(s.Node.Gateways)
	c.Node.Uplinks = slices.Clone(s.Node.Uplinks)
	if s.Node.Masquerade != nil {
		masquerade := *s.Node.Masquerade
		c.Node.Masquerade = &masquerade
	}
	c.Endpoints, c.Addresses = slices.Clone(s.Endpoints), ListOf(s.Addresses.Slice()...)
	c.Services, c.Loopback = ListOf(cloneServices(s.Services.Slice())...), cloneServices(s.Loopback)
	c.ServiceAddresses = slices.Clone(s.ServiceAddresses)
	c.RuleSets = slices.Clone(s.RuleSets)
	for i := range c.RuleSets {
		c.RuleSets[i].Rules = slices.Clone(c.RuleSets[i].Rules)
	}
	c.TunnelEndpoints = slices.Clone(s.TunnelEndpoints)
	c.Peers = slices.Clone(s.Peers)
	return &c
}

func cloneServices(all []Service) []Service {
	all = slices.Clone(all)
	for i := range all {
		all[i].Backends, all[i].Sources = slices.Clone(all[i].Backends), slices.Clone(all[i].Sources)
	}
	return all
}
