// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Source ports of exchanges: always the same ones, so that the same backends are chosen.
const firstPort = 40000

// attempts is how often a service is asked that leads to several: each is chosen by chance.
const attempts = 8

// sticking is how often a service is asked that has to keep its client.
const sticking = 12

// steps writes the action.
func (s *script) steps() error {
	a := &s.evidence.Action
	targets, err := s.targets()
	if err != nil {
		return err
	}
	switch a.Verb {
	case connectivity.ICMP:
		s.linef("ping %s -> %s%s", s.from(), targets[0].name, s.fails())
		return nil
	case connectivity.FullICMP:
		return s.fullPing(targets[0].name)
	case connectivity.ManyICMP:
		s.partedPing(s.from(), targets[0].name, "echo")
		s.partedPing(targets[0].name, s.from(), "echo-reply")
		return nil
	}
	s.listen()
	s.askNames()
	switch a.Verb {
	case connectivity.Stick:
		return s.stick(targets[0])
	case connectivity.Full:
		return s.full(targets[0])
	case connectivity.Hold:
		s.linef("connect %s -> %s as held%s", s.from(), targets[0], s.via())
		s.linef("say held \"there\"")
		s.linef("say held \"still there\"")
		s.linef("close held")
		return nil
	}
	for _, target := range targets {
		s.exchanges(target, s.says())
	}
	return nil
}

// target is what is asked, by the scenario's name.
type target struct {
	protocol, name string
	port           uint16
}

func (t target) String() string {
	name := t.name
	if a, err := netip.ParseAddr(name); err == nil && a.Is6() {
		name = "[" + name + "]"
	}
	return fmt.Sprintf("%s/%s:%d", t.protocol, name, t.port)
}

func (s *script) from() string { return s.name(&s.evidence.Ends[0]) }

// scenarioService is what a scenario calls namespace/name: NAME.NAMESPACE.
func scenarioService(of string) string {
	namespace, name, _ := strings.Cut(of, "/")
	return name + "." + namespace
}

// namesPort is that of resolvers (RFC 1035).
const namesPort = 53

func (s *script) protocol() string {
	switch s.evidence.Action.Verb {
	case connectivity.UDP, connectivity.Full, connectivity.Fragments, connectivity.AskUDP:
		return "udp"
	}
	return "tcp"
}

// targets are what is asked: one, or all to which a name leads.
func (s *script) targets() ([]target, error) {
	e := s.evidence
	t := target{protocol: s.protocol(), port: e.To.Port()}
	if s.toService() && s.objects.Services[e.Service] == nil {
		return nil, fmt.Errorf("%w: the report has no service %q among its objects", ErrScenario, e.Service)
	}
	switch kind := e.Action.To.Kind; {
	case kind == connectivity.ToPod, kind == connectivity.ToNode, kind == connectivity.ToOutside:
		t.name = s.name(&e.Ends[1])
	case kind == connectivity.ToHostPort, kind == connectivity.ToNodePort:
		node := slices.Index(s.nodes, s.nodeAt(e.To.Addr()))
		if node < 0 {
			return nil, fmt.Errorf("%w: no node of the report has the address %s that was asked", ErrScenario, e.To.Addr())
		}
		t.name = s.nodeName(node)
	case kind == connectivity.ToExternalIP:
		at, err := s.places.Move(e.To.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrScenario, err)
		}
		t.name = at.(string)
	case kind == connectivity.ToLoadBalancer:
		t.name = "lb(" + scenarioService(e.Service) + ")"
	case kind == connectivity.ToName && len(e.Action.By) > 0:
		return s.each(), nil
	case kind == connectivity.ToName:
		t.name, t.port = scenarioService(e.Service), namesPort
	case kind == connectivity.ToClusterIP:
		t.name = scenarioService(e.Service)
	default:
		return nil, fmt.Errorf("%w: it has no words for what was asked, a %q", ErrScenario, kind)
	}
	return []target{t}, nil
}

