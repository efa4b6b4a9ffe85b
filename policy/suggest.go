// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// SuggestOptions say what of a record is to be allowed.
type SuggestOptions struct {
	Dropped bool // flows that policies have denied, too
	// ICMP is whether pings are to be allowed, by rules without ports: a NetworkPolicy
	// has no ICMP, and such a rule allows all else between the two as well.
	ICMP bool
	// SkipUnknown leaves out flows whose pods are not among the objects. They are an
	// error otherwise.
	SkipUnknown bool
	// Bits4 and Bits6 are the lengths to which addresses outside of the cluster are
	// widened.
	Bits4, Bits6 int
}

// ErrUnknownPod is of a record whose pods are not among the objects.
var ErrUnknownPod = errors.New("no object has the address")

// LabelSuggested is on every policy that was suggested.
const LabelSuggested = "weir.net/suggested"

// Suggestion is the least NetworkPolicies that allow the flows of a record, and what
// they do beside the policies that are there.
type Suggestion struct {
	Policies []*networkingv1.NetworkPolicy
	Flows    int // of the record that are to be allowed
	// Left are flows that no rule is for, by the reason.
	Left map[string]int
	// Broad are sentences about what is allowed more widely than it was recorded.
	Broad []string
	// Unselected counts the workloads that no flow names: no policy selects them.
	Unselected int
	// Lost are flows of the record that would be denied all the same.
	Lost []Cut
	// Pairs is what the policies change for pairs of workloads, and of workloads with
	// who is in no block: what is cut, and what is opened.
	Pairs []Change
}

// Cut are the pairs that are allowed today, and would not be any more.
func (s *Suggestion) Cut() []Change { return s.that(false) }

// Opened are the pairs that are denied today, and would be allowed.
func (s *Suggestion) Opened() []Change { return s.that(true) }

func (s *Suggestion) that(allowed bool) (found []Change) {
	for _, c := range s.Pairs {
		if c.Allowed == allowed {
			found = append(found, c)
		}
	}
	return found
}

// CountPairs is of how many pairs changes are.
func CountPairs(changes []Change) int {
	pairs := map[[2]string]bool{}
	for i := range changes {
		pairs[[2]string{changes[i].From, changes[i].To}] = true
	}
	return len(pairs)
}

// Reasons for which a flow has no rule.
const (
	leftDenied    = "a policy has denied it (--include-dropped takes these, too)"
	leftPing      = "a ping, which a NetworkPolicy cannot name (--icmp allows it, with all ports)"
	leftHeadless  = "TCP that was under way already: nobody knows who opened it"
	leftUnknown   = "a pod of it is not among the objects"
	leftNoPod     = "no pod that policies select is in it"
	leftNode      = "from a node to its own pod, which no policy denies"
	leftItself    = "from a pod to itself, which no policy denies"
	leftMulticast = "to several, not one"
)

// end is one end of a flow.
type end struct {
	work  *workload  // nil: no pod that policies select
	pod   string     // of work, by which policies are asked
	node  string     // whose address it is
	addr  netip.Addr // as it was recorded
	known bool
}

// name is by what policies are asked about it.
func (e *end) name() string {
	if e.pod != "" {
		return e.pod
	}
	return e.addr.String()
}

// target is where a flow leads behind the services.
type target struct {
	end
	port uint16
}

// ports are what is allowed of a peer; all: without ports.
type ports struct {
	all bool
	by  map[Port]bool
}

type direction map[string]*ports // by the peer, as text

// suggester collects what is to be allowed.
type suggester struct {
	SuggestOptions
	input     *Input
	objs      *manifest.Objects
	works     []*workload
	of        map[string]*workload
	pods      map[netip.Addr]string
	nodes     map[netip.Addr]string
	blocks    map[netip.Prefix]string // of pods, by node
	frontends map[frontendAt][]netip.AddrPort
	services  map[netip.Addr]bool

	rules   [2]map[*workload]direction // by model.Direction
	peers   map[string]networkingv1.NetworkPolicyPeer
	asked   []asked
	left    map[string]int
	broad   map[string]bool
	unknown []string
}

// asked is a flow that is to be allowed, as policies are asked about it.
type asked struct {
	flow     *Opening
	from, to end
	seen     string // who the target sees, where that is another
	port     Port
}

