// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/probe"
	"github.com/weirnet/weir/model/manifest"
)

// Evidence is what is known of an action that failed: enough to look into it, and to
// repeat it, without the cluster.
type Evidence struct {
	Action Action         `json:"action"`
	To     netip.AddrPort `json:"to,omitzero"` // what was asked
	Ends   []End          `json:"ends"`        // who asked first, then all who might have answered
	// Service is the one that leads there, namespace/name; empty: none does.
	Service string `json:"service,omitempty"`
	// Resolver is the service that the name was asked of by which the action goes; its
	// pods are the last ends. Empty: it goes by an address, or is about the name itself.
	Resolver string `json:"resolver,omitempty"`
	// Again is how it ended when it was done once more, with captures.
	Again string `json:"again,omitempty"`
	// Events are the flows and drops between the ends, as 'weir monitor -o json' writes
	// them, oldest first.
	Events   []json.RawMessage `json:"events,omitempty"`
	Policy   []Ruling          `json:"policy,omitempty"`
	Agents   []AgentState      `json:"agents,omitempty"`
	Captures []CaptureOf       `json:"captures,omitempty"`
	// Objects are those of the API that have to do with it.
	Objects []json.RawMessage `json:"objects,omitempty"`
	// Config is that of Weir's agents, by key.
	Config map[string]string `json:"config,omitempty"`
	// Lacks says what could not be had, and why.
	Lacks []string `json:"lacks,omitempty"`
}

// EndKind is what an End is.
type EndKind string

// Kinds of ends.
const (
	EndPod     EndKind = "pod"
	EndNode    EndKind = "node"    // a probe with a node's network
	EndOutside EndKind = "outside" // the host beside the nodes
)

// End is who asks, or who might answer.
type End struct {
	Name      string       `json:"name"` // as actions have it
	Kind      EndKind      `json:"kind"`
	Pod       string       `json:"pod,omitempty"`  // namespace/name; of EndPod
	Node      string       `json:"node,omitempty"` // on which it is, or which it is
	Addresses []netip.Addr `json:"addresses"`
	Listens   []string     `json:"listens,omitempty"` // as in tcp/8080
}

// party is what policies know it as, in a family.
func (e *End) party(family Family) string {
	switch e.Kind {
	case EndPod:
		return e.Pod
	case EndNode:
		return "node/" + e.Node
	}
	for _, a := range e.Addresses {
		if a.Is6() == family.is6() {
			return a.String()
		}
	}
	return ""
}

// Ruling is what policies say of a flow, as 'weir policy check' tells it.
type Ruling struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Port    string   `json:"port"`
	Allowed bool     `json:"allowed"`
	Refused bool     `json:"refused,omitempty"` // a denial of which the sender is told
	Why     []string `json:"why"`
}

// AgentState is what a node's agent has of the ends: its endpoints, the identities by
// which it knows them, and the frontends at the address that was asked.
type AgentState struct {
	Node       string            `json:"node"`
	Endpoints  []json.RawMessage `json:"endpoints,omitempty"`
	Identities []json.RawMessage `json:"identities,omitempty"`
	Services   []json.RawMessage `json:"services,omitempty"`
}

// CaptureOf is what an end's host sent and got.
type CaptureOf struct {
	End    string           `json:"end"`
	Frames []probe.Captured `json:"frames"`
}

// Witness is asked about an action that failed. What is nil is not told.
type Witness struct {
	// Objects lists those that the cluster's network is made of.
	Objects func(context.Context) (*manifest.Objects, error)
	// Policy says what they say of a flow to a port: 80/tcp, or icmp.
	Policy func(objects *manifest.Objects, from, to, port string) (*Ruling, error)
}

// mostEvidence is of how many actions a run takes evidence: where everything fails, the
// first ones tell why.
const mostEvidence = 20

// evidencePatience is how long each thing may take that evidence is of.
const evidencePatience = 10 * time.Second

// evidence takes what is known of an action that failed, which began at some time, and
// does it once more for the captures.
func (r *Run) evidence(ctx context.Context, d *deed, since time.Time) *Evidence {
	if r.taken.Add(1) > mostEvidence {
		return nil
	}
	e := &Evidence{Action: *d.Action, To: d.to}
	objects := manifest.NewObjects()
	if list := r.options.Witness.Objects; list != nil {
		e.ask("objects", ctx, func(ctx context.Context) (err error) {
			got, err := list(ctx)
			if err == nil {
				objects = got
			}
			return err
		})
	}
	e.Ends, e.Service = r.bed.ends(d.Action, objects)
	if d.To.Kind == ToName && !d.asksNames() {
		var resolvers []End
		resolvers, e.Resolver = resolversIn(objects)
		e.Ends = append(e.Ends, resolvers...)
	}
	r.again(ctx, d, e)
	r.events.settle(ctx)
	e.Events = r.events.between(since, d.Verb.packets(), of(d.Family, append(r.bed.nodesAddresses(), e.Ends[0].Addresses...)), of(d.Family, e.asked()))
	r.rule(e, objects)
	var err error
	if e.Objects, err = relevant(e, objects); err != nil {
		e.lack("objects", err)
	}
	if r.Features.Weir {
		r.askAgents(ctx, e)
	}
	return e
}

