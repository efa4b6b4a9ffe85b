// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios/syntax"
)

// play is one run of a scenario in one world.
type play struct {
	*Scenario
	family  syntax.Family
	kind    syntax.World
	world   lab.World
	objects *manifest.Objects
	locals  []model.Local // by the index of the node
	leads   lab.Leads     // of the router, and what nodes were given
	judge   *judge

	conns     map[string]*conversation
	listening map[listener]bool
	dropped   map[model.Reason]uint64 // as last seen by the verb
	inbox     map[string][]lab.Frame  // arrived and not yet claimed
	conversed bool                    // the last frames are of an exchange
	slowdown  float64                 // see Runner.Slowdown

	sent   *lab.Walk  // the walk that the last send began
	walks  []lab.Walk // of the step that acted last, and of its checks
	before []lab.Walk
	frames []lab.Frame
	// pending is a disagreement of model and datapath whose step held: the
	// checks behind it may show on whose side the scenario is.
	pending *pendingFailure
	outputs []Output
}

type pendingFailure struct {
	step *syntax.Step
	err  *Mismatch
}

// conversation is an open exchange.
type conversation struct {
	conn lab.Conn
	from string
	to   netip.AddrPort // as it was dialled
}

// patience is how long what is eventual may take where packets take time. Only what
// never comes takes so long, and a machine may be busy.
const patience = 5 * time.Second

// following is how long the datapaths of a live cluster may take to follow a change of
// its objects.
const following = 10 * time.Second

// exchangePatience is how long an exchange may take that the scenario expects to be
// answered, silencePatience at most one that is to find no answer. In a live cluster one
// attempt has attemptPatience: what was sent before the network knew of a service is lost,
// and is sent anew while the network may still follow.
const (
	exchangePatience = 10 * time.Second
	attemptPatience  = 3 * time.Second
	silencePatience  = 3 * time.Second
)

// stretch makes a duration that is right on an ordinary machine right here.
func (p *play) stretch(d time.Duration) time.Duration {
	return time.Duration(float64(d) * max(p.slowdown, 1))
}

func newPlay(s *Scenario, family syntax.Family, kind syntax.World, world lab.World) *play {
	p := &play{
		Scenario: s, family: family, kind: kind, world: world,
		objects: s.objects.Clone(), leads: lab.NewLeads(s.topology.Routes),
		conns: map[string]*conversation{}, listening: map[listener]bool{},
		dropped: map[model.Reason]uint64{}, inbox: map[string][]lab.Frame{},
	}
	identities := model.NewAllocator() // one for all, as one cluster has one
	for _, n := range s.topology.Nodes {
		p.locals = append(p.locals, model.Local{
			Devices: model.DevicesOf(world.Devices(n.Name)), Uplinks: world.Uplinks(n.Name),
			Gateways: s.topology.Gateways, Options: s.Options, Identities: identities,
		})
	}
	p.judge = newJudge(s.topology, p.locals, world.Now)
	if w, ok := world.(interface {
		OnFrame(func(string, model.Where, []byte, time.Time, bool))
		OnStep(func(lab.Step, time.Time))
	}); ok {
		for _, n := range s.topology.Nodes {
			p.judge.see(n.Name, world.Datapath(n.Name))
		}
		w.OnFrame(p.judge.look)
		w.OnStep(p.judge.step)
	}
	return p
}

// errLab marks what the lab failed at, not the datapath.
var errLab = errors.New("the lab failed")

func labError(err error) error { return fmt.Errorf("%w: %w", errLab, err) }

// run plays all steps. The failure is nil when the scenario holds; broken
// says that it is the lab's.
func (p *play) run(ctx context.Context) (failure *Failure, broken bool) {
	defer func() {
		if failure != nil {
			p.tell(failure)
		}
		for _, c := range p.conns {
			c.conn.Close()
		}
	}()
	if err := p.compile(ctx); err != nil {
		step := syntax.Step{Pos: syntax.Pos{File: p.Path, Line: 1}, Text: "the network before the first step"}
		return p.failure(&step, err), errors.Is(err, errLab)
	}
	for i := range p.Steps {
		step := &p.Steps[i]
		if step.Only != "" && step.Only != p.family {
			continue
		}
		if failure, broken := p.step(ctx, step); failure != nil {
			return failure, broken
		}
	}
	return p.settle(), false
}

