// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model/manifest"
)

// checker follows the script with what is known without a network: which
// hosts, exchanges, files and services there are at each step.
type checker struct {
	*parser
	conns    map[string]Pos
	used     map[string]bool
	objects  map[string]*manifest.Objects
	services map[string]bool // name.namespace of those in any attached file
	sent     bool
	given    holders
}

// check finds the mistakes that single lines do not show.
func (p *parser) check() {
	f := p.file
	c := &checker{parser: p, conns: map[string]Pos{}, used: map[string]bool{}, objects: map[string]*manifest.Objects{}, services: map[string]bool{}, given: holders{}}
	if len(f.Worlds) == 0 {
		p.failf(p.pos(1), "no worlds are declared: expected a line like 'worlds prog netns'")
	}
	for w := range f.Except {
		if slices.Contains(f.Worlds, w) {
			p.failf(p.pos(1), "world %s is declared and excepted: leave out one of them", w)
		}
	}
	if len(f.Families) == 0 {
		f.Families = []Family{IPv4, IPv6}
	}
	if len(f.Pods) == 0 {
		p.failf(p.pos(1), "there are no pods: expected a line like 'topology two-pods' or 'pod client app=client'")
	}
	if len(f.Steps) == 0 {
		p.failf(p.pos(1), "there are no steps: a scenario that checks nothing proves nothing")
	}
	for _, h := range f.Silent {
		c.host(p.pos(1), "silent", h)
		if f.HasNode(h) {
			c.onlyProg(p.pos(1), "a silent node")
		}
	}
	if len(f.Without) > 0 && !slices.Equal(f.Worlds, []World{Netns}) {
		p.failf(p.pos(1), "without: only world netns opens the datapath anew for a scenario: declare 'worlds netns'")
	}
	if f.Sockets && !slices.Equal(f.Worlds, []World{Netns}) {
		p.failf(p.pos(1), "sockets: only world netns runs programs at the nodes' sockets: declare 'worlds netns'")
	}
	if f.SmallShares && !slices.Equal(f.Worlds, []World{Prog}) {
		p.failf(p.pos(1), "shares: only world prog has programs with small ones: declare 'worlds prog'")
	}
	for _, pod := range f.Pods {
		c.node(pod.Pos, "pod "+pod.HostName(), pod.Node)
	}
	c.parseAttached()
	c.network(f)
	c.live(f)
	for i := range f.Steps {
		c.step(&f.Steps[i])
	}
	for _, name := range sortedKeys(f.Files) {
		if !c.used[name] {
			p.failf(p.pos(f.Files[name].Line-1), "no step uses %s: apply it or remove it", name)
		}
	}
}

// parseAttached reads the objects of every attached file.
func (c *checker) parseAttached() {
	for _, name := range sortedKeys(c.file.Files) {
		file := c.file.Files[name]
		objs, err := manifest.Parse(name, bytes.NewReader(file.Data))
		if err != nil {
			c.objectErrors(name, file, err)
			continue
		}
		c.objects[name] = objs
		for _, svc := range objs.Services {
			c.services[svc.Name+"."+svc.Namespace] = true
		}
	}
}

// objectErrors gives each error of an attached file its line in the scenario.
func (c *checker) objectErrors(name string, file Attached, err error) {
	all := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		all = many.Unwrap()
	}
	for _, err := range all {
		line := file.Line
		if at, ok := errors.AsType[*manifest.ParseError](err); ok {
			line += at.Line - 1
		}
		c.failf(c.pos(line), "%w", err)
	}
}

func (c *checker) host(at Pos, verb, name string) {
	if !c.file.HasHost(name) {
		c.failf(at, "%s: there is no host %s: expected one of %s", verb, name, strings.Join(c.file.HostNames(), ", "))
	}
}

// node checks a name of a node; empty is all, or the first.
func (c *checker) node(at Pos, verb, name string) {
	if name != "" && !c.file.HasNode(name) {
		c.failf(at, "%s: there is no node %s: expected one of %s", verb, name, strings.Join(c.file.NodeNames(), ", "))
	}
}

// network checks what describes the network and needs to know all of it.
func (c *checker) network(f *File) {
	if err := f.Options.Validate(); err != nil {
		c.failf(c.pos(1), "%w", err)
	}
	for _, r := range f.Routes {
		c.node(r.Pos, "route", r.Node)
		c.routable(r.Pos, "route", r.To)
	}
	if len(f.Routes) > 0 {
		c.routed(f.Routes[0].Pos, "route")
	}
	c.second()
}

// BalancedService gives NAME.NAMESPACE of lb(NAME.NAMESPACE); empty for any
// other name.
func BalancedService(name string) string {
	inner, ok := strings.CutPrefix(name, "lb(")
	inner, closed := strings.CutSuffix(inner, ")")
	if !ok || !closed {
		return ""
	}
	return inner
}

