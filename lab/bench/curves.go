// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"text/tabwriter"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

// curve is what packets cost by the size of something.
type curve struct {
	name, help, x string
	names         []string // of sizes that are no numbers
	sizes         []int
	room          datapath.Options
	lines         []curveLine
}

// curveLine is a path at each size.
type curveLine struct {
	name   string
	path   path
	adjust func(p *path, size int)                // of the path; nil: none
	flows  func(size int) int                     // that take turns; nil: as few as the path has
	change func(s *model.State, size int)         // of the state; nil: none
	before func(s *site, p *path, size int) error // fills a table; nil: nothing
}

// fewPorts is from where on the node gives source ports in the curve of ports.
const fewPorts = 57344

func curves() []curve {
	known, fresh, in := pathOf("pod-to-service"), pathOf("new-flow"), pathOf("new-flow-in")
	opening := fresh
	opening.to, opening.port, opening.translated = service, firstServicePort, true
	elsewhere := opening
	elsewhere.out = model.OutDevice
	judged := pathOf("pod-to-pod")
	judged.to, judged.port = picky, 8090
	toOne := pathOf("pod-to-world")
	toOne.peers, toOne.opens, toOne.byChance = 1, true, true
	same := func(size int) int { return size }
	return []curve{
		{name: "flows", help: "known flows in random turn, beside a bare lookup", x: "flows", sizes: []int{1, 16, 256, 4 << 10, 64 << 10, 1 << 20}, lines: []curveLine{
			{name: "pod-to-service", path: known, flows: same}, {name: "pod-to-pod", path: pathOf("pod-to-pod"), flows: same},
			{name: "node-port", path: pathOf("node-port"), flows: same},
		}},
		{name: "services", help: "services that a node has", x: "services", sizes: toMany,
			room: datapath.Options{Services: 1 << 18, Room: map[string]uint32{"slot_rows": 1 << 19, "backends": 1 << 19}}, lines: []curveLine{
				{name: "new flow", path: opening, change: withServices}, {name: "known flow", path: known, change: withServices},
			}},
		{name: "backends", help: "backends of a service", x: "backends", sizes: []int{1, 10, 100, 1000, 10_000}, lines: []curveLine{
			{name: "new flow", path: elsewhere, change: withBackends},
		}},
		{name: "policy-entries", help: "entries of a pod's policies", x: "entries", sizes: []int{1, 10, 100, 1000, 16_000}, lines: []curveLine{
			{name: "new flow", path: fresh, change: withRules}, {name: "new flow in", path: in, change: withRules},
			{name: "known flow", path: judged, change: withRules},
		}},
		{name: "identities", help: "identities of those who open flows to a pod", x: "identities", sizes: toMany,
			room: datapath.Options{Room: map[string]uint32{"ipcache": 1 << 18}}, lines: []curveLine{
				{name: "new flow in", path: in, change: withIdentities,
					adjust: func(p *path, size int) { p.peers = size },
					flows:  func(size int) int { return max(leastOpened, size) }},
			}},
		{name: "ports", help: "the share of source ports towards a peer that is taken", x: "ports that are taken, %", names: []string{"0", "50", "90", "99"},
			sizes: []int{0, 50, 90, 99}, lines: []curveLine{
				{name: "new flow", path: toOne, change: withFewPorts, before: takePorts, flows: func(int) int { return leastOpened / 4 }},
			}},
	}
}

// toMany are sizes of what a cluster has many of.
var toMany = []int{1, 10, 100, 1000, 10_000, 60_000}

func pathOf(name string) path {
	some, err := chosen([]string{name})
	if err != nil {
		panic(err) // a name of this package
	}
	return some[0]
}

// frontend finds one of the state.
func frontend(s *model.State, at string, port uint16) *model.Service {
	for one := range s.Services.All() {
		if one.Address == netip.MustParseAddr(at) && one.Port == port {
			return one
		}
	}
	panic("the bench has no such service: " + at)
}