func (p *play) step(ctx context.Context, step *syntax.Step) (*Failure, bool) {
	if step.Verb.Effect() != syntax.Checks {
		if failure := p.settle(); failure != nil {
			return failure, false
		}
		p.before = append(p.before, p.walks...)
		p.walks = nil
		p.judge.reset()
	}
	err := p.forget(step.Verb.Effect())
	if err == nil {
		err = p.do(ctx, step)
	}
	p.collectWalks()
	if err == nil {
		err = p.faults()
	}
	if err == nil {
		err = p.contradictions()
	}
	var m *Mismatch
	var odd *oddError
	switch {
	case err == nil && len(p.judge.disagreed) > 0 && p.pending == nil:
		p.pending = &pendingFailure{step, p.disagreement()}
	case errors.As(err, &odd):
		return p.failure(step, odd), false
	case errors.As(err, &m):
		return p.failure(step, p.alone(m)), false
	case err != nil:
		return p.failure(step, err), errors.Is(err, errLab)
	}
	return nil, false
}

// forget drops the frames that came before an exchange, and those of an
// exchange before the next frame is sent: an expectation is about what is
// news since then.
func (p *play) forget(e syntax.Effect) error {
	converses := e == syntax.Converses
	if !converses && (e != syntax.Sends || !p.conversed) {
		return nil
	}
	p.conversed = converses
	return p.readAll(func(string, []lab.Frame) {})
}

// readAll reads what has come to every host, without waiting.
func (p *play) readAll(keep func(host string, frames []lab.Frame)) error {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for name, h := range p.hosts {
		frames, err := p.world.Arrived(now, h.Name)
		if err != nil && !errors.Is(err, context.Canceled) {
			return labError(err)
		}
		if p.kind != syntax.Prog {
			p.frames = append(p.frames, frames...)
		}
		p.inbox[name] = nil
		keep(name, frames)
	}
	return nil
}

// collectWalks takes over the world's walks, with the script's names.
func (p *play) collectWalks() {
	for _, w := range p.world.Walks() {
		w.From, w.To = p.scriptName(w.From), p.scriptName(w.To)
		p.walks = append(p.walks, w)
		p.keepOutputs(&w)
	}
}

// settle ends what a step that acted has set off: a disagreement between
// model and datapath that no check of the scenario has decided.
func (p *play) settle() *Failure {
	if p.pending == nil {
		return nil
	}
	f := p.failure(p.pending.step, p.pending.err)
	f.Odd = "the model: the scenario's checks hold for what the datapath did, as far as they look"
	p.pending = nil
	return f
}

// disagreement puts what model and datapath do not agree on in words.
func (p *play) disagreement() *Mismatch {
	m := mismatch("the model and the datapath disagree")
	for _, d := range p.judge.disagreed {
		m.with(d.Where.String(), "the model: "+d.Expected, "the datapath: "+d.Got)
	}
	return m
}

// alone finds out who of scenario, model and datapath stands alone in a step
// that did not hold.
func (p *play) alone(m *Mismatch) error {
	if p.kind == syntax.Cluster {
		return m // nobody else is asked there
	}
	if len(p.judge.disagreed) == 0 {
		return &oddError{m, "the scenario: model and datapath agree on every frame of this step"}
	}
	m.Details = append(m.Details, p.disagreement().Details...)
	if itself := p.itself(); itself != "" {
		return &oddError{m, itself}
	}
	return &oddError{m, "the datapath: the scenario and the model both expect something else"}
}

// oddError is a Mismatch that knows who stands alone.
type oddError struct {
	*Mismatch
	odd string
}

func (e *oddError) Unwrap() error { return e.Mismatch }

// itself is the odd one where a program does not agree with itself.
func (p *play) itself() string {
	for _, d := range p.judge.disagreed {
		if d.Itself != "" {
			return d.Itself
		}
	}
	return ""
}

// contradictions are programs that did something else than they noted: no check
// of a scenario is needed to tell that it is wrong.
func (p *play) contradictions() error {
	itself := p.itself()
	if itself == "" {
		return nil
	}
	m := p.disagreement()
	m.Problem = "a program returned or marked something else than it noted"
	return &oddError{m, itself}
}

// faults are what no frame may suffer, whatever the scenario says.
func (p *play) faults() error {
	for i := range p.walks {
		if w := &p.walks[i]; len(w.Faults) > 0 {
			m := mismatch("a frame from %s was harmed on its way", w.From)
			for _, f := range w.Faults {
				m.with("fault", "none", f)
			}
			return &oddError{m, "the datapath: no scenario allows this"}
		}
	}
	return nil
}