// Suggest gives the least NetworkPolicies that allow the flows of a record. It fails
// with ErrUnknownPod, and where the objects cannot be kept by a datapath.
func Suggest(input *Input, record *Record, o SuggestOptions) (*Suggestion, error) {
	s := newSuggester(input, o)
	flows := 0
	for i := range record.Openings {
		if s.take(&record.Openings[i]) {
			flows++
		}
	}
	if n := len(record.Headless); n > 0 {
		s.left[leftHeadless] += n
	}
	if n := len(s.unknown); n > 0 && !o.SkipUnknown {
		return nil, fmt.Errorf("%w: %d flows, %s the first of them: give the objects as they were when it was recorded, or leave such flows out by --skip-unknown", ErrUnknownPod, n, s.unknown[0])
	}
	if flows == 0 {
		return nil, fmt.Errorf("there is no flow to allow: %s", reasons(s.left))
	}
	found := &Suggestion{Flows: flows, Left: s.left}
	found.Policies = s.policies()
	found.Broad = slices.Sorted(maps.Keys(s.broad))
	for _, w := range s.works {
		if s.rules[model.Egress][w] == nil && s.rules[model.Ingress][w] == nil {
			found.Unselected++
		}
	}
	return found, s.try(found)
}

// reasons tells what was left out, in words.
func reasons(left map[string]int) string {
	if len(left) == 0 {
		return "the record has none"
	}
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(left)) {
		parts = append(parts, fmt.Sprintf("%d: %s", left[why], why))
	}
	return strings.Join(parts, "; ")
}

func newSuggester(input *Input, o SuggestOptions) *suggester {
	objs := input.Objects
	s := &suggester{
		SuggestOptions: o, input: input, objs: objs, pods: map[netip.Addr]string{}, nodes: map[netip.Addr]string{}, blocks: map[netip.Prefix]string{},
		frontends: frontendsOf(objs), services: map[netip.Addr]bool{}, peers: map[string]networkingv1.NetworkPolicyPeer{}, left: map[string]int{}, broad: map[string]bool{},
	}
	s.works, s.of = workloads(input)
	s.rules = [2]map[*workload]direction{{}, {}}
	for at := range s.frontends {
		s.services[at.Addr()] = true
	}
	for _, node := range manifest.InOrder(objs.Nodes) {
		for _, addr := range AddressesOf(objs, node.Name) {
			s.nodes[addr] = node.Name
		}
		for _, text := range append(slices.Clone(node.Spec.PodCIDRs), node.Spec.PodCIDR) {
			if block, err := netip.ParsePrefix(text); err == nil {
				s.blocks[block.Masked()] = node.Name
			}
		}
	}
	// Who has ended may have had an address that another has now.
	for _, ended := range []bool{true, false} {
		for _, pod := range manifest.InOrder(objs.Pods) {
			if has := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed; has != ended {
				continue
			}
			for _, addr := range AddressesOf(objs, manifest.NameOf(pod)) {
				if pod.Spec.HostNetwork {
					s.nodes[addr] = cmp.Or(s.nodes[addr], pod.Spec.NodeName)
				} else {
					s.pods[addr] = manifest.NameOf(pod)
				}
			}
		}
	}
	return s
}

// take makes rules for a flow, and says whether it is one that is to be allowed.
func (s *suggester) take(o *Opening) bool {
	leave := func(why string) bool { s.left[why]++; return false }
	switch {
	case o.Denied && !s.Dropped:
		return leave(leftDenied)
	case (o.Protocol == model.ProtocolICMP || o.Protocol == model.ProtocolICMPv6) && !s.ICMP:
		return leave(leftPing)
	case o.Dst.IsMulticast() || o.Dst.IsUnspecified() || o.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || o.Src.IsUnspecified():
		return leave(leftMulticast)
	}
	from := s.end(o.Src, &o.From)
	seen := from
	if o.Seen.IsValid() {
		seen = s.end(o.Seen, nil)
	}
	targets := s.targets(o)
	unknown := !from.known || !seen.known || len(targets) == 0
	for i := range targets {
		unknown = unknown || !targets[i].known
	}
	if unknown {
		s.unknown = append(s.unknown, o.String())
		return leave(leftUnknown)
	}
	if from.work == nil && !slices.ContainsFunc(targets, func(t target) bool { return t.work != nil }) {
		return leave(leftNoPod)
	}
	why := ""
	for i := range targets {
		t := &targets[i]
		port := Port{Number: t.port, Protocol: o.Protocol}
		own := t.work != nil && seen.work == nil && seen.node != "" && seen.node == s.objs.Pods[t.pod].Spec.NodeName
		switch {
		case from.pod != "" && from.pod == t.pod:
			why = cmp.Or(why, leftItself)
			continue
		case from.work == nil && own:
			why = cmp.Or(why, leftNode)
			continue
		}
		s.allow(model.Egress, &from, &t.end, port)
		if !own {
			s.allow(model.Ingress, &t.end, &seen, port)
		}
		ask := asked{flow: o, from: from, to: t.end, port: port}
		if o.Seen.IsValid() {
			ask.seen = seen.name()
		}
		s.asked = append(s.asked, ask)
		why = "-"
	}
	if why != "-" {
		return leave(why)
	}
	return true
}

