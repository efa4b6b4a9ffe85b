// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// shrinker makes a case smaller, as long as it ends in a finding of the same
// kind.
type shrinker struct {
	pool  *prog.Pool
	plant planted
	kind  string

	patience time.Duration // 0: the usual one
	deadline time.Time
	best     *Case
	finding  *Finding // of best
	err      error
}

// usualPatience is how long one finding is shrunk.
const usualPatience = 20 * time.Second

// shrink gives the smallest case that it finds. The finding is nil when the
// case does not show it again.
func (s *shrinker) shrink(ctx context.Context, c *Case) (*Case, *Finding, error) {
	if s.patience == 0 {
		s.patience = usualPatience
	}
	s.deadline = time.Now().Add(s.patience)
	s.best = c
	if !s.try(ctx, c) {
		return c, nil, s.err
	}
	for round := 0; round < 5 && !s.over(ctx); round++ {
		size := s.best.size()
		s.steps(ctx)
		s.together(ctx)
		s.pods(ctx)
		s.options(ctx)
		s.objects(ctx)
		s.details(ctx)
		s.frames(ctx)
		if s.best.size() == size {
			break
		}
	}
	return s.best, s.finding, s.err
}

func (s *shrinker) over(ctx context.Context) bool {
	return s.err != nil || ctx.Err() != nil || time.Now().After(s.deadline)
}

// try keeps a case that still shows the finding.
func (s *shrinker) try(ctx context.Context, c *Case) bool {
	if s.over(ctx) {
		return false
	}
	found, err := replay(ctx, s.pool, c, s.plant)
	if err != nil {
		if ctx.Err() == nil {
			s.err = err
		}
		return false
	}
	if found == nil || found.Kind != s.kind {
		return false
	}
	s.best, s.finding = c, found
	return true
}

// size measures a case: fewer steps, objects and octets are smaller.
func (c *Case) size() int {
	n := 0
	for _, step := range c.Steps {
		n += 1000
		switch {
		case step.Frame != nil:
			n += len(step.Frame.Data)
		case step.Change != nil:
			for _, o := range step.Change.Upsert {
				n += 200 + sizeOf(o)
			}
			n += 200 * len(step.Change.Delete)
		}
	}
	return n
}

// with is a copy whose steps are others.
func (c *Case) with(steps []Step) *Case {
	copied := *c
	copied.Steps = steps
	return &copied
}

// steps drops runs of steps: halves, then smaller ones, down to single steps.
func (s *shrinker) steps(ctx context.Context) {
	for n := len(s.best.Steps) / 2; n >= 1; n /= 2 {
		for at := len(s.best.Steps) - n; at >= 0 && !s.over(ctx); at -= n {
			if at+n > len(s.best.Steps) {
				continue
			}
			s.try(ctx, s.best.with(slices.Delete(slices.Clone(s.best.Steps), at, at+n)))
		}
	}
}

// together makes changes at once that were made one after the other, so that a
// flow which was judged anew may be one that was judged so from the first.
func (s *shrinker) together(ctx context.Context) {
	for at := len(s.best.Steps) - 1; at > 0 && !s.over(ctx); at-- {
		if at >= len(s.best.Steps) || !s.best.Steps[at].puts() {
			continue
		}
		for before := at - 1; before >= 0; before-- {
			if s.best.Steps[before].puts() {
				s.try(ctx, s.best.merged(before, at))
				break
			}
		}
	}
}

// puts is whether a step puts objects somewhere, and takes none away.
func (s *Step) puts() bool { return s.Change != nil && len(s.Change.Delete) == 0 }

// merged gives a copy in which one change is part of another.
func (c *Case) merged(into, at int) *Case {
	later := c.Steps[at].Change.Upsert
	replaced := func(o metav1.Object) bool {
		return slices.ContainsFunc(later, func(by metav1.Object) bool {
			return reflect.TypeOf(o) == reflect.TypeOf(by) && o.GetNamespace() == by.GetNamespace() && o.GetName() == by.GetName()
		})
	}
	kept := slices.DeleteFunc(slices.Clone(c.Steps[into].Change.Upsert), replaced)
	merged := c.change(into, Change{Upsert: slices.Concat(kept, later)})
	merged.Steps = slices.Delete(merged.Steps, at, at+1)
	return merged
}

// pods drops the last slots.
func (s *shrinker) pods(ctx context.Context) {
	for n := len(s.best.Pods) - 1; n > 0; n-- {
		gone := s.best.Pods[n]
		for _, step := range s.best.Steps {
			if step.Frame != nil && step.Frame.At.Endpoint == gone {
				return
			}
		}
		fewer := *s.best
		if fewer.Pods = s.best.Pods[:n]; !s.try(ctx, &fewer) {
			return
		}
	}
}