// place checks a name that something is sent to.
func (c *checker) place(at Pos, verb, name string) {
	if name == "gateway" {
		c.notLive(at, verb+" gateway")
	}
	if c.file.HasHost(name) || c.file.HasAddress(name) || name == "gateway" || c.services[name] || c.services[BalancedService(name)] {
		return
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return
	}
	svc := name
	if balanced := BalancedService(name); balanced != "" {
		svc = balanced
	}
	if svc, ns, ok := strings.Cut(svc, "."); ok {
		c.failf(at, "%s: no attached file has a service %s in namespace %s", verb, svc, ns)
		return
	}
	c.failf(at, "%s: %s is no host: expected one of %s, gateway, SERVICE.NAMESPACE, lb(SERVICE.NAMESPACE), an address or the name of one", verb, name, strings.Join(c.file.HostNames(), ", "))
}

func (c *checker) needFiles(at Pos, names []string) {
	for _, n := range names {
		if _, ok := c.file.Files[n]; !ok {
			c.failf(at, "there is no file %s behind the script: expected a line '-- %s --' and its content", n, n)
		}
		c.used[n] = true
	}
}

func (c *checker) conn(at Pos, verb, name string) {
	if _, ok := c.conns[name]; !ok {
		c.failf(at, "%s: no exchange is called %s here: expected 'connect … as %s' before", verb, name, name)
	}
}

// onlyProg refuses a verb that other worlds cannot answer.
func (c *checker) onlyProg(at Pos, verb string) {
	for _, w := range c.file.Worlds {
		if w != Prog {
			c.failf(at, "%s: only world prog has this, but the scenario declares %s: remove the line, or declare 'worlds prog'", verb, w)
			return
		}
	}
}

// notLive refuses what a live cluster does not have.
func (c *checker) notLive(at Pos, what string) {
	if slices.Contains(c.file.Worlds, Cluster) {
		c.failf(at, "%s: a live cluster has no wires, clocks and tables that a scenario reaches", what)
	}
}

// live refuses a network that no live cluster is.
func (c *checker) live(f *File) {
	if !slices.Contains(f.Worlds, Cluster) {
		return
	}
	o := &f.Options
	for what, said := range map[string]bool{
		"silent: every host of a live cluster has a stack that answers":                            len(f.Silent) > 0,
		"outside: one host alone is known to be beside a live cluster's nodes":                     len(f.Outside) > 1,
		"address: a live cluster's nodes have their addresses from others":                         len(f.Named) > 0,
		"route: a live cluster's router is told by others where addresses lead":                    len(f.Routes) > 0,
		"masquerade: what is excepted, and by which ports it goes, a live cluster's operator says": len(o.MasqueradeExcluded) > 0 || o.FirstPort > 0,
		"maglev: how backends are chosen a live cluster's operator says":                           o.Algorithm != "",
		"pings: what becomes of pings of services a live cluster's operator says":                  o.ServicePings != "",
		"nodeports: at which addresses node ports answer a live cluster's operator says":           len(o.NodePortAddresses) > 0,
		"return: how answers come back a live cluster's operator says":                             o.Return != "",
	} {
		if said {
			c.failf(c.pos(1), "%s", what)
		}
	}
}

func (c *checker) step(s *Step) {
	if s.Only != "" && !slices.Contains(c.file.Families, s.Only) {
		c.failf(s.Pos, "the step is for %s, in which the scenario does not run", s.Only)
	}
	s.Verb.check(c, s)
}

// onNode checks the node that fields name.
func (c *checker) onNode(at Pos, verb string, fields []Assignment) {
	for _, a := range fields {
		if a.Name == "on" {
			c.node(at, verb+": on", a.Value)
		}
	}
}

func (c *checker) podObject(at Pos, verb string, o Object) {
	if o.Kind == "pod" && !slices.ContainsFunc(c.file.Pods, func(p Pod) bool { return p.Namespace == o.Namespace && p.Name == o.Name }) {
		c.failf(at, "%s: there is no pod %s/%s", verb, o.Namespace, o.Name)
	}
}

// layers checks the values that can be read without knowing addresses.
func (c *checker) layers(s *Step, layers []Layer, build bool) {
	for _, l := range layers {
		kind, _ := frame.KindOf(l.Kind)
		if build && kind.OnlyBuild && len(l.Fields) == 0 {
			c.failf(s.Pos, "%s: expected a number of octets in the brackets", l.Kind)
		}
		for _, a := range l.Fields {
			spec, _ := kind.Field(a.Name)
			if err := c.value(spec, a.Value); err != nil {
				c.failf(s.Pos, "%s: %w", l.Kind, err)
			}
		}
	}
}

func (c *checker) value(spec frame.FieldSpec, value string) error {
	named := c.file.HasHost(value) || value == "gateway"
	switch spec.Type {
	case frame.Address:
		if named || c.file.HasAddress(value) || c.services[value] || c.services[BalancedService(value)] {
			return nil
		}
	case frame.Hardware:
		if named || value == "broadcast" {
			return nil
		}
	}
	if _, err := frame.Parse(spec, value); err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}
