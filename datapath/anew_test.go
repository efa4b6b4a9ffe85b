// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// noted are the places that the last change was written into.
func (d *Datapath) noted(t *testing.T) []uint32 {
	t.Helper()
	var all []uint32
	for place := range placeOfAll + 1 {
		was, err := d.changed.concern(d.settings.Epoch-1, []uint32{place})
		require.NoError(t, err)
		if was {
			all = append(all, place)
		}
	}
	return all
}

func TestAChangeConcernsTheFlowsOfWhatDiffersAndNoOthers(t *testing.T) {
	of := func(addrs ...string) (places []uint32) {
		for _, a := range addrs {
			places = append(places, placeOf(encodeAddr(addr(a))))
		}
		return places
	}
	port := func(a string, port uint16) uint32 { return placeOfPort(encodeAddr(addr(a)), encodePort(port)) }
	service := func(change func(*model.Service)) func(*model.State) {
		return func(s *model.State) {
			all := s.Services.Slice()
			all[0].Backends = slices.Clone(all[0].Backends)
			change(&all[0])
			s.Services = model.ListOf(all...)
		}
	}
	address := func(prefix string, identity model.Identity) func(*model.State) {
		return func(s *model.State) {
			s.Addresses = model.ListOf(append(s.Addresses.Slice(), model.Address{Prefix: netip.MustParsePrefix(prefix), Identity: identity})...)
		}
	}
	behind := func(number uint32) func(*model.State) {
		return func(s *model.State) {
			s.TunnelEndpoints = []model.TunnelEndpoint{
				{Number: 1, Node: "node-b", IPv4: addr("192.0.2.11")}, {Number: 2, Node: "node-c", IPv6: addr("2001:db8::12")},
			}
			s.Addresses = model.ListOf(model.Address{Prefix: prefix("10.9.0.1/32"), Identity: 400, TunnelEndpoint: number})
		}
	}
	endpoint := func(change func(*model.Endpoint)) func(*model.State) {
		return func(s *model.State) {
			s.Endpoints = slices.Clone(s.Endpoints)
			change(&s.Endpoints[1])
		}
	}
	another := model.Backend{Address: addr("10.0.0.1"), Port: 9090}
	for name, tt := range map[string]struct {
		before, change func(*model.State)
		want           []uint32
	}{
		"nothing": {change: func(*model.State) {}},
		"an address comes": {
			change: address("10.9.0.1/32", 400), want: of("10.9.0.1"),
		},
		"an address goes": {
			before: address("10.9.0.1/32", 400), change: func(s *model.State) { s.Addresses = model.List[model.Address]{} }, want: of("10.9.0.1"),
		},
		"an address has another identity": {
			before: address("10.9.0.1/32", 400),
			change: func(s *model.State) {
				s.Addresses = model.List[model.Address]{}
				address("10.9.0.1/32", 401)(s)
			},
			want: of("10.9.0.1"),
		},
		"an address comes to be behind another node": {
			before: behind(1), change: behind(2), want: of("10.9.0.1"),
		},
		"a node comes, and takes tunnels": {
			change: func(s *model.State) {
				s.TunnelEndpoints = []model.TunnelEndpoint{{Number: 1, Node: "node-b", IPv4: addr("192.0.2.11")}}
			},
		},
		"a node takes tunnels elsewhere": {
			before: behind(1),
			change: func(s *model.State) {
				s.TunnelEndpoints = slices.Clone(s.TunnelEndpoints)
				s.TunnelEndpoints[0].IPv6 = addr("2001:db8::11")
			},
			want: []uint32{placeOfAll},
		},
		"a prefix comes": {change: address("10.9.0.0/24", 400), want: []uint32{placeOfAll}},
		"the node has another MTU": {
			before: func(s *model.State) {
				s.Node.Masquerade = &model.Masquerade{IPv4: addr("192.0.2.1"), FirstPort: 100, LastPort: 200}
			},
			change: func(s *model.State) {
				s.Node.Masquerade = &model.Masquerade{IPv4: addr("192.0.2.1"), FirstPort: 100, LastPort: 201}
			},
			want: []uint32{placeOfAll},
		},
		"a pod has another rule set": {
			change: func(s *model.State) {
				endpoint(func(e *model.Endpoint) { e.RuleSet = "none" })(s)
				s.RuleSets = append(slices.Clone(s.RuleSets), model.RuleSet{Key: "none"})
			},
			want: of("10.0.0.2", "fd00::2"),
		},
		"a pod has another address": {
			change: endpoint(func(e *model.Endpoint) { e.IPv4 = addr("10.0.0.3") }), want: of("10.0.0.2", "10.0.0.3", "fd00::2"),
		},
		"a pod goes": {
			change: func(s *model.State) { s.Endpoints = s.Endpoints[:1] }, want: of("10.0.0.2", "fd00::2"),
		},
		"a frontend comes": {
			change: func(s *model.State) {
				s.Services = model.ListOf(slices.Insert(s.Services.Slice(), 1, model.Service{Name: model.PortRef{Namespace: "default", Name: "b"}, Address: addr("10.96.0.2"), Port: 81, Protocol: model.ProtocolTCP, Backends: s.Services.At(0).Backends})...)
			},
			want: []uint32{port("10.96.0.2", 81)},
		},
		"a frontend goes": {
			change: func(s *model.State) { s.Services = model.ListOf(s.Services.Slice()[1:]...) }, want: []uint32{port("10.96.0.1", 80), port("10.0.0.2", 8080)},
		},
		"a frontend of any address comes": {
			change: func(s *model.State) {
				s.Services = model.ListOf(slices.Insert(s.Services.Slice(), 0, model.Service{Name: model.PortRef{Namespace: "default", Name: "n"}, Address: netip.IPv4Unspecified(), Port: 30080, Protocol: model.ProtocolTCP, Scope: model.ScopeOutside})...)
			},
			want: []uint32{port("::", 30080)},
		},
		"a frontend has other sources": {
			change: service(func(s *model.Service) { s.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }), want: []uint32{port("10.96.0.1", 80)},
		},
		"a frontend answers otherwise":     {change: service(func(s *model.Service) { s.DSR = true }), want: []uint32{port("10.96.0.1", 80)}},
		"a frontend keeps clients":         {change: service(func(s *model.Service) { s.Affinity = 1e9 })},
		"a frontend is of another service": {change: service(func(s *model.Service) { s.Name.Name = "other" })},
		"new flows are led otherwise":      {change: service(func(s *model.Service) { s.MaglevSize = 251 })},
		"a backend comes":                  {change: service(func(s *model.Service) { s.Backends = append(s.Backends, another) })},
		"a backend goes": {
			before: service(func(s *model.Service) { s.Backends = append(s.Backends, another) }),
			change: service(func(s *model.Service) { s.Backends = s.Backends[:1] }),
			want:   []uint32{port("10.0.0.1", 9090)},
		},
		"a backend ends": {
			change: service(func(s *model.Service) { s.Backends[0].Terminating = true }), want: []uint32{port("10.0.0.2", 8080)},
		},
		"an address becomes services' alone": {
			change: func(s *model.State) { s.ServiceAddresses = []netip.Addr{addr("10.96.0.1")} }, want: of("10.96.0.1"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := openDatapath(t, small())
			before := n.state.Clone()
			if tt.before != nil {
				tt.before(before)
			}
			_, err := d.Apply(before)
			require.NoError(t, err)
			require.Equal(t, []uint32{placeOfAll}, d.noted(t), "of the first state nothing is known")
			for range 2 { // the second has the other half brought up to date
				after := *before
				tt.change(&after)
				_, err = d.Apply(&after)
				require.NoError(t, err)
				require.ElementsMatch(t, tt.want, d.noted(t))
				_, err = d.Apply(before)
				require.NoError(t, err)
				_, err = d.Apply(before)
				require.NoError(t, err)
				require.Empty(t, d.noted(t))
			}
		})
	}
}