func (p *play) failure(step *syntax.Step, err error) *Failure {
	f := &Failure{Pos: step.Pos, Step: step.Text, Problem: err.Error(), Time: time.Now()}
	var m *Mismatch
	if errors.As(err, &m) {
		f.Problem, f.Details = m.Problem, m.Details
	}
	var odd *oddError
	if errors.As(err, &odd) {
		f.Odd = odd.odd
	}
	return f
}

// tell adds what is known of the world when a run failed.
func (p *play) tell(f *Failure) {
	f.Topology = p.topology
	f.Walks, f.Before, f.Model = p.walks, p.before, p.judge.story
	if p.kind != syntax.Prog {
		// Frames that cannot be read are left out: the failure is the news.
		_ = p.readAll(func(string, []lab.Frame) {})
		slices.SortStableFunc(p.frames, func(a, b lab.Frame) int { return a.Time.Compare(b.Time) })
		for i := range p.frames {
			p.frames[i].Host = p.scriptName(p.frames[i].Host)
		}
		f.Frames = p.frames
	}
	for _, n := range p.topology.Nodes {
		dp := p.world.Datapath(n.Name)
		if dp == nil {
			continue
		}
		for _, t := range dp.Tables() {
			if len(p.topology.Nodes) > 1 {
				t.Name += " of " + n.Name
			}
			f.Tables = append(f.Tables, t)
		}
		// Flows that cannot be read are left out: the failure itself is the news.
		flows, _ := dp.Flows()
		f.Flows = append(f.Flows, flows...)
	}
}

func (p *play) do(ctx context.Context, step *syntax.Step) error {
	if p.kind == syntax.Cluster && step.Verb.Effect() == syntax.Converses {
		// Nothing tells when a cluster's datapaths have followed its objects.
		return retry(ctx, p.stretch(following), func() error { return step.Verb.Run(ctx, p) })
	}
	if !step.Eventually || p.kind == syntax.Prog {
		return step.Verb.Run(ctx, p)
	}
	return retry(ctx, p.stretch(2*patience), func() error { return step.Verb.Run(ctx, p) })
}

// retry repeats what is eventual until it holds or its time is over. Errors
// that are no Mismatch end it at once.
func retry(ctx context.Context, within time.Duration, f func() error) error {
	deadline := time.Now().Add(within)
	wait := time.Millisecond
	for {
		err := f()
		var m *Mismatch
		if err == nil || !errors.As(err, &m) || time.Now().Add(wait).After(deadline) {
			return err
		}
		if !pause(ctx, wait) {
			return err
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}

// pause waits, and says whether the context has not ended.
func pause(ctx context.Context, wait time.Duration) bool {
	defer phase.Start(ctx, phase.Waits)()
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// eventually retries a check where packets take time; in world prog nothing
// is on its way when a step ends.
func (p *play) eventually(ctx context.Context, f func() error) error {
	if p.kind == syntax.Prog {
		return f()
	}
	return retry(ctx, p.stretch(patience), f)
}

// Flow waits for an entry of the flow table, or for none.
func (p *play) Flow(ctx context.Context, v *syntax.FlowCheck) error {
	return p.eventually(ctx, func() error { return p.flow(v) })
}

// Dropped waits for packets that are dropped.
func (p *play) Dropped(ctx context.Context, v *syntax.Dropped) error {
	if p.kind == syntax.Cluster {
		return nil // what is dropped there its plugin alone could tell
	}
	return p.eventually(ctx, func() error { return p.drops(v) })
}

// Counter waits for a counter.
func (p *play) Counter(ctx context.Context, v *syntax.Counter) error {
	return p.eventually(ctx, func() error { return p.counter(v) })
}

// Table waits for text in a table.
func (p *play) Table(ctx context.Context, v *syntax.TableCheck) error {
	return p.eventually(ctx, func() error { return p.table(v) })
}

// addressIn looks a name up in the family of the run.
func (p *play) addressIn(name string) (netip.Addr, error) {
	a, err := p.address(name, p.family)
	if err != nil {
		return a, mismatch("%v", err)
	}
	return a, nil
}

// hostName is the world's name of a host of the script.
func (p *play) hostName(name string) string { return p.hosts[name].Name }