// each are the pods to which a name leads.
func (s *script) each() (all []target) {
	for i := range s.evidence.Ends[1:] {
		if end := &s.evidence.Ends[i+1]; slices.Contains(s.evidence.Action.By, end.Name) {
			all = append(all, target{s.protocol(), s.name(end), s.portOf(end)})
		}
	}
	return all
}

// askNames asks those who know the name by which the action goes.
func (s *script) askNames() {
	if s.objects.Services[s.evidence.Resolver] == nil {
		return
	}
	for i := range s.evidence.Ends[1:] {
		if end := &s.evidence.Ends[i+1]; !slices.Contains(s.evidence.Action.By, end.Name) {
			s.linef("listen %s udp/%d", s.name(end), namesPort)
		}
	}
	for i := range attempts {
		s.linef("connect %s -> udp/%s:%d from %d", s.from(), scenarioService(s.evidence.Resolver), namesPort, firstPort+i)
	}
}

// portOf is the first port of the action's protocol that an end serves.
func (s *script) portOf(end *connectivity.End) uint16 {
	for _, l := range end.Listens {
		if protocol, number, _ := strings.Cut(l, "/"); protocol == s.protocol() {
			if n, err := strconv.ParseUint(number, 10, 16); err == nil {
				return uint16(n)
			}
		}
	}
	return 0
}

// listen has all serve who may answer, on all their ports of the protocol. What is
// answered is who answers, where that is looked at.
func (s *script) listen() {
	said := map[string]bool{}
	for i := range s.evidence.Ends[1:] {
		end := &s.evidence.Ends[i+1]
		for _, l := range end.Listens {
			line := fmt.Sprintf("listen %s %s", s.name(end), comment(l))
			if strings.HasPrefix(l, s.protocol()+"/") && !said[line] {
				said[line] = true
				s.linef("%s", line)
			}
		}
	}
}

// fails is how an exchange has to end that policies deny.
func (s *script) fails() string {
	if !s.evidence.Action.Denied {
		return ""
	}
	if slices.ContainsFunc(s.evidence.Policy, func(r connectivity.Ruling) bool { return r.Refused }) {
		return " fails refused"
	}
	return " fails timeout"
}

// single is who has to answer; nil: one of several.
func (s *script) single() *connectivity.End {
	e := s.evidence
	may := slices.DeleteFunc(slices.Clone(e.Ends[1:]), func(end connectivity.End) bool {
		return len(e.Action.By) > 0 && !slices.Contains(e.Action.By, end.Name)
	})
	if len(may) != 1 {
		return nil
	}
	return &may[0]
}

// via says who has to answer, and whom it has to see.
func (s *script) via() string {
	a := &s.evidence.Action
	text := ""
	if a.Denied {
		return ""
	}
	if one := s.single(); one != nil {
		text += " via " + s.name(one)
	}
	if a.Seen {
		text += " seen-from " + s.from()
	}
	return text
}

// says is what is said where its length is what is tried; empty: what is usual. A
// message of world prog is one segment.
func (s *script) says() string {
	size := 0
	switch s.evidence.Action.Verb {
	case connectivity.Transfer, connectivity.Rate:
		size = prog.MaxMessage
		if s.world == syntax.Netns {
			size = 60_000
		}
	case connectivity.Fragments:
		size = 3 * s.mtu()
	}
	if size == 0 {
		return ""
	}
	return fmt.Sprintf(" says %q", strings.Repeat("x", size))
}

// mtu is that of the path, as the action found it.
func (s *script) mtu() int {
	if mtu := int(s.result.Values["mtu"]); mtu >= leastMTU && mtu <= mostMTU {
		return mtu
	}
	return usualMTU
}

// An MTU: of IPv6 at least, of Ethernet, and of what a scenario's frames hold.
const leastMTU, usualMTU, mostMTU = 1280, 1500, 9000