// knownFlow opens a flow from the client to web, and is how its next packet is looked up.
func knownFlow(t *testing.T, d *Datapath, n *node) func() FlowLookup {
	t.Helper()
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000, 8080, syn), model.Forward)
	run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 40000, synAck), model.Forward)
	return func() FlowLookup {
		t.Helper()
		return run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000, 8080, ack), model.Forward).Decision.Flow
	}
}

func TestAnEpochThatBeginsAnewAtZeroIsBehindThoseBefore(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	require.NoError(t, d.BeginAt(^uint32(1)))
	for place := range placeOfAll + 1 { // those that were never written are of epoch 0
		require.NoError(t, d.changed.put(place, d.settings.Epoch))
	}
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	next := knownFlow(t, d, n)
	state := n.state.Clone()
	for i := range 4 {
		state = state.Clone()
		state.Addresses = model.ListOf(model.Address{Prefix: netip.MustParsePrefix("10.9.0.1/32"), Identity: model.Identity(400 + i)})
		_, err = d.Apply(state)
		require.NoError(t, err)
		require.Equal(t, FlowKnown, next(), "epoch %d", d.settings.Epoch)
		state = state.Clone()
		state.Endpoints[1].Identity++
		_, err = d.Apply(state)
		require.NoError(t, err)
		require.Equal(t, FlowRejudged, next(), "epoch %d", d.settings.Epoch)
		require.Equal(t, FlowKnown, next())
	}
}

