// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios/syntax"
)

// compile makes the datapath and the model know the objects as they are now.
func (p *play) compile(ctx context.Context) error {
	if w, ok := p.world.(reconciler); ok {
		if err := w.Reconcile(ctx, p.objects); err != nil {
			return labError(err)
		}
		return nil
	}
	derived := manifest.DeriveEndpointSlices(p.objects)
	for i, n := range p.topology.Nodes {
		state, _, err := compile.All(derived, n.Name, p.locals[i])
		if err != nil {
			return mismatch("the objects do not compile: %v", err)
		}
		if _, err := p.world.Apply(ctx, n.Name, state); err != nil {
			return labError(err)
		}
	}
	// The oracles are given what was written, not what was derived from it.
	for i, b := range p.judge.benches {
		b.oracle.SetNetwork(p.objects.Clone(), p.locals[i])
	}
	return nil
}

// address is Scenario's, but for a service that has another one by now than the
// last file says. One that is gone, or has none, is where that file has it.
func (p *play) address(name string, family syntax.Family) (netip.Addr, error) {
	service := name
	if balanced := syntax.BalancedService(name); balanced != "" {
		service = balanced
	}
	if svc, namespace, ok := strings.Cut(service, "."); ok {
		if now := p.objects.Services[namespace+"/"+svc]; now != nil && p.services[service] != nil {
			if a, err := p.addressAmong(map[string]*corev1.Service{service: now}, name, family); err == nil {
				return a, nil
			}
		}
	}
	return p.Scenario.address(name, family)
}

// Apply makes objects, or changes those that are there.
func (p *play) Apply(ctx context.Context, v *syntax.Apply) error {
	for _, f := range v.Files {
		p.objects.Merge(p.attached[f])
	}
	return p.compile(ctx)
}

// Update changes objects that are there.
func (p *play) Update(ctx context.Context, v *syntax.Update) error {
	for _, f := range v.Files {
		before := p.objects.Len()
		p.objects.Merge(p.attached[f])
		if n := p.objects.Len() - before; n > 0 {
			return mismatch("%s has %d objects that are not there yet: apply it, or correct their names", f, n)
		}
	}
	return p.compile(ctx)
}

// Delete removes objects.
func (p *play) Delete(ctx context.Context, v *syntax.Delete) error {
	for _, o := range v.Objects {
		if err := p.objects.Delete(o.Kind, o.Namespace, o.Name); err != nil {
			if errors.Is(err, manifest.ErrNotFound) {
				return mismatch("there is no %s to delete at this step", o)
			}
			return mismatch("%v", err)
		}
	}
	return p.compile(ctx)
}

// Label sets and removes labels.
func (p *play) Label(ctx context.Context, v *syntax.Label) error {
	change := func(old map[string]string) map[string]string {
		out := map[string]string{}
		maps.Copy(out, old)
		maps.Copy(out, v.Set)
		for _, key := range v.Remove {
			delete(out, key)
		}
		return out
	}
	switch v.Object.Kind {
	case "namespace":
		ns, ok := p.objects.Namespaces[v.Object.Name]
		if !ok {
			return mismatch("there is no %s at this step", v.Object)
		}
		ns = ns.DeepCopy()
		ns.Labels = change(ns.Labels)
		p.objects.Namespaces[ns.Name] = ns
	default:
		key := v.Object.Namespace + "/" + v.Object.Name
		pod, ok := p.objects.Pods[key]
		if !ok {
			return mismatch("there is no %s at this step", v.Object)
		}
		pod = pod.DeepCopy()
		pod.Labels = change(pod.Labels)
		p.objects.Pods[key] = pod
	}
	return p.compile(ctx)
}

// Terminate marks a pod as being deleted.
func (p *play) Terminate(ctx context.Context, v *syntax.Terminate) error {
	o := v.Pod
	key := o.Namespace + "/" + o.Name
	pod, ok := p.objects.Pods[key]
	if !ok {
		return mismatch("there is no %s at this step", o)
	}
	pod = pod.DeepCopy()
	now := metav1.NewTime(time.Unix(1_700_000_000, 0))
	pod.DeletionTimestamp = &now
	p.objects.Pods[key] = pod
	return p.compile(ctx)
}

// renewer is a world that can give a pod another interface.
type renewer interface {
	Renew(pod string) (model.Device, error)
}

// Renew gives a pod another interface.
func (p *play) Renew(ctx context.Context, v *syntax.Renew) error {
	name := v.Pod.Namespace + "/" + v.Pod.Name
	w, ok := p.world.(renewer)
	if !ok {
		return labError(fmt.Errorf("renew %s: the world has one interface for each pod", name))
	}
	device, err := w.Renew(name)
	if err != nil {
		return labError(err)
	}
	for _, local := range p.locals {
		key := model.Key{Namespace: v.Pod.Namespace, Name: v.Pod.Name}
		if _, its := local.Devices[key]; its {
			local.Devices[key] = device
		}
	}
	return p.compile(ctx)
}

// Advance moves the clock.
func (p *play) Advance(ctx context.Context, v *syntax.Advance) error {
	if err := p.world.Advance(ctx, v.By); err != nil {
		return labError(err)
	}
	return nil
}

// Collect runs the collector.
func (p *play) Collect(ctx context.Context, _ *syntax.Collect) error {
	if err := p.world.Collect(ctx); err != nil {
		return labError(err)
	}
	for _, b := range p.judge.benches {
		b.oracle.Collect(p.world.Now())
	}
	return nil
}
