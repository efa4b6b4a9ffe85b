// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

type policyDiff struct {
	flows    string
	output   string
	exitCode bool
	objects  policyObjects
}

func policyDiffCommand() *cobra.Command {
	var o policyDiff
	cmd := &cobra.Command{
		Use:   "diff [OLD] NEW",
		Short: "Say which pairs of pods a change of policies connects or cuts",
		Long: `Say which pairs of pods a change of policies connects or cuts.

OLD and NEW are files or folders of all objects before and after the change.
Every pair of pods is compared, on every port on which any rule could tell a
difference, and so are pods with who is outside: each address block that a
policy names, and the rest of the world.

With --kubeconfig, OLD is a live cluster, and NEW the same with the objects that
are given in place of those of the same name, or beside them.

With --flows, the flows of a capture (pcap or pcapng), or those that
'weir flow list -o json' has printed, are asked of both, and those are named
that the change would cut. A flow to a service is asked of each backend.

The exit status is 0 when there is an answer, 1 when something changed and
--exit-code is given, and 2 when there is no answer, because the objects, the
recorded flows or the command line are wrong.`,
		Example: `  weir policy diff before/ after/
  weir policy diff before.yaml after.yaml --flows capture.pcap
  weir policy diff --kubeconfig ~/.kube/config new-policy.yaml
  weir policy diff --exit-code before/ after/ -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringVar(&o.flows, "flows", "", "recorded flows: a capture, or JSON of 'weir flow list'")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json (one object a line)")
	o.objects.addFlag(cmd, "the only argument is what is to take the place of objects there")
	f.BoolVar(&o.exitCode, "exit-code", false, "end with exit status 1 when something changed")
	return cmd
}

func (o *policyDiff) run(cmd *cobra.Command, args []string) error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	before, after, err := o.sides(cmd, args)
	if err != nil {
		return err
	}
	if len(before.pods) == 0 || len(after.pods) == 0 {
		return usageError(errNoPods)
	}
	tellWarnings(cmd.ErrOrStderr(), after.warnings)
	for _, w := range before.warnings {
		if !slices.Contains(after.warnings, w) {
			fmt.Fprintln(cmd.ErrOrStderr(), "weir: warning, before the change:", w)
		}
	}
	changes, err := comparePolicies(before, after)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	for _, c := range changes {
		if err := o.tell(out, c); err != nil {
			return err
		}
	}
	cut, asked := []flowCut{}, 0
	if o.flows != "" {
		if cut, asked, err = cutFlows(cmd.Context(), before, after, o.flows); err != nil {
			return err
		}
		for _, c := range cut {
			if err := o.tell(out, c); err != nil {
				return err
			}
		}
	}
	if o.output == "text" {
		fmt.Fprintf(out, "%d changes\n", len(changes))
		if o.flows != "" {
			fmt.Fprintf(out, "%d of %d recorded flows would be cut\n", len(cut), asked)
		}
	}
	if o.exitCode && len(changes)+len(cut) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func (o *policyDiff) tell(out io.Writer, row fmt.Stringer) error {
	if o.output == "text" {
		_, err := fmt.Fprintln(out, row)
		return err
	}
	if err := json.NewEncoder(out).Encode(row); err != nil {
		return fmt.Errorf("write changes: %w", err)
	}
	return nil
}

// policySide is the objects before or after.
type policySide struct {
	objs      *model.Objects
	state     *model.State
	warnings  []model.Warning
	pods      map[string]policyPod
	explainer *oracle.Explainer
}

// sides are two sets of objects, or those of a live cluster and the same with
// what is given in place of some.
func (o *policyDiff) sides(cmd *cobra.Command, args []string) (before, after *policySide, err error) {
	read := func(path string) (*model.Objects, error) { return readObjects(cmd.InOrStdin(), path) }
	switch {
	case o.objects.live() && len(args) == 1:
		live, err := liveObjects(cmd.Context(), o.objects.kubeconfig, cmd.ErrOrStderr())
		if err != nil {
			return nil, nil, err
		}
		change, err := read(args[0])
		if err != nil {
			return nil, nil, err
		}
		changed := live.Clone()
		changed.Merge(change)
		if err := errors.Join(leaveRefused(live, model.NewObjects(), cmd.ErrOrStderr()), leaveRefused(changed, change, io.Discard)); err != nil {
			return nil, nil, err
		}
		if before, err = o.side(cmd, o.objects.kubeconfig, live); err != nil {
			return nil, nil, err
		}
		after, err = o.side(cmd, args[0], changed)
		return before, after, err
	case o.objects.live():
		return nil, nil, usageError(errors.New("which change? Name the objects that are to take the place of the cluster's\nSee 'weir policy diff --help'"))
	case len(args) != 2:
		return nil, nil, usageError(errors.New("which two? Name the objects before and after\nSee 'weir policy diff --help'"))
	}
	var sides [2]*policySide
	for i, path := range args {
		objs, err := read(path)
		if err != nil {
			return nil, nil, err
		}
		if sides[i], err = o.side(cmd, path, objs); err != nil {
			return nil, nil, err
		}
	}
	return sides[0], sides[1], nil
}

func (o *policyDiff) side(cmd *cobra.Command, path string, objs *model.Objects) (*policySide, error) {
	warnings, err := doubts(objs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	_, state, err := onOneNode(objs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &policySide{objs: objs, state: state, warnings: warnings, pods: map[string]policyPod{}, explainer: oracle.NewExplainer(objs)}
	for _, pod := range policyPods(objs, cmd.ErrOrStderr()) {
		s.pods[pod.name] = pod
	}
	return s, nil
}

// policyChange is a run of ports on which a pair is answered otherwise.
type policyChange struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Family   string `json:"family,omitempty"` // ipv4 or ipv6, where the other one's answer is another
	First    uint16 `json:"firstPort"`        // 0 for protocols without ports
	Last     uint16 `json:"lastPort"`
	Protocol string `json:"protocol"`
	Allowed  bool   `json:"allowed"` // now
	Because  string `json:"because"`
}

func (c policyChange) String() string {
	ports := c.Protocol
	switch {
	case c.First == c.Last && c.First != 0:
		ports = fmt.Sprintf("%d/%s", c.First, c.Protocol)
	case c.First > 1 || c.Last != 0 && c.Last < 65535:
		ports = fmt.Sprintf("%d-%d/%s", c.First, c.Last, c.Protocol)
	}
	if c.Family != "" {
		ports += " by " + c.Family
	}
	was, is := "allowed", "denied"
	if c.Allowed {
		was, is = is, was
	}
	return fmt.Sprintf("%s to %s %s: was %s, is %s: %s", c.From, c.To, ports, was, is, c.Because)
}

// diffParty is an end of flows that both sides know, by its addresses.
type diffParty struct {
	policyPod
	outside bool
}

func comparePolicies(before, after *policySide) ([]policyChange, error) {
	parties := partiesOf(before, after)
	var changes []policyChange
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP, model.ProtocolICMP} {
		starts := portStarts(protocol, before.state, after.state)
		for i := range parties {
			for j := range parties {
				if i == j || parties[i].outside && parties[j].outside {
					continue
				}
				found, err := compareFamilies(before, after, &parties[i].policyPod, &parties[j].policyPod, protocol, starts)
				if err != nil {
					return nil, err
				}
				changes = append(changes, found...)
			}
		}
	}
	slices.SortStableFunc(changes, func(a, b policyChange) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return changes, nil
}

// partiesOf are the pods that both sides have, and one address for each part of
// the world that a policy could tell from others.
func partiesOf(before, after *policySide) []diffParty {
	var parties []diffParty
	for _, name := range slices.Sorted(maps.Keys(before.pods)) {
		if pod, both := after.pods[name]; both {
			parties = append(parties, diffParty{policyPod: pod})
		}
	}
	blocks := map[netip.Prefix]bool{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0): true, netip.PrefixFrom(netip.IPv6Unspecified(), 0): true,
	}
	taken := map[netip.Addr]bool{}
	for _, side := range []*policySide{before, after} {
		for _, a := range side.state.Addresses {
			if a.Owner() >= model.FirstBlockIdentity {
				blocks[a.Prefix] = true
			} else if a.Prefix.IsSingleIP() {
				taken[a.Prefix.Addr()] = true
			}
		}
	}
	for _, block := range slices.SortedFunc(maps.Keys(blocks), netip.Prefix.Compare) {
		if addr, found := someAddress(block, blocks, taken); found {
			parties = append(parties, diffParty{policyPod{"outside " + block.String(), []netip.Addr{addr}}, true})
		}
	}
	return parties
}

// someAddress gives an address of a block that is in no smaller one and is
// nobody's. It looks behind each smaller block, and gives up where these lie
// close.
func someAddress(block netip.Prefix, blocks map[netip.Prefix]bool, taken map[netip.Addr]bool) (netip.Addr, bool) {
	addr := block.Addr()
	if block.Bits() == 0 {
		addr = netip.MustParseAddr("203.0.113.1")
		if block.Addr().Is6() {
			addr = netip.MustParseAddr("2001:db8:ffff::1")
		}
	}
	const tries = 4096
	for range tries {
		if !addr.IsValid() || !block.Contains(addr) {
			return addr, false
		}
		next := addr
		for inner := range blocks {
			if inner != block && inner.Bits() > block.Bits() && inner.Contains(addr) {
				next = lastOf(inner).Next()
			}
		}
		if next == addr && !taken[addr] {
			return addr, true
		}
		if next == addr {
			next = addr.Next()
		}
		addr = next
	}
	return addr, false
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// portStarts are the ports at which some rule begins to match or ends to: no
// rule tells the ports between two of them from each other.
func portStarts(protocol model.Protocol, states ...*model.State) []uint16 {
	if protocol == model.ProtocolICMP {
		return []uint16{0}
	}
	starts := map[uint16]bool{1: true}
	for _, state := range states {
		for _, set := range state.RuleSets {
			for _, r := range set.Rules {
				if r.Protocol != protocol || r.PortBits == 0 {
					continue
				}
				end := uint32(r.Port) + 1<<(16-r.PortBits)
				starts[max(r.Port, 1)] = true
				if end <= 65535 {
					starts[uint16(end)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(starts))
}

// compareFamilies tells a change once where both families say the same.
func compareFamilies(before, after *policySide, from, to *policyPod, protocol model.Protocol, starts []uint16) ([]policyChange, error) {
	by4, err := comparePair(before, after, from, to, familyIPv4, protocol, starts)
	if err != nil {
		return nil, err
	}
	by6, err := comparePair(before, after, from, to, familyIPv6, protocol, starts)
	if err != nil {
		return nil, err
	}
	was, is := before.families(from, to), after.families(from, to)
	switch {
	case !was[1] && !is[1]:
		return by4, nil
	case !was[0] && !is[0]:
		return by6, nil
	case slices.Equal(by4, by6):
		return by4, nil
	}
	for i := range by4 {
		by4[i].Family = familyIPv4
	}
	for i := range by6 {
		by6[i].Family = familyIPv6
	}
	return append(by4, by6...), nil
}

// families are those in which two pods can talk: IPv4, IPv6.
func (s *policySide) families(from, to *policyPod) (has [2]bool) {
	for i, family := range []string{familyIPv4, familyIPv6} {
		_, _, has[i] = s.meet(from, to, family)
	}
	return has
}

func comparePair(before, after *policySide, from, to *policyPod, family string, protocol model.Protocol, starts []uint16) ([]policyChange, error) {
	was, is := before.asker(from, to, family), after.asker(from, to, family)
	var changes []policyChange
	for i, port := range starts {
		last := uint16(65535)
		if protocol == model.ProtocolICMP {
			last = 0
		} else if i+1 < len(starts) {
			last = starts[i+1] - 1
		}
		old, err := was(port, protocol)
		if err != nil {
			return nil, err
		}
		now, err := is(port, protocol)
		if err != nil {
			return nil, err
		}
		if old.Allowed == now.Allowed {
			continue
		}
		c := policyChange{From: from.name, To: to.name, First: port, Last: last, Protocol: protocol.String(), Allowed: now.Allowed, Because: because(&old, &now)}
		if n := len(changes); n > 0 && changes[n-1].Last+1 == port && changes[n-1].Allowed == c.Allowed && changes[n-1].Because == c.Because {
			changes[n-1].Last = last
			continue
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// asker asks by the addresses that a side's own pods of these names have.
func (s *policySide) asker(from, to *policyPod, family string) func(port uint16, protocol model.Protocol) (oracle.Decision, error) {
	src, dst, ok := s.meet(from, to, family)
	return func(port uint16, protocol model.Protocol) (oracle.Decision, error) {
		if !ok { // a flow that there is not
			return oracle.Decision{}, nil
		}
		return s.explainer.Explain(src.String(), dst.String(), port, protocol)
	}
}

func (s *policySide) meet(from, to *policyPod, family string) (src, dst netip.Addr, ok bool) {
	return meeting(s.own(from).of(family), s.own(to).of(family))
}

func (s *policySide) own(pod *policyPod) *policyPod {
	if own, found := s.pods[pod.name]; found {
		return &own
	}
	return pod
}

// because tells the rulings that the change is about: those that deny now, or
// that denied.
func because(was, is *oracle.Decision) string {
	text := ""
	add := func(prefix string, r oracle.Ruling) {
		if text != "" {
			text += "; "
		}
		text += prefix + r.Reason()
	}
	for _, r := range is.Rulings {
		if !r.Allowed {
			add(r.Direction.String()+" ", r)
		}
	}
	if is.Allowed {
		for i, r := range is.Rulings {
			if i < len(was.Rulings) && !was.Rulings[i].Allowed {
				add(r.Direction.String()+" ", r)
			}
		}
	}
	if text == "" && !is.Allowed {
		return "the two ends have no address of this family any more"
	}
	if text == "" && len(was.Rulings) == 0 {
		return "the two ends had no address of this family"
	}
	return text
}