// mostFlows is how many of the evidence's flows a story tells.
const mostFlows = 4

// story tells in lines what the evidence is; none is nothing.
func (e *Evidence) story() (lines []string) {
	if e == nil {
		return nil
	}
	for _, text := range e.Events {
		var flow event
		if json.Unmarshal(text, &flow) != nil || flow.Verdict == "drop" {
			continue
		}
		if line := "flow: " + flow.way(); len(lines) < mostFlows && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for i := range e.Policy {
		p := &e.Policy[i]
		verdict := "policy denies"
		if p.Allowed {
			verdict = "policy allows"
		}
		lines = append(lines, fmt.Sprintf("%s %s to %s %s: %s", verdict, p.From, p.To, p.Port, strings.Join(p.Why, "; ")))
	}
	if e.Again != "" {
		lines = append(lines, "done again: "+e.Again)
	}
	for _, c := range e.Captures {
		lines = append(lines, fmt.Sprintf("captured then: %d frames at %s", len(c.Frames), c.End))
	}
	for _, lack := range e.Lacks {
		lines = append(lines, "not had: "+lack)
	}
	return lines
}

func (e *Evidence) lack(what string, err error) {
	e.Lacks = append(e.Lacks, fmt.Sprintf("%s: %v", what, err))
}

// ask does what may take its time, and notes what it lacks.
func (e *Evidence) ask(what string, ctx context.Context, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, evidencePatience)
	defer cancel()
	if err := do(ctx); err != nil {
		e.lack(what, err)
	}
}

// asked are the addresses of what was asked, and of all who might have answered.
func (e *Evidence) asked() (all []netip.Addr) {
	if e.To.IsValid() {
		all = append(all, e.To.Addr())
	}
	for _, end := range e.Ends[1:] {
		all = append(all, end.Addresses...)
	}
	return all
}

// of are the addresses of a family.
func of(family Family, all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return a.Is6() != family.is6() })
}

// again does an action once more, while frames are kept at both ends. What is measured
// takes too long for that.
func (r *Run) again(ctx context.Context, d *deed, e *Evidence) {
	if slices.Contains(d.Needs, NeedPerf) {
		return
	}
	var ends []func()
	for i := range e.Ends {
		end := &e.Ends[i]
		member, err := r.bed.member(end.Name)
		if err != nil {
			continue // no probe of the run's own: a server of names
		}
		if i > 0 && end.Name == e.Ends[0].Name {
			continue
		}
		which := probe.Capture{Addresses: of(d.Family, e.asked()), Ports: e.ports()}
		if i > 0 {
			which.Addresses = of(d.Family, append(r.bed.nodesAddresses(), e.Ends[0].Addresses...))
		}
		e.ask("capture of "+end.Name, ctx, func(limited context.Context) error {
			stop, err := member.Capture(limited, which)
			if err == nil {
				ends = append(ends, func() { e.captured(ctx, end.Name, stop) })
			}
			return err
		})
	}
	err := d.do(ctx)
	e.Again = "it went well"
	if err != nil {
		e.Again = err.Error()
	}
	for _, end := range ends {
		end()
	}
}

// captured ends a capture.
func (e *Evidence) captured(ctx context.Context, end string, stop func(context.Context) ([]probe.Captured, error)) {
	e.ask("capture of "+end, ctx, func(ctx context.Context) error {
		frames, err := stop(ctx)
		if err == nil {
			e.Captures = append(e.Captures, CaptureOf{end, append([]probe.Captured{}, frames...)})
		}
		return err
	})
}

// ports are those of the action's packets; none where they have no ports.
func (e *Evidence) ports() (all []uint16) {
	if e.Action.Verb.packets() == "icmp" {
		return nil
	}
	if e.To.IsValid() {
		all = append(all, e.To.Port())
	}
	for _, end := range e.Ends[1:] {
		for _, l := range end.Listens {
			if n, err := strconv.ParseUint(l[len("tcp/"):], 10, 16); err == nil {
				all = append(all, uint16(n))
			}
		}
	}
	return all
}

// ends are who asks and all who may answer, and the service that leads to them.
func (b *bed) ends(a *Action, objects *manifest.Objects) (ends []End, service string) {
	ends = []End{b.end(a.From)}
	switch a.To.Kind {
	case ToPod, ToNode, ToHostPort:
		return append(ends, b.end(a.To.Name)), ""
	case ToOutside:
		return append(ends, b.end(Outside)), ""
	}
	if a.asksNames() {
		resolvers, name := resolversIn(objects)
		return append(ends, resolvers...), name
	}
	namespace, behind := inMain, servers
	switch {
	case a.To.Name == guardedService:
		namespace, behind = inPolicy, []string{guarded1, guarded2}
	case a.To.Name == alone:
		behind = []string{server1}
	}
	for _, name := range b.present(behind) {
		ends = append(ends, b.end(name))
	}
	return ends, b.namespaces[namespace] + "/" + a.To.Name
}