// exchanges asks a target: again and again where one of several answers.
func (s *script) exchanges(to target, says string) {
	n := attempts
	if s.single() != nil || !s.toService() {
		n = 1
	}
	via := s.via()
	if s.evidence.Action.To.Kind == connectivity.ToName && len(s.evidence.Action.By) > 0 {
		n, via = 1, " via "+to.name // by its own address
	}
	for i := range n {
		s.linef("connect %s -> %s from %d%s%s%s", s.from(), to, firstPort+i, via, says, s.fails())
	}
}

// stick wants a client to stay with the backend that it first had: of one alone, and
// then beside the others.
func (s *script) stick(to target) error {
	svc := s.objects.Services[s.evidence.Service]
	others := s.evidence.Ends[2:]
	key := ""
	for key = range svc.Spec.Selector {
		break
	}
	if key == "" {
		return fmt.Errorf("%w: service %s selects no pods", ErrScenario, s.evidence.Service)
	}
	away := func(value string) {
		for i := range others {
			s.linef("label pod/%s %s=%s", others[i].Pod, key, value)
		}
	}
	first := s.name(&s.evidence.Ends[1])
	away("none")
	s.linef("connect %s -> %s from %d via %s", s.from(), to, firstPort, first)
	away(svc.Spec.Selector[key])
	for i := range sticking {
		s.linef("connect %s -> %s from %d via %s", s.from(), to, firstPort+1+i, first)
	}
	return nil
}

// Octets of headers around what a packet carries: those of IPv4 (RFC 791) or IPv6 (RFC
// 8200), and of UDP or ICMP, which are equal.
const aroundText4, aroundText6 = 20 + 8, 40 + 8

// room is what a packet as long as the path takes it has room for.
func (s *script) room() int {
	if s.evidence.Action.Family == connectivity.IPv6 {
		return s.mtu() - aroundText6
	}
	return s.mtu() - aroundText4
}

// full is a datagram as long as the path takes it, and its echo.
func (s *script) full(to target) error {
	if s.world == syntax.Netns {
		s.exchanges(to, fmt.Sprintf(" says %q", strings.Repeat("x", s.room())))
		return nil
	}
	s.linef("send %s ip(dst=%s) udp(sport=%d dport=%d) payload(size=%d)", s.from(), to.name, firstPort, to.port, s.room())
	s.linef("expect %s ip(src=%s) udp(sport=%d dport=%d) payload(size=%d)", s.from(), to.name, to.port, firstPort, s.room())
	return nil
}

// fullPing is an echo request as long as the path takes it, and its reply.
func (s *script) fullPing(to string) error {
	s.linef("send %s ip(dst=%s) echo(id=7 seq=1) payload(size=%d)", s.from(), to, s.room())
	s.linef("expect %s ip(src=%s) echo-reply(id=7 seq=1) payload(size=%d)", s.from(), to, s.room())
	return nil
}

// partedPing is an echo request or reply of three parts, which arrive as they are.
func (s *script) partedPing(from, to, kind string) {
	v6 := s.evidence.Action.Family == connectivity.IPv6
	part := (s.mtu() - 20) / 8 * 8
	if v6 {
		part = (s.mtu() - 40 - 8) / 8 * 8 // IPv6 has a header for it (RFC 8200, 4.5)
	}
	for i := range 3 {
		offset, more := i*part/8, 1
		if i == 2 {
			more = 0
		}
		ip := func(way string) string {
			if v6 {
				return fmt.Sprintf("ipv6(%s) fragment(offset=%d more=%d id=9 next=58)", way, offset, more)
			}
			return strings.TrimSuffix(fmt.Sprintf("ipv4(%s id=9 frag=%d proto=1 flags=%s", way, offset, strings.Repeat("M", more)), " flags=") + ")"
		}
		carried := fmt.Sprintf("payload(size=%d)", part)
		if i == 0 {
			carried = fmt.Sprintf("%s(id=7 seq=1) payload(size=%d)", kind, part-8)
		}
		s.linef("send %s %s %s", from, ip("dst="+to), carried)
		if i > 0 {
			carried = ""
		}
		s.linef("%s", strings.TrimSpace(fmt.Sprintf("expect %s %s %s", to, ip("src="+from), carried)))
	}
}