func TestAPacketOfTheEpochBeforeIsJudgedByIt(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	next := knownFlow(t, d, n)
	require.Equal(t, FlowKnown, next())
	d.settings.Epoch--
	require.NoError(t, d.writeSettings())
	d.settings.Epoch++
	frame := tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000, 8080, func(tcp *layers.TCP) { tcp.ACK = true })
	ran, err := d.Run(model.FromContainer, Frame{Data: frame, Ifindex: n.client.Ifindex})
	require.NoError(t, err)
	require.Equal(t, FlowRejudged, ran.Decision.Flow)
	require.Equal(t, model.ReasonNoEndpoint, ran.Decision.Reason, "no state was in force then")
}

func TestALoaderThatIsNewHasEveryFlowJudgedAnew(t *testing.T) {
	n := newNode(t)
	opts := small()
	opts.PinPath = pinDir(t)
	first, err := Open(opts)
	require.NoError(t, err)
	_, err = first.Apply(n.state.Clone())
	require.NoError(t, err)
	next := knownFlow(t, first, n)
	require.Equal(t, FlowKnown, next())
	// Another version of the loader turns epochs, and knows of no places.
	first.settings.Epoch += 2
	require.NoError(t, first.writeSettings())
	require.Equal(t, FlowKnown, next(), "its programs would judge it anew")
	first.settings.Epoch += 2
	require.NoError(t, first.writeSettings())
	require.NoError(t, first.Close())

	second, err := Open(opts)
	require.NoError(t, err)
	defer func() { require.NoError(t, second.Remove()) }()
	run := func() FlowLookup {
		frame := tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000, 8080, ack)
		ran, err := second.Run(model.FromContainer, Frame{Data: frame, Ifindex: n.client.Ifindex})
		require.NoError(t, err)
		return ran.Decision.Flow
	}
	require.Equal(t, FlowRejudged, run(), "before it has applied anything")
	require.Equal(t, FlowKnown, run())
	_, err = second.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Equal(t, FlowRejudged, run())
	require.Equal(t, FlowKnown, run())
}

func TestWhatALoaderNotedBeforeItDiedIsJudgedAnewOnceMore(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	next := knownFlow(t, d, n)
	// The epoch that is to come is noted, and does not come.
	require.NoError(t, d.changed.put(placeOf(encodeAddr(addr("10.0.0.2"))), d.settings.Epoch+1))
	require.Equal(t, FlowKnown, next(), "the tables are the old ones")
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Equal(t, FlowRejudged, next())
	require.Equal(t, FlowKnown, next())
}