// end is a probe of the run, or the host beside the nodes.
func (b *bed) end(name string) End {
	m, err := b.member(name)
	if err != nil {
		return End{Name: name}
	}
	seat := seats[m.Name]
	e := End{Name: name, Kind: EndPod, Node: m.Node, Addresses: slices.Clone(m.Addresses)}
	port := uint16(mainPort)
	switch {
	case name == Outside:
		e.Kind, port = EndOutside, b.hostPort()
		e.Addresses = slices.DeleteFunc(e.Addresses, func(a netip.Addr) bool { return !a.IsValid() })
	case seat.host:
		e.Kind, port = EndNode, b.hostPort()
	default:
		e.Pod = b.namespaces[seat.namespace] + "/" + m.Name
		e.Listens = []string{"tcp/" + strconv.Itoa(otherPort)}
	}
	e.Listens = append([]string{fmt.Sprintf("tcp/%d", port), fmt.Sprintf("udp/%d", port)}, e.Listens...)
	return e
}

// nodesAddresses are those of all nodes, which packets may have on their way.
func (b *bed) nodesAddresses() (all []netip.Addr) {
	for i := range b.nodes {
		for _, family := range Families() {
			if a := kube.NodeAddress(&b.nodes[i], family.is6()); a.IsValid() {
				all = append(all, a)
			}
		}
	}
	return all
}

// rule asks what policies say of who asked and each who may answer.
func (r *Run) rule(e *Evidence, objects *manifest.Objects) {
	if r.options.Witness.Policy == nil {
		return
	}
	from := e.Ends[0].party(e.Action.Family)
	for _, end := range e.Ends[1:] {
		to, port := end.party(e.Action.Family), e.portOf(&end)
		ruling, err := r.options.Witness.Policy(objects, from, to, port)
		if err != nil {
			e.lack(fmt.Sprintf("policy of %s to %s %s", from, to, port), err)
			continue
		}
		e.Policy = append(e.Policy, *ruling)
	}
}

// portOf is the port by which an end is asked, as policies have it.
func (e *Evidence) portOf(end *End) string {
	protocol := e.Action.Verb.packets()
	if protocol == "icmp" {
		return protocol
	}
	if e.Action.To.Kind == ToPod {
		return fmt.Sprintf("%d/%s", e.Action.To.Port, protocol)
	}
	for _, l := range end.Listens {
		if l[:len("tcp")] == protocol {
			return l[len("tcp/"):] + "/" + protocol
		}
	}
	return "80/" + protocol
}

// askAgents asks the agents of the ends' nodes what they have of them.
func (r *Run) askAgents(ctx context.Context, e *Evidence) {
	asked := map[string]bool{}
	for _, end := range e.Ends {
		if agent := r.events.agent(end.Node); agent != nil && !asked[end.Node] {
			asked[end.Node] = true
			state := AgentState{Node: end.Node}
			list := func(what string, of func(*row) bool) (kept []json.RawMessage) {
				e.ask(what+" of node "+end.Node, ctx, func(ctx context.Context) (err error) {
					var out bytes.Buffer
					err = r.session.Exec(ctx, agent.Namespace, agent.Name, agent.Spec.Containers[0].Name, &out, "/weir", what, "list", "-o", "json")
					kept = rows(out.Bytes(), of)
					return err
				})
				return kept
			}
			state.Endpoints = list("endpoint", func(w *row) bool { return e.isEnd(w.Namespace + "/" + w.Pod) })
			state.Identities = list("identity", func(w *row) bool { return slices.ContainsFunc(w.Pods, e.isEnd) })
			state.Services = list("service", func(w *row) bool { return e.To.IsValid() && w.Address == e.To.String() })
			e.Agents = append(e.Agents, state)
		}
	}
	config, err := r.session.Kube().CoreV1().ConfigMaps(r.options.Agents.Namespace).Get(ctx, "weir-config", metav1.GetOptions{})
	if err != nil {
		e.lack("configuration of Weir", err)
		return
	}
	e.Config = config.Data
}

func (e *Evidence) isEnd(pod string) bool {
	return slices.ContainsFunc(e.Ends, func(end End) bool { return end.Pod != "" && end.Pod == pod })
}

// row is of a list of an agent's, as far as it is asked here.
type row struct {
	Namespace string   `json:"podNamespace"`
	Pod       string   `json:"podName"`
	Pods      []string `json:"pods"`
	Address   string   `json:"address"`
}

// rows are those lines of JSON that are wanted.
func rows(text []byte, wanted func(*row) bool) (kept []json.RawMessage) {
	for line := range bytes.Lines(text) {
		var w row
		if json.Unmarshal(line, &w) == nil && wanted(&w) {
			kept = append(kept, slices.Clone(bytes.TrimSpace(line)))
		}
	}
	return kept
}
