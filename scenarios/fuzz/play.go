// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
	"github.com/weirnet/weir/scenarios"
)

// Doubt changes what the model expects of a frame. Tests plant errors by it.
type Doubt func(frame []byte, e oracle.Expectation) oracle.Expectation

// planted are errors that tests plant, and who is no pod in them.
type planted struct {
	doubt   Doubt
	misread misread
	machine func(pod string) bool // nil: all are pods
}

// Finding is a frame on which program and model do not agree, or that was
// harmed.
type Finding struct {
	// Kind is the same for findings that look alike: of them one is enough.
	Kind     string
	Where    model.Where
	Problems []string // what was expected, and what was there
	// Expected is what the model says; zero when the frame was harmed.
	Expected oracle.Expectation
	Frame    []byte
}

// player plays the steps of a case in a world, with program and model.
type player struct {
	world   *prog.World
	local   model.Local
	referee *scenarios.Referee
	objs    *manifest.Objects
	misread misread
	machine func(pod string) bool
	// every is how many frames are played between two looks at the counters,
	// and played those since the last.
	every, played int
}

// countersEvery is how many frames a sequence plays between two looks at the
// counters: reading all of them takes as long as some frames.
const countersEvery = 100

// misread changes the objects that the model is told. Tests plant errors in
// its reading of policies by it.
type misread func(*manifest.Objects) *manifest.Objects

// tell makes the model know objects.
func (p *player) tell(objs *manifest.Objects) {
	if p.misread != nil {
		objs = p.misread(objs)
	}
	p.referee.Oracle().SetObjects(objs)
}

// key names whom a slot's pod is known as.
func (p *player) key(pod string) model.Key {
	key := model.ParseKey(pod)
	if p.machine != nil && p.machine(pod) {
		key.Kind = model.OwnerExternalWorkload
	}
	return key
}

// slotOf is the pod that is known as somebody.
func slotOf(key model.Key) string {
	return model.Key{Namespace: key.Namespace, Name: key.Name}.String()
}

// where is a hook by the name of whom its device is for.
func (p *player) where(at model.Where) model.Where {
	if at.Hook == model.FromContainer || at.Hook == model.ToContainer {
		at.Endpoint = p.key(at.Endpoint).String()
	}
	return at
}