// end finds whose an address was: by what the record says, else by what the objects say.
func (s *suggester) end(addr netip.Addr, told *Party) end {
	e := end{addr: addr, known: true}
	if told != nil && told.Kind == "Pod" {
		if e.pod = s.podOf(told); e.pod == "" {
			e.known = false
			return e
		}
	}
	if told == nil || told.Kind != "Pod" {
		e.pod = s.pods[addr]
	}
	if e.work = s.of[e.pod]; e.work != nil {
		return e
	}
	e.pod = ""
	if e.node = s.nodes[addr]; e.node != "" {
		return e
	}
	for block, node := range s.blocks {
		if block.Contains(addr) {
			// The first address is the node's own, where a plugin gives it one.
			if e.known = addr == block.Addr().Next(); e.known {
				e.node = node
			}
		}
	}
	if s.services[addr] {
		e.known = false
	}
	return e
}

// podOf finds a pod that the record names, or one of its workload, if it is gone.
func (s *suggester) podOf(told *Party) string {
	if s.of[told.Name] != nil {
		return told.Name
	}
	namespace, _, _ := strings.Cut(told.Name, "/")
	set, err := labels.ConvertSelectorToLabelsMap(told.Labels)
	if err != nil {
		return ""
	}
	for _, w := range s.works {
		if w.namespace == namespace && w.isSelectable() && w.takes(set) {
			return w.pods[0]
		}
	}
	return ""
}

// targets are where a flow leads: to each backend of a service, so that the next flow
// passes too. None: nobody knows.
func (s *suggester) targets(o *Opening) []target {
	to := netip.AddrPortFrom(o.Dst, o.Dport)
	backends, isService := s.frontends[frontendAt{to, o.Protocol}]
	isService = isService || s.services[o.Dst] || o.To.Kind == "Service"
	var found []target
	for _, b := range backends {
		found = append(found, target{s.end(b.Addr(), nil), b.Port()})
	}
	switch b := o.Backend; {
	case b.IsValid() && !slices.Contains(backends, b):
		if e := s.end(b.Addr(), nil); e.known || len(found) == 0 {
			found = append(found, target{e, b.Port()})
		}
	case !b.IsValid() && !isService:
		found = append(found, target{s.end(o.Dst, &o.To), o.Dport})
	}
	return found
}

// allow notes a rule of a workload's, if it is one.
func (s *suggester) allow(d model.Direction, of, peer *end, port Port) {
	if of.work == nil {
		return
	}
	if !of.work.isSelectable() {
		s.broad[fmt.Sprintf("%s has no labels that it keeps: no policy can select it", of.work)] = true
		return
	}
	if s.rules[d][of.work] == nil {
		s.rules[d][of.work] = direction{}
	}
	name, p := s.peer(peer)
	s.peers[name] = p
	at := s.rules[d][of.work][name]
	if at == nil {
		at = &ports{by: map[Port]bool{}}
		s.rules[d][of.work][name] = at
	}
	if port.Protocol == model.ProtocolICMP || port.Protocol == model.ProtocolICMPv6 {
		at.all = true
		s.broad[fmt.Sprintf("%s is allowed all ports for the sake of pings: a NetworkPolicy has no ICMP", of.work)] = true
		return
	}
	at.by[port] = true
}