// withServices adds services that nobody speaks to.
func withServices(s *model.State, size int) {
	like := *frontend(s, service[0], firstServicePort)
	var more []model.Service
	for i := range size - 1 {
		one := like
		one.Address = netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})
		more = append(more, one)
	}
	s.Services = s.Services.With(more...)
}

// withBackends has the service lead to pods of other nodes.
func withBackends(s *model.State, size int) {
	s.Addresses = s.Addresses.With(model.Address{Prefix: netip.MustParsePrefix("10.64.0.0/10"), Identity: model.FirstLabelIdentity + 999, Native: true})
	one := frontend(s, service[0], firstServicePort)
	one.Backends = nil
	for i := range size {
		one.Backends = append(one.Backends, model.Backend{Address: hostAt(netip.MustParseAddr("10.64.0.1"), i), Port: 8080})
	}
}

// addRules adds to the policy of the pod that has one.
func addRules(s *model.State, rules ...model.Rule) {
	for _, e := range s.Endpoints {
		if e.Name.Name != "picky" {
			continue
		}
		for i := range s.RuleSets {
			if s.RuleSets[i].Key == e.RuleSet {
				s.RuleSets[i].Rules = append(slices.Clone(s.RuleSets[i].Rules), rules...)
			}
		}
	}
}

// withRules adds rules for others and other ports.
func withRules(s *model.State, size int) {
	const peers = 64
	var rules []model.Rule
	for i := range size - 1 {
		rules = append(rules, model.Rule{Direction: model.Ingress, Peer: model.FirstLabelIdentity + 1000 + model.Identity(i%peers),
			Protocol: model.ProtocolTCP, Port: 9000 + uint16(i/peers), PortBits: 16})
	}
	addRules(s, rules...)
}

// withIdentities gives those who open flows an identity each; all of them may.
func withIdentities(s *model.State, size int) {
	var more []model.Address
	for i := range size {
		a := hostAt(netip.MustParseAddr(farPod[0]), i)
		if i >= farPods {
			more = append(more, model.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: model.FirstLabelIdentity + 1000 + model.Identity(i), Native: true})
		}
	}
	s.Addresses = s.Addresses.With(more...)
	addRules(s, model.Rule{Direction: model.Ingress, Protocol: model.ProtocolTCP, Port: 8080, PortBits: 16, Precedence: 1})
}

// withFewPorts has a node port lead to the one peer that ports are taken towards.
func withFewPorts(s *model.State, _ int) {
	s.Node.Masquerade.FirstPort, s.Node.Masquerade.LastPort = fewPorts, 65535
	frontend(s, node1[0], 30080).Backends = []model.Backend{{Address: netip.MustParseAddr(world[0]), Port: 443}}
}

// takePorts has a host outside take a share of the ports; who is measured asks for those.
func takePorts(s *site, p *path, percent int) error {
	order := rand.New(rand.NewPCG(1, 2)).Perm(1<<16 - fewPorts)
	for i := range order {
		order[i] += fewPorts
	}
	p.ports = order
	taking := pathOf("node-port")
	taking.peers, taking.ports = 1, order
	if percent == 0 {
		return nil
	}
	_, err := s.open(&taking, IPv4, len(order)*percent/100)
	return err
}

// Chart is a curve that was measured.
type Chart struct {
	Name string
	Help string
	c    chart
}

// SVG draws the curve.
func (c *Chart) SVG() string { return c.c.svg() }

// Curves lists what can be drawn.
func Curves() []Path {
	var all []Path
	for _, c := range curves() {
		all = append(all, Path{c.name, c.help})
	}
	return all
}