// meant are the objects that program and model know: those who are no pods are
// machines with the same labels, ports and addresses.
func (p *player) meant(objs *manifest.Objects) (*manifest.Objects, error) {
	if p.machine == nil {
		return objs, nil
	}
	out := objs.Clone()
	for name, pod := range objs.Pods {
		if !p.machine(name) {
			continue
		}
		delete(out.Pods, name)
		w := &manifest.Workload{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: pod.Annotations},
			Kind:       model.OwnerExternalWorkload, Addresses: podAddresses(pod), Account: pod.Spec.ServiceAccountName,
		}
		for _, port := range pod.Spec.Containers[0].Ports {
			w.Ports = append(w.Ports, model.NamedPort{Name: port.Name, Port: uint16(port.ContainerPort), Protocol: protocolNumbers[port.Protocol]})
		}
		if err := out.Upsert(w); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// topology is the world that a case needs.
func (c *Case) topology() lab.Topology {
	t := lab.Topology{Nodes: []lab.Host{{Name: nodeName, Silent: true}}, Gateways: gateways, Uplinks: c.Uplink}
	for _, name := range c.Pods {
		t.Pods = append(t.Pods, lab.Host{Name: name, Silent: true})
	}
	return t
}

// newPlayer makes the network that scenarios begin with.
func newPlayer(ctx context.Context, c *Case, w *prog.World, plant planted) (*player, error) {
	p := &player{
		world: w, every: countersEvery, misread: plant.misread, machine: plant.machine, objs: base(c.Pods, c.Uplink),
		local: model.Local{Devices: map[model.Key]model.Device{}, Gateways: gateways, Identities: model.NewAllocator()},
	}
	for pod, device := range w.Devices("") {
		p.local.Devices[p.key(pod)] = device
	}
	p.referee = scenarios.NewReferee(c.topology(), p.local.Devices, w.Datapath(""))
	if c.Uplink {
		p.local.Uplinks, p.local.Options = w.Uplinks(""), c.Options
		p.referee.Oracle().SetNetwork(p.objs, p.local)
	}
	p.referee.Doubt = plant.doubt
	return p, p.change(ctx, &Change{})
}

// errRefused is a change that cannot be made: what it takes away is not there,
// or what it leaves does not compile.
var errRefused = errors.New("the change cannot be made")

// change makes program and model know other objects. errRefused leaves both
// as they were.
func (p *player) change(ctx context.Context, c *Change) error {
	objs := p.objs.Clone()
	if err := c.to(objs); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	meant, err := p.meant(objs)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	state, _, err := compile.All(manifest.DeriveEndpointSlices(meant), nodeName, p.local)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if _, err := p.world.Apply(ctx, "", state); err != nil {
		return fmt.Errorf("change objects: %w", err)
	}
	p.tell(meant)
	p.objs = objs
	return nil
}

// renew gives a pod another interface, if it has one.
func (p *player) renew(ctx context.Context, pod string) error {
	key := p.key(pod)
	if _, its := p.local.Devices[key]; !its {
		return nil
	}
	device, err := p.world.Renew(pod)
	if err != nil {
		return err
	}
	p.local.Devices[key] = device
	if err := p.change(ctx, &Change{}); !errors.Is(err, errRefused) {
		return err
	}
	return nil
}

// ran is what became of a frame. Out is good until the next frame.
type ran struct {
	decision datapath.Decision
	out      []byte
	finding  *Finding
}

// frame passes a frame through its hook, and has it judged.
func (p *player) frame(f *Frame) (ran, error) {
	now, at := p.world.Now(), p.where(f.At)
	p.referee.Look(at, f.Data, now)
	got, faults, err := p.world.Pass("", f.At.Hook, f.Data, p.ifindex(f.At))
	if errors.Is(err, datapath.ErrSum) {
		return ran{finding: &Finding{Kind: "harm at " + string(f.At.Hook) + ": " + datapath.ErrSum.Error(), Where: f.At,
			Problems: []string{datapath.ErrSum.Error(), "sent: " + frame.Line(f.Data)}, Frame: f.Data}}, nil
	}
	var contradiction *datapath.Contradiction
	if err != nil && !errors.As(err, &contradiction) {
		return ran{}, err
	}
	step := lab.Step{
		Hook: at.Hook, Endpoint: at.Endpoint,
		Decision: got.Decision, Contradiction: contradiction, In: f.Data, Out: got.Data,
	}
	r := ran{decision: got.Decision, out: got.Data}
	var to model.Device
	if got.Decision.Out == model.OutLocal {
		_, to = p.behind(got.Decision.Ifindex)
	}
	problem := harm(step, to, p.local.Options.Tunnel)
	if problem == "" && len(faults) > 0 {
		problem = strings.Join(faults, "; ")
	}
	if disagreed := p.referee.Step(step, now); len(disagreed) > 0 {
		r.finding = p.disagreement(f, step, disagreed)
	} else if problem != "" {
		r.finding = &Finding{Kind: "harm at " + string(f.At.Hook) + ": " + withoutDigits(problem), Where: f.At,
			Problems: []string{problem, "sent: " + frame.Line(f.Data), "left: " + frame.Line(got.Data)}, Frame: f.Data}
	}
	if p.played++; r.finding == nil && p.played >= p.every {
		p.played = 0
		r.finding, err = p.count(f)
		return r, err
	}
	return r, nil
}

// count looks at the counters, after a frame.
func (p *player) count(f *Frame) (*Finding, error) {
	faults, err := p.world.Counted("")
	if err != nil || len(faults) == 0 {
		return nil, err
	}
	return &Finding{Kind: withoutDigits(faults[0]), Where: f.At, Problems: faults, Frame: f.Data}, nil
}

// ifindex is that of the device that has a hook.
func (p *player) ifindex(at model.Where) int {
	if at.Hook == model.FromDevice || at.Hook == model.ToDevice {
		return p.local.Uplinks[0].Ifindex
	}
	return p.local.Devices[p.key(at.Endpoint)].Ifindex
}

// behind finds the pod that a device leads to.
func (p *player) behind(ifindex int) (string, model.Device) {
	for name, d := range p.local.Devices {
		if d.Ifindex == ifindex {
			return slotOf(name), d
		}
	}
	return "", model.Device{}
}

func (p *player) disagreement(f *Frame, s lab.Step, all []scenarios.Disagreement) *Finding {
	e := p.referee.Expected()
	out := &Finding{Where: f.At, Expected: e, Frame: f.Data}
	out.Kind = fmt.Sprintf("%s: program %s %s, model %s", f.At.Hook, s.Decision.Action, s.Decision.Reason, e.Action)
	if s.Contradiction != nil {
		out.Kind = "contradiction: " + withoutDigits(s.Contradiction.Error())
	}
	reasons := e.Reasons
	if told, sure := e.Telling(); sure {
		reasons = []model.Reason{told}
	}
	texts := make([]string, len(reasons))
	for i, r := range reasons {
		texts[i] = string(r)
	}
	out.Kind = strings.TrimSpace(out.Kind + " " + strings.Join(texts, ","))
	if all[0].Entry != "" {
		out.Kind = string(f.At.Hook) + ": " + withoutDigits(all[0].Entry)
	}
	for _, d := range all {
		out.Problems = append(out.Problems, d.String())
	}
	return out
}

func withoutDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// step plays any step. A change that does not compile is none.
func (p *player) step(ctx context.Context, s *Step) (*Finding, error) {
	switch {
	case s.Frame != nil:
		r, err := p.frame(s.Frame)
		if errors.Is(err, datapath.ErrNotDeliverable) {
			return nil, nil
		}
		return r.finding, err
	case s.Change != nil:
		if err := p.change(ctx, s.Change); err != nil && !errors.Is(err, errRefused) {
			return nil, err
		}
		return nil, nil
	case s.Renew != "":
		return nil, p.renew(ctx, s.Renew)
	case s.Collect:
		if err := p.world.Collect(ctx); err != nil {
			return nil, err
		}
		p.referee.Oracle().Collect(p.world.Now())
		return nil, nil
	}
	return nil, p.world.Advance(ctx, s.Advance)
}

// replay plays a case in a world of its own, up to the first finding.
func replay(ctx context.Context, pool *prog.Pool, c *Case, plant planted) (*Finding, error) {
	var found *Finding
	var played error
	err := pool.Use(ctx, c.topology(), func(w *prog.World) {
		var p *player
		if p, played = newPlayer(ctx, c, w, plant); played != nil {
			return
		}
		p.every = 1
		for i := range c.Steps {
			if found, played = p.step(ctx, &c.Steps[i]); found != nil || played != nil {
				return
			}
		}
	})
	return found, errors.Join(err, played)
}

// nodes are the addresses of nodes that objects tell.
func (p *player) nodes() []string {
	var out []string
	for _, n := range p.objs.Nodes {
		for _, a := range n.Status.Addresses {
			out = append(out, a.Address)
		}
	}
	slices.Sort(out)
	return out
}
