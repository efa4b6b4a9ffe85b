// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios/syntax"
)

// resolve turns described layers into layers with values: names become
// addresses of the family, neutral kinds those of the family.
func (p *play) resolve(layers []syntax.Layer, sender string) ([]frame.Layer, error) {
	out := make([]frame.Layer, 0, len(layers)+1)
	for _, l := range layers {
		kind, _ := frame.KindOf(l.Kind)
		layer := frame.Layer{Kind: l.Kind, Fields: make([]frame.Field, 0, len(l.Fields)+2)}
		for _, a := range l.Fields {
			spec, _ := kind.Field(a.Name)
			v, err := p.value(l.Kind, spec, a.Value, sender)
			if err != nil {
				return nil, mismatch("%s: %v", l.Kind, err)
			}
			layer.Fields = append(layer.Fields, frame.Field{Name: a.Name, Value: v})
		}
		out = append(out, frame.Lower(layer, p.family.V6()))
	}
	return out, nil
}

func (p *play) value(kind string, spec frame.FieldSpec, text, sender string) (frame.Value, error) {
	switch spec.Type {
	case frame.Address:
		family := p.family
		switch kind {
		case "ipv4", "arp":
			family = syntax.IPv4
		case "ipv6", "ns", "na":
			family = syntax.IPv6
		}
		a, err := p.address(text, family)
		return frame.Addr(a), err
	case frame.Hardware:
		if text == "broadcast" {
			return frame.MAC([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), nil
		}
		host, isHost := p.hosts[text]
		if !isHost && text != "gateway" {
			break
		}
		name := host.Name
		if text == "gateway" {
			name = p.hostName(sender)
		}
		own, gateway, err := p.world.MACs(name)
		if text == "gateway" {
			own = gateway
		}
		return frame.MAC(own), err
	}
	return frame.Parse(spec, text)
}

// pose gives the outermost address of a sender somebody else's.
func (p *play) pose(layers []frame.Layer, as string) ([]frame.Layer, error) {
	if as == "" {
		return layers, nil
	}
	for i, l := range layers {
		family, field := familyOf(l.Kind), "src"
		switch l.Kind {
		case "ipv4", "ipv6":
		case "arp":
			field = "spa"
		default:
			continue
		}
		a, err := p.address(as, family)
		if err != nil {
			return nil, mismatch("posing-as: %v", err)
		}
		if a.Is6() != family.V6() {
			return nil, mismatch("posing-as: %s is no address of %s, which the frame is of: begin the step with [ipv4] or [ipv6], or pose as a host", a, family)
		}
		layers[i] = l.With(field, frame.Addr(a))
		break
	}
	return layers, nil
}

// complete adds what a sender fills in by himself: Ethernet addresses, his own
// address as the source, and as ARP's sender.
func (p *play) complete(layers []frame.Layer, sender string) ([]frame.Layer, error) {
	own, gateway, err := p.world.MACs(p.hostName(sender))
	if err != nil {
		return nil, labError(err)
	}
	if layers[0].Kind != "eth" && layers[0].Kind != "raw" {
		layers = append([]frame.Layer{{Kind: "eth"}}, layers...)
	}
	fill := func(l *frame.Layer, name string, v frame.Value) {
		if _, named := l.Get(name); !named {
			*l = l.With(name, v)
		}
	}
	if p.HasNode(sender) {
		if gateway, err = p.nextHop(sender, layers, gateway); err != nil {
			return nil, labError(err)
		}
	}
	outer := true
	for i := range layers {
		l := &layers[i]
		switch l.Kind {
		case "eth":
			fill(l, "src", frame.MAC(own))
			fill(l, "dst", frame.MAC(gateway))
		case "ipv4", "ipv6":
			if !outer {
				break
			}
			outer = false
			if a := addressOf(p.hosts[sender], familyOf(l.Kind)); a.IsValid() {
				fill(l, "src", frame.Addr(a))
			}
		case "arp":
			fill(l, "sha", frame.MAC(own))
			fill(l, "spa", frame.Addr(addressOf(p.hosts[sender], syntax.IPv4)))
		}
	}
	return layers, nil
}

// nextHop is the hardware address that a node sends to: that of its pod that
// has the frame's destination, else that of its own gateway.
func (p *play) nextHop(node string, layers []frame.Layer, gateway net.HardwareAddr) (net.HardwareAddr, error) {
	for _, l := range layers {
		dst, named := l.Get("dst")
		if !named || l.Kind != "ipv4" && l.Kind != "ipv6" {
			continue
		}
		for _, pod := range p.topology.Pods {
			if pod.Node == node && slices.Contains(pod.Addresses, dst.Addr()) {
				own, _, err := p.world.MACs(pod.Name)
				return own, err
			}
		}
	}
	return gateway, nil
}

func familyOf(kind string) syntax.Family {
	if kind == "ipv6" {
		return syntax.IPv6
	}
	return syntax.IPv4
}

// Send puts a frame on a host's interface.
func (p *play) Send(ctx context.Context, v *syntax.Send) error {
	data, err := p.build(v)
	if err != nil {
		return err
	}
	if p.kind != syntax.Prog {
		return p.sendAndCompare(ctx, v.Host, data)
	}
	p.sent = nil
	if err := p.world.Send(ctx, p.hostName(v.Host), data); err != nil {
		return undelivered(err, data)
	}
	p.collectWalks()
	if len(p.walks) > 0 {
		p.sent = &p.walks[0]
	}
	return nil
}

// undelivered tells a frame that no kernel gives to a program from a lab that
// failed. It is never a pass: nothing was proven about it.
func undelivered(err error, data []byte) error {
	if errors.Is(err, datapath.ErrNotDeliverable) {
		return mismatch("the kernel gives no program such a frame of %d octets: %v", len(data), err)
	}
	return labError(err)
}

// sendAndCompare sends a frame where packets take time, and compares what the
// counters say became of it with what the model expects. World prog compares
// each hook's decision instead.
func (p *play) sendAndCompare(ctx context.Context, host string, data []byte) error {
	at, judged := p.firstHook(host, data)
	before, err := p.counters(at)
	if err != nil {
		return err
	}
	if err := p.world.Send(ctx, p.hostName(host), data); err != nil {
		return undelivered(err, data)
	}
	if !judged {
		return nil
	}
	err = retry(ctx, patience, func() error {
		after, err := p.counters(at)
		if err != nil {
			return err
		}
		return p.judge.sent(data, at, before, after, func(t model.Tuple) (model.Tuple, bool) { return p.leftAs(at, t) })
	})
	if m, ok := errors.AsType[*Mismatch](err); ok {
		for _, d := range m.Details {
			p.judge.disagreed = append(p.judge.disagreed, Disagreement{Where: at.where, Expected: d.Want, Got: d.Got})
		}
		return nil
	}
	return err
}

// leftAs looks up in the flow table what a hook made of a tuple.
func (p *play) leftAs(at place, t model.Tuple) (model.Tuple, bool) {
	// What cannot be read is not known: the model goes without it.
	flows, _ := p.world.Datapath(at.node).Flows()
	for _, f := range flows {
		if f.Hook == at.where.Hook && f.Tuple == t && f.Endpoint == at.where.Endpoint {
			return f.Translated, true
		}
	}
	return model.Tuple{}, false
}

// counters gives a hook's counters by reason.
func (p *play) counters(at place) (map[model.Reason]uint64, error) {
	counters, err := p.world.Datapath(at.node).Counters()
	if err != nil {
		return nil, labError(err)
	}
	out := map[model.Reason]uint64{}
	for _, c := range counters {
		if c.Hook == at.where.Hook {
			out[c.Reason] = c.Packets
		}
	}
	return out, nil
}

// arrivals moves what came to a host into its inbox, waiting for news until
// ctx ends.
func (p *play) arrivals(ctx context.Context, host string) error {
	if p.kind != syntax.Prog {
		defer phase.Start(ctx, phase.Waits)()
	}
	frames, err := p.world.Arrived(ctx, p.hostName(host))
	if err != nil && ctx.Err() == nil {
		return labError(err)
	}
	p.inbox[host] = append(p.inbox[host], frames...)
	if p.kind != syntax.Prog {
		p.frames = append(p.frames, frames...)
	}
	return nil
}

// Expect waits for a frame, or that none comes.
func (p *play) Expect(ctx context.Context, v *syntax.Expect) error {
	want, err := p.resolve(v.Layers, v.Host)
	if err != nil {
		return err
	}
	if v.Nothing {
		return p.expectNothing(ctx, v.Host, want)
	}
	limited, cancel := context.WithTimeout(ctx, p.stretch(patience))
	defer cancel()
	for {
		if i := matching(want, p.inbox[v.Host]); i >= 0 {
			p.inbox[v.Host] = append(p.inbox[v.Host][:i:i], p.inbox[v.Host][i+1:]...)
			return nil
		}
		before := len(p.inbox[v.Host])
		if err := p.arrivals(limited, v.Host); err != nil {
			return err
		}
		if len(p.inbox[v.Host]) == before {
			return p.missing(v, want)
		}
	}
}

func matching(want []frame.Layer, frames []lab.Frame) int {
	for i, f := range frames {
		if len(frame.Match(want, f.Data)) == 0 {
			return i
		}
	}
	return -1
}

// missing explains which frame came closest to the one that did not come.
func (p *play) missing(v *syntax.Expect, want []frame.Layer) error {
	inbox := p.inbox[v.Host]
	if len(inbox) == 0 {
		return mismatch("no frame came to %s", v.Host).with("frame", lines(want), "none")
	}
	m := mismatch("%d frames came to %s, none of them as expected", len(inbox), v.Host)
	var best []frame.Difference
	var closest lab.Frame
	for _, f := range inbox {
		if d := frame.Match(want, f.Data); best == nil || len(d) <= len(best) {
			best, closest = d, f
		}
	}
	m.with("closest frame", lines(want), frame.Line(closest.Data))
	for _, d := range best {
		m.with(strings.TrimSuffix(d.Layer+"."+d.Field, "."), d.Want, d.Got)
	}
	return m
}

func lines(layers []frame.Layer) string {
	var out []string
	for _, l := range layers {
		out = append(out, l.String())
	}
	return strings.Join(out, " ")
}

func (p *play) expectNothing(ctx context.Context, host string, want []frame.Layer) error {
	if p.kind != syntax.Prog {
		defer phase.Start(ctx, phase.Waits)()
	}
	limited, cancel := newStill(ctx, quiet, p.stretch(patience))
	defer cancel()
	for {
		before := len(p.inbox[host])
		if err := p.arrivals(limited, host); err != nil {
			return err
		}
		for _, f := range p.inbox[host] {
			if len(want) == 0 && p.kind != syntax.Prog && chatter(f.Data) {
				continue
			}
			if len(frame.Match(want, f.Data)) == 0 {
				return mismatch("a frame came to %s", host).with("frame", "nothing", frame.Line(f.Data))
			}
		}
		if limited.Err() != nil || len(p.inbox[host]) == before {
			return nil
		}
	}
}

// chatter is what real stacks say among themselves.
func chatter(data []byte) bool {
	p := frame.Decode(data)
	if p.Version == 0 {
		return true
	}
	body := p.Transport()
	return p.Version == 6 && p.Proto == uint8(model.ProtocolICMPv6) && len(body) > 0 && body[0] >= 130
}

// Verdict checks the decision about the last frame sent, at its first hook or
// the one named.
func (p *play) Verdict(_ context.Context, v *syntax.Verdict) error {
	if p.sent == nil || len(p.sent.Steps) == 0 {
		return mismatch("the frame that was sent last met no hook")
	}
	step, err := p.stepOf(v.Fields)
	if err != nil {
		return err
	}
	d := step.Decision
	m := mismatch("the datapath decided otherwise")
	if d.Action != v.Action {
		got := string(d.Action)
		if d.Reason != "" {
			got += " reason=" + string(d.Reason)
		}
		m.with("action", string(v.Action), fmt.Sprintf("%s at %s:%d", got, d.File, d.Line))
	}
	for _, a := range v.Fields {
		if got, ok := p.decided(step, a); !ok {
			m.with(a.Name, a.Value, got)
		}
	}
	if len(m.Details) > 0 {
		return m
	}
	return nil
}

// stepOf finds the step of the last frame sent that fields name by hook and
// node; the first where they do not.
func (p *play) stepOf(fields []syntax.Assignment) (lab.Step, error) {
	hook, node := "", ""
	for _, a := range fields {
		switch a.Name {
		case "at":
			hook = a.Value
		case "on":
			node = a.Value
		}
	}
	var met []string
	for _, s := range p.sent.Steps {
		if (hook == "" || string(s.Hook) == hook) && (node == "" || s.Node == node) {
			return s, nil
		}
		met = append(met, string(s.Hook)+" on "+s.Node)
	}
	return lab.Step{}, mismatch("the frame did not meet that hook").with("at", strings.TrimSpace(hook+" on "+node), strings.Join(met, ", ")+" only")
}

// decided gives a field of a decision as text, and whether it is as wanted.
func (p *play) decided(s lab.Step, want syntax.Assignment) (got string, ok bool) {
	d := s.Decision
	switch want.Name {
	case "reason":
		got = string(d.Reason)
	case "out":
		got = string(d.Out)
	case "flow":
		got = string(d.Flow)
	case "at", "on":
		return want.Value, true
	case "endpoint":
		got = p.scriptName(s.Endpoint)
	case "policy":
		policy := d.Origin.Policy
		names := []string{policy.Name, policy.Ref().Key(), policy.String()}
		return policy.String(), slices.Contains(names, want.Value)
	case "rule":
		got = strconv.Itoa(d.Origin.Rule)
	case "table":
		for _, t := range d.Tables {
			got += t.Table + " "
			if t.Table == want.Value {
				return got, true
			}
		}
		return strings.TrimSpace(got), false
	}
	if got == "" {
		got = "none"
	}
	return got, got == want.Value
}

func (p *play) flow(v *syntax.FlowCheck) error {
	from, err := p.addressIn(v.From)
	if err != nil {
		return err
	}
	to, err := p.addressIn(v.To.Name)
	if err != nil {
		return err
	}
	var flows []datapath.Flow
	for _, node := range p.nodesOf(v.Fields) {
		some, err := p.world.Datapath(node).Flows()
		if err != nil {
			return labError(err)
		}
		flows = append(flows, some...)
	}
	proto := v.To.Protocol
	if proto == model.ProtocolICMP && p.family.V6() {
		proto = model.ProtocolICMPv6
	}
	var candidates []datapath.Flow
	for _, f := range flows {
		t := f.Tuple
		if f.Reply || t.Src != from || t.Dst != to || t.Protocol != proto ||
			t.Dport != v.To.Port || v.Sport != 0 && t.Sport != v.Sport {
			continue
		}
		candidates = append(candidates, f)
	}
	return p.compareFlows(v, candidates)
}

// nodesOf are the nodes that fields speak of: the one that they name, else all.
func (p *play) nodesOf(fields []syntax.Assignment) []string {
	for _, a := range fields {
		if a.Name == "on" {
			return []string{a.Value}
		}
	}
	return p.NodeNames()
}

func (p *play) compareFlows(v *syntax.FlowCheck, candidates []datapath.Flow) error {
	what := fmt.Sprintf("flow %s -> %s", v.From, v.To)
	if v.Via != "" {
		via, err := p.addressIn(v.Via)
		if err != nil {
			return err
		}
		kept := candidates[:0]
		for _, f := range candidates {
			if f.Translated.Dst == via {
				kept = append(kept, f)
			}
		}
		candidates = kept
	}
	switch {
	case v.Absent && len(candidates) > 0:
		return mismatch("%s is in the flow table", what).with("flow", "none", describeFlow(candidates[0]))
	case v.Absent:
		return nil
	case len(candidates) == 0:
		return mismatch("%s is not in the flow table", what).with("flow", "an entry", "none")
	}
	m := mismatch("%s is not as expected", what)
	for _, a := range v.Fields {
		if got := flowField(candidates, a.Name); got != a.Value && a.Name != "on" {
			m.with(a.Name, a.Value, got)
		}
	}
	if len(m.Details) > 0 {
		return m.with("entry", "", describeFlow(candidates[0]))
	}
	return nil
}

func flowField(flows []datapath.Flow, name string) string {
	f := flows[0]
	yes := map[bool]string{true: "yes", false: "no"}
	switch name {
	case "answered":
		return yes[f.Answered]
	case "reply":
		return yes[f.Reply]
	case "state":
		return string(f.State)
	case "service":
		return f.Service.String()
	case "out":
		return string(f.Out)
	}
	return strconv.Itoa(len(flows))
}

func describeFlow(f datapath.Flow) string {
	return fmt.Sprintf("%s at %s of %s, as %s, out %s, %s, epoch %d, idle %s", f.Tuple, f.Hook, f.Endpoint, f.Translated, f.Out, f.State, f.Epoch, f.Idle.Round(time.Millisecond))
}

// dropsSoFar counts packets by reason since the world was made: in world prog
// from the walks, since every packet's is known; elsewhere from the counters.
func (p *play) dropsSoFar(reason model.Reason) (uint64, error) {
	if p.kind == syntax.Prog {
		return p.judge.reasons[reason], nil
	}
	return p.counted(reason, "", p.NodeNames()...)
}

// counted sums a reason's counters of nodes over hooks, or at one.
func (p *play) counted(reason model.Reason, hook model.Hook, nodes ...string) (uint64, error) {
	var n uint64
	for _, node := range nodes {
		counters, err := p.world.Datapath(node).Counters()
		if err != nil {
			return 0, labError(err)
		}
		for _, c := range counters {
			if c.Reason == reason && (hook == "" || c.Hook == hook) {
				n += c.Packets
			}
		}
	}
	return n, nil
}

func (p *play) drops(v *syntax.Dropped) error {
	n, err := p.dropsSoFar(v.Reason)
	if err != nil {
		return err
	}
	seen := n - p.dropped[v.Reason]
	if v.Times == 0 && seen > 0 || v.Times > 0 && seen == uint64(v.Times) {
		p.dropped[v.Reason] = n
		return nil
	}
	want := "at least 1"
	if v.Times > 0 {
		want = strconv.Itoa(v.Times)
	}
	return mismatch("packets dropped or answered for %s since it was last asked", v.Reason).with("packets", want, strconv.FormatUint(seen, 10))
}

func (p *play) counter(v *syntax.Counter) error {
	reason := model.Reason(v.Name)
	if v.Name == "forwarded" {
		reason = ""
	}
	nodes := p.NodeNames()
	if v.Node != "" {
		nodes = []string{v.Node}
	}
	n, err := p.counted(reason, v.Hook, nodes...)
	if err != nil {
		return err
	}
	if n != v.Count {
		return mismatch("the counter is not as expected").with(v.Name+" "+string(v.Hook), strconv.FormatUint(v.Count, 10), strconv.FormatUint(n, 10))
	}
	return nil
}

// expand puts addresses in place of {NAME}, where NAME is a host or service.
func (p *play) expand(text string) (string, error) {
	for {
		before, rest, ok := strings.Cut(text, "{")
		name, after, closed := strings.Cut(rest, "}")
		if !ok || !closed {
			return text, nil
		}
		a, err := p.addressIn(name)
		if err != nil {
			return "", err
		}
		text = before + a.String() + after
	}
}

// table looks for text in a table.
func (p *play) table(v *syntax.TableCheck) error {
	text, err := p.expand(v.Text)
	if err != nil {
		return err
	}
	tables := p.world.Datapath(v.Node).Tables()
	var names []string
	for _, t := range tables {
		names = append(names, t.Name)
		if t.Name != v.Table {
			continue
		}
		found := ""
		for _, e := range t.Entries {
			if strings.Contains(e, text) {
				found = e
			}
		}
		switch {
		case v.Lacks && found != "":
			return mismatch("table %s has the entry", v.Table).with("entry", "none with "+text, found)
		case !v.Lacks && found == "":
			return mismatch("table %s lacks the entry", v.Table).with("entry", "one with "+text, strings.Join(t.Entries, "; "))
		}
		return nil
	}
	return mismatch("there is no table %s", v.Table).with("table", v.Table, strings.Join(names, ", "))
}