// Draw measures curves, of IPv4, and keeps each when it is there; of no name: all.
// Rounds are of each point.
func Draw(ctx context.Context, names []string, o Options, keep func(*Chart) error) error {
	if err := needJIT(); err != nil {
		return err
	}
	all := curves()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(c curve) bool { return c.name == name }) {
			return fmt.Errorf("draw %s: %w", name, ErrNoPath)
		}
	}
	for i := range all {
		if len(names) > 0 && !slices.Contains(names, all[i].name) {
			continue
		}
		c, err := all[i].draw(ctx, o)
		if err != nil {
			return fmt.Errorf("draw %s: %w", all[i].name, err)
		}
		if err := keep(&Chart{all[i].name, all[i].help, *c}); err != nil {
			return err
		}
	}
	return nil
}

func (c *curve) draw(ctx context.Context, o Options) (*chart, error) {
	pool, err := prog.NewPool(1, c.roomForAll())
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	drawn := &chart{title: "By " + c.help, x: c.x, y: "over BASE, in multiples of it", names: c.names}
	lookup := line{name: "bare lookup", dashed: true}
	for i := range c.lines {
		of := line{name: c.lines[i].name}
		for n, size := range c.sizes {
			over, bare, err := c.lines[i].point(ctx, pool, size, o)
			if err != nil {
				return nil, fmt.Errorf("%s at %d: %w", of.name, size, err)
			}
			x := float64(size)
			if c.names != nil {
				x = float64(n)
			}
			of.points = append(of.points, xy{x, over})
			if i == 0 {
				lookup.points = append(lookup.points, xy{x, bare})
			}
		}
		drawn.lines = append(drawn.lines, of)
	}
	if c.name == "flows" {
		drawn.lines = append(drawn.lines, lookup)
	}
	return drawn, nil
}

// roomForAll is what the largest point takes.
func (c *curve) roomForAll() datapath.Options {
	var all [][]asked
	for i := range c.lines {
		for _, size := range c.sizes {
			all = append(all, c.lines[i].asked(size))
		}
	}
	room := roomFor(all)
	room.Services, room.Room = c.room.Services, c.room.Room
	return room
}

// asked is what is measured at a size, and one frame, whose BASE is the unit.
func (l *curveLine) asked(size int) []asked {
	p, flows := l.path, 1
	if p.opens {
		flows = leastOpened
	}
	if l.flows != nil {
		flows = l.flows(size)
	}
	if l.adjust != nil {
		l.adjust(&p, size)
	}
	return []asked{{p, IPv4, flows}, {pathOf("refused"), IPv4, 1}}
}

// point measures one, and the bare lookup of the same flows: over BASE, in multiples of
// the BASE of one frame, which does not depend on the size.
func (l *curveLine) point(ctx context.Context, pool *prog.Pool, size int, o Options) (over, bare float64, err error) {
	turn := l.asked(size)
	m := &measuring{o: o, loads: 1, results: map[string]*Result{}, floors: map[string]float64{}}
	if l.change != nil {
		m.change = func(s *model.State) { l.change(s, size) }
	}
	if l.before != nil {
		m.before = func(s *site, turn []asked) error { return l.before(s, &turn[0].p, size) }
	}
	var failed error
	err = pool.Use(ctx, topology(), func(w *prog.World) { failed = m.measure(ctx, w, turn) })
	if err := errors.Join(err, failed); err != nil {
		return 0, 0, err
	}
	r, unit := m.results[turn[0].name()], m.results[turn[1].name()].fastest()
	base := medianOf(r.Base)
	if len(r.Lookup) > 0 {
		bare = medianOf(r.overLookup()) * base / unit
	}
	return medianOf(r.Over()) * base / unit, bare, nil
}

// Write writes a curve as a table.
func (c *Chart) Write(w io.Writer) error {
	fmt.Fprintf(w, "%s: %s\n", c.Name, c.Help)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, c.c.x)
	for _, l := range c.c.lines {
		fmt.Fprint(table, "\t", l.name)
	}
	fmt.Fprintln(table)
	for n, p := range c.c.lines[0].points {
		x := short(p.x)
		if c.c.names != nil {
			x = c.c.names[n]
		}
		fmt.Fprint(table, x)
		for _, l := range c.c.lines {
			fmt.Fprintf(table, "\t%.2f", l.points[n].y)
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}