// options leaves what an operator chose to what is chosen without him.
func (s *shrinker) options(ctx context.Context) {
	for _, plain := range []func(*model.Options){
		func(o *model.Options) { o.Masquerade, o.MasqueradeExcluded, o.FirstPort, o.LastPort = false, nil, 0, 0 },
		func(o *model.Options) { o.MasqueradeExcluded = nil },
		func(o *model.Options) { o.FirstPort, o.LastPort = 0, 0 },
		func(o *model.Options) { o.Algorithm, o.MaglevSize = "", 0 },
		func(o *model.Options) { o.NodePortAddresses = nil },
		func(o *model.Options) { o.Return, o.Tunnel = "", "" },
	} {
		copied := *s.best
		plain(&copied.Options)
		if !reflect.DeepEqual(copied.Options, s.best.Options) {
			s.try(ctx, &copied)
		}
	}
}

// change gives a copy in which one step's change is another.
func (c *Case) change(at int, to Change) *Case {
	steps := slices.Clone(c.Steps)
	steps[at].Change = &to
	return c.with(steps)
}

// objects drops objects from changes.
func (s *shrinker) objects(ctx context.Context) {
	for at := 0; at < len(s.best.Steps); at++ {
		if s.best.Steps[at].Change == nil {
			continue
		}
		for i := len(s.best.Steps[at].Change.Upsert) - 1; i >= 0; i-- {
			c := *s.best.Steps[at].Change
			c.Upsert = slices.Delete(slices.Clone(c.Upsert), i, i+1)
			s.try(ctx, s.best.change(at, c))
		}
	}
}

// details drops parts of objects: rules, peers, ports, labels, addresses.
func (s *shrinker) details(ctx context.Context) {
	for at := range s.best.Steps {
		if s.best.Steps[at].Change == nil {
			continue
		}
		for i := range s.best.Steps[at].Change.Upsert {
			s.lighter(ctx, at, i)
		}
	}
}

// lighter tries an object with one part less, again and again.
func (s *shrinker) lighter(ctx context.Context, at, i int) {
	for n := 0; !s.over(ctx); {
		c := *s.best.Steps[at].Change
		o, ok := without(c.Upsert[i], n)
		if !ok {
			return
		}
		c.Upsert = slices.Clone(c.Upsert)
		c.Upsert[i] = o
		if !s.try(ctx, s.best.change(at, c)) {
			n++
		}
	}
}

func copyObject(o metav1.Object) metav1.Object {
	return o.(runtime.Object).DeepCopyObject().(metav1.Object)
}

// cuts collects what can be taken out of an object.
type cuts []func()

func cut[T any](c *cuts, list *[]T) {
	for i := range *list {
		*c = append(*c, func() { *list = slices.Delete(*list, i, i+1) })
	}
}