// peer names an end in a rule, and gives what it is sorted by: pods before blocks.
func (s *suggester) peer(e *end) (string, networkingv1.NetworkPolicyPeer) {
	if e.work == nil {
		block := s.block(e)
		return "b" + block.String(), networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: block.String()}}
	}
	p := networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: e.work.namespace}},
	}
	switch {
	case !e.work.isSelectable():
		s.broad[fmt.Sprintf("%s has no labels that it keeps: as a peer, all pods of namespace %s are allowed", e.work, e.work.namespace)] = true
		return "a" + e.work.namespace, p
	case len(e.work.also) > 0:
		s.broad[fmt.Sprintf("%s is not told from %s by labels that they keep", e.work, strings.Join(e.work.also, ", "))] = true
	}
	selector := e.work.selector()
	p.PodSelector = &selector
	return "a" + e.work.String(), p
}

// block is that of an address; of one outside as wide as was asked for.
func (s *suggester) block(e *end) netip.Prefix {
	bits := e.addr.BitLen()
	if e.node == "" {
		bits = map[bool]int{true: s.Bits4, false: s.Bits6}[e.addr.Is4()]
	}
	if bits < e.addr.BitLen() {
		s.broad[fmt.Sprintf("addresses outside are widened to /%d", bits)] = true
	}
	block, _ := e.addr.WithZone("").Prefix(bits)
	return block
}

// policies are one for each workload that has a rule.
func (s *suggester) policies() []*networkingv1.NetworkPolicy {
	var all []*networkingv1.NetworkPolicy
	taken := map[string]bool{}
	for _, w := range s.works {
		egress, ingress := s.rules[model.Egress][w], s.rules[model.Ingress][w]
		if egress == nil && ingress == nil {
			continue
		}
		p := &networkingv1.NetworkPolicy{
			TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: s.policyName(w, taken), Labels: map[string]string{LabelSuggested: "true"}},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: w.selector(), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}},
		}
		for _, r := range s.grouped(ingress) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: r.peers, Ports: r.ports})
		}
		for _, r := range s.grouped(egress) {
			p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: r.peers, Ports: r.ports})
		}
		all = append(all, p)
	}
	return all
}

// policyName is one that no policy has which was not suggested.
func (s *suggester) policyName(w *workload, taken map[string]bool) string {
	const longest = 253 - len("suggested--99")
	begin := "suggested-" + strings.ToLower(w.name[:min(len(w.name), longest)])
	name := begin
	for n := 2; ; n++ {
		key := w.namespace + "/" + name
		other := s.objs.NetworkPolicies[key]
		if !taken[key] && (other == nil || other.Labels[LabelSuggested] != "") {
			taken[key] = true
			return name
		}
		name = fmt.Sprintf("%s-%d", begin, n)
	}
}

// rule is peers that are allowed the same ports.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func (s *suggester) grouped(d direction) []*rule {
	var rules []*rule
	by := map[string]*rule{}
	for _, name := range slices.Sorted(maps.Keys(d)) {
		list := d[name].list()
		key := fmt.Sprint(d[name].all)
		for _, p := range list {
			key += fmt.Sprint(*p.Protocol, p.Port, p.EndPort != nil)
			if p.EndPort != nil {
				key += fmt.Sprint(*p.EndPort)
			}
		}
		if by[key] == nil {
			by[key] = &rule{ports: list}
			rules = append(rules, by[key])
		}
		by[key].peers = append(by[key].peers, s.peers[name])
	}
	return rules
}

// list gives the ports, and those that follow each other as a range.
func (p *ports) list() []networkingv1.NetworkPolicyPort {
	if p.all {
		return nil
	}
	sorted := slices.SortedFunc(maps.Keys(p.by), func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
	})
	var list []networkingv1.NetworkPolicyPort
	for i := 0; i < len(sorted); {
		j := i + 1
		for j < len(sorted) && sorted[j].Protocol == sorted[i].Protocol && int(sorted[j].Number) == int(sorted[i].Number)+j-i {
			j++
		}
		protocol := corev1.Protocol(strings.ToUpper(sorted[i].Protocol.String()))
		number := intstr.FromInt32(int32(sorted[i].Number))
		one := networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
		if j > i+1 {
			last := int32(sorted[j-1].Number)
			one.EndPort = &last
		}
		list = append(list, one)
		i = j
	}
	return list
}