// without gives a copy of an object without its n-th part; false when it has
// no such part.
func without(o metav1.Object, n int) (metav1.Object, bool) {
	if isOtherPolicy(o) {
		return withoutText(o, n)
	}
	var c cuts
	copied := copyObject(o)
	labels := copied.GetLabels()
	for _, key := range sortedKeys(labels) {
		if key != discoveryv1.LabelServiceName {
			c = append(c, func() { delete(labels, key) })
		}
	}
	annotations := copied.GetAnnotations()
	for _, key := range []string{manifest.AnnotationAudit, manifest.AnnotationDeniedIngress, manifest.AnnotationDeniedEgress} {
		if annotations[key] != "" {
			c = append(c, func() { delete(annotations, key) })
		}
	}
	switch o := copied.(type) {
	case *corev1.Pod:
		cut(&c, &o.Spec.Containers[0].Ports)
		if len(o.Status.PodIPs) > 1 {
			cut(&c, &o.Status.PodIPs)
		}
	case *corev1.Service:
		cut(&c, &o.Spec.Ports)
		cutOutside(&c, o)
	case *discoveryv1.EndpointSlice:
		cut(&c, &o.Endpoints)
		cut(&c, &o.Ports)
	case *networkingv1.NetworkPolicy:
		cutPolicy(&c, o)
	}
	if n >= len(c) {
		return nil, false
	}
	c[n]()
	if p, ok := copied.(*corev1.Pod); ok {
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	return copied, true
}

// cutOutside cuts how outsiders reach a service, and how backends are chosen.
func cutOutside(c *cuts, s *corev1.Service) {
	cut(c, &s.Spec.ExternalIPs)
	cut(c, &s.Spec.LoadBalancerSourceRanges)
	cut(c, &s.Status.LoadBalancer.Ingress)
	if s.Spec.SessionAffinity != "" {
		*c = append(*c, func() { s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = "", nil })
	}
	if s.Spec.ExternalTrafficPolicy != "" {
		*c = append(*c, func() { s.Spec.ExternalTrafficPolicy = "" })
	}
	if s.Spec.InternalTrafficPolicy != nil {
		*c = append(*c, func() { s.Spec.InternalTrafficPolicy = nil })
	}
	if s.Annotations != nil {
		*c = append(*c, func() { s.Annotations = nil })
	}
}

func cutPolicy(c *cuts, p *networkingv1.NetworkPolicy) {
	cut(c, &p.Spec.Ingress)
	cut(c, &p.Spec.Egress)
	for i := range p.Spec.Ingress {
		cut(c, &p.Spec.Ingress[i].From)
		cut(c, &p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		cut(c, &p.Spec.Egress[i].To)
		cut(c, &p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) > 1 {
		cut(c, &p.Spec.PolicyTypes)
	}
	if len(p.Spec.PodSelector.MatchLabels)+len(p.Spec.PodSelector.MatchExpressions) > 0 {
		*c = append(*c, func() { p.Spec.PodSelector = metav1.LabelSelector{} })
	}
}

// sizeOf counts the parts of an object.
func sizeOf(o metav1.Object) int {
	n := 0
	for {
		if _, ok := without(o, n); !ok {
			return n
		}
		n++
	}
}

// frames makes frames shorter and plainer.
func (s *shrinker) frames(ctx context.Context) {
	for at := range s.best.Steps {
		if s.best.Steps[at].Frame == nil {
			continue
		}
		for _, simpler := range []func([]byte) [][]byte{payloadless, plainer, shorter} {
			for _, data := range simpler(s.best.Steps[at].Frame.Data) {
				if !s.over(ctx) && !bytes.Equal(data, s.best.Steps[at].Frame.Data) {
					s.try(ctx, s.best.sending(at, data))
				}
			}
		}
	}
}

// sending gives a copy in which one frame has other bytes.
func (c *Case) sending(at int, data []byte) *Case {
	steps := slices.Clone(c.Steps)
	steps[at].Frame = &Frame{At: steps[at].Frame.At, Data: data}
	return c.with(steps)
}

// payloadless are frames built anew without payload, padding and options.
func payloadless(data []byte) [][]byte {
	layers := frame.Decode(data).Layers()
	drop := func(kinds ...string) []byte {
		kept := slices.DeleteFunc(slices.Clone(layers), func(l frame.Layer) bool { return slices.Contains(kinds, l.Kind) })
		for i, l := range kept {
			for _, name := range []string{"length", "checksum", "ihl", "offset"} {
				l.Fields = slices.DeleteFunc(slices.Clone(l.Fields), func(f frame.Field) bool { return f.Name == name && l.Kind != "fragment" })
			}
			kept[i] = l
		}
		out, err := frame.Build(kept...)
		if err != nil || len(out) > len(data) {
			return nil
		}
		return out
	}
	var out [][]byte
	for _, kinds := range [][]string{{"payload", "padding"}, {"padding"}, {"payload", "padding", "hopopts", "destopts", "routing", "fragment"}} {
		if b := drop(kinds...); b != nil {
			out = append(out, b)
		}
	}
	return out
}

// plainer are frames in which a field has the value that it mostly has.
func plainer(data []byte) [][]byte {
	p := frame.Decode(data)
	var out [][]byte
	set := func(at int, b ...byte) {
		if at >= 0 && at+len(b) <= len(data) {
			c := bytes.Clone(data)
			copy(c[at:], b)
			out = append(out, c)
		}
	}
	switch p.Version {
	case 4:
		set(p.L3+1, 0)
		set(p.L3+4, 0, 0)
		set(p.L3+6, 0, 0)
		set(p.L3+8, 64)
	case 6:
		set(p.L3, 0x60, 0, 0, 0)
		set(p.L3+7, 64)
	}
	for _, c := range slices.Clone(out) {
		out = append(out, mend(bytes.Clone(c)))
	}
	return append(out, mend(bytes.Clone(data)))
}

// shorter are frames with less at their end.
func shorter(data []byte) [][]byte {
	var out [][]byte
	for _, n := range []int{34, 54, 64, 74, 100, len(data) / 2, len(data) - 8, len(data) - 1} {
		if n >= 14 && n < len(data) {
			out = append(out, data[:n])
		}
	}
	return out
}
