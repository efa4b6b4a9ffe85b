// SPDX-License-Identifier: Apache-2.0

// Package watch writes the objects of a cluster that a datapath is made from
// into tables, by watching its API.
//
// It decides nothing about them. Its one invariant: what the tables have is what
// the API said last, of every kind that it has, once WaitForSync has returned.
package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weirnet/weir/agent/inputs"
	"github.com/weirnet/weir/model/manifest"
)

// Watcher follows a cluster's objects. Its methods may be called by several
// goroutines.
type Watcher struct {
	changed func()
	tables  *inputs.Inputs
	core    informers.SharedInformerFactory
	syncs   []cache.InformerSynced
	custom  *customKinds

	mu     sync.Mutex
	errors map[string]watchError
}

type watchError struct {
	err         error
	since, last time.Time
}

// resync is never: nobody forgets what he was told.
const resync = 0

// New makes a Watcher that has not begun. changed is called, by any goroutine,
// after something has; it must not block.
func New(client kubernetes.Interface, custom dynamic.Interface, changed func()) (*Watcher, error) {
	w := &Watcher{changed: changed, tables: inputs.New(), errors: map[string]watchError{}}
	w.core = informers.NewSharedInformerFactoryWithOptions(client, resync, informers.WithTransform(withoutBallast))
	for _, resource := range builtin() {
		generic, err := w.core.ForResource(resource)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", resource.Resource, err)
		}
		told, err := w.follow(resource.Resource, generic.Informer(), w.put, w.drop)
		if err != nil {
			return nil, err
		}
		w.syncs = append(w.syncs, told.HasSynced)
	}
	w.custom = newCustomKinds(w, custom)
	return w, nil
}

// follow has the watcher told of a kind's objects and failures: put of those that
// come or change, drop of those that go.
func (w *Watcher) follow(kind string, informer cache.SharedIndexInformer, put, drop func(any)) (cache.ResourceEventHandlerRegistration, error) {
	told, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { w.good(kind); put(object) },
		UpdateFunc: func(old, current any) {
			w.good(kind)
			if !isTheSame(old, current) {
				put(current)
			}
		},
		DeleteFunc: func(object any) {
			w.good(kind)
			if last, missed := object.(cache.DeletedFinalStateUnknown); missed {
				object = last.Obj
			}
			drop(object)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", kind, err)
	}
	err = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		w.bad(kind, err)
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", kind, err)
	}
	return told, nil
}

// put writes an object of a kind that every cluster has.
func (w *Watcher) put(object any) {
	if o, ok := object.(metav1.Object); ok && w.tables.Put(o) == nil {
		w.changed()
	}
}

func (w *Watcher) drop(object any) {
	if o, ok := object.(metav1.Object); ok && w.tables.Delete(manifest.RefOf(o)) {
		w.changed()
	}
}

// isTheSame is whether a change cannot matter: a node tells that it lives every
// few seconds, and nothing else.
func isTheSame(old, current any) bool {
	switch now := current.(type) {
	case *corev1.Node:
		before, ok := old.(*corev1.Node)
		return ok && sameNode(before, now)
	case *corev1.Pod:
		before, ok := old.(*corev1.Pod)
		return ok && sameButForVersion(before, now)
	case *corev1.Service:
		before, ok := old.(*corev1.Service)
		return ok && sameButForVersion(before, now)
	case *discoveryv1.EndpointSlice:
		before, ok := old.(*discoveryv1.EndpointSlice)
		return ok && sameButForVersion(before, now)
	}
	return false
}

// sameButForVersion leaves out by what the API tells versions of an object apart.
func sameButForVersion[T any, P interface {
	*T
	metav1.Object
}](a, b P) bool {
	x, y := *a, *b
	for _, object := range []metav1.Object{P(&x), P(&y)} {
		object.SetResourceVersion("")
		object.SetGeneration(0)
	}
	return reflect.DeepEqual(x, y)
}

func sameNode(a, b *corev1.Node) bool {
	return a.UID == b.UID && a.CreationTimestamp.Equal(&b.CreationTimestamp) && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) &&
		slices.Equal(a.Status.Addresses, b.Status.Addresses) &&
		a.Status.DaemonEndpoints == b.Status.DaemonEndpoints && isReady(a) == isReady(b)
}

// isReady is whether a Node's machine lives, as the cluster has it.
func isReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (w *Watcher) bad(kind string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := time.Now()
	if old, found := w.errors[kind]; found {
		since = old.since
	}
	w.errors[kind] = watchError{err, since, time.Now()}
}

func (w *Watcher) good(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.errors, kind)
}

// Errors are the kinds that cannot be watched now, and since when.
func (w *Watcher) Errors() (errs map[string]error, since map[string]time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs, since = map[string]error{}, map[string]time.Time{}
	for kind, e := range w.errors {
		// An API server that restarts, or ends a watch after its time, is
		// asked again within seconds.
		if e.last.Sub(e.since) > errorPatience && time.Since(e.last) < 2*errorPatience {
			errs[kind], since[kind] = fmt.Errorf("watch %s: %w", kind, e.err), e.since
		}
	}
	return errs, since
}

const errorPatience = 30 * time.Second

// withoutBallast takes off what is large and says nothing to a datapath: of a
// cluster's pods, whose number bounds the memory of every node's agent, little
// is left but names, labels, ports and addresses.
func withoutBallast(obj any) (any, error) {
	if object, err := meta.Accessor(obj); err == nil {
		object.SetManagedFields(nil)
	}
	switch object := obj.(type) {
	case *corev1.Pod:
		object.Spec = corev1.PodSpec{
			NodeName: object.Spec.NodeName, HostNetwork: object.Spec.HostNetwork, ServiceAccountName: object.Spec.ServiceAccountName,
			Containers: portsOf(object.Spec.Containers), InitContainers: portsOf(object.Spec.InitContainers),
		}
		object.Status = corev1.PodStatus{
			Phase: object.Status.Phase, Conditions: object.Status.Conditions,
			HostIP: object.Status.HostIP, HostIPs: object.Status.HostIPs, PodIP: object.Status.PodIP, PodIPs: object.Status.PodIPs,
		}
	case *corev1.Node:
		object.Status.Images, object.Status.VolumesAttached, object.Status.VolumesInUse = nil, nil, nil
	}
	return obj, nil
}

func portsOf(containers []corev1.Container) []corev1.Container {
	var light []corev1.Container
	for i := range containers {
		c := &containers[i]
		light = append(light, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return light
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	w.core.Start(ctx.Done())
	w.custom.run(ctx)
	w.core.Shutdown()
}

// WaitForSync waits until everything that the API has was read once.
func (w *Watcher) WaitForSync(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), append(w.syncs, w.custom.hasSynced)...) {
		return errors.Join(fmt.Errorf("read the cluster's objects: %w", context.Cause(ctx)), w.firstError())
	}
	return nil
}

func (w *Watcher) firstError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(w.errors)) {
		return fmt.Errorf("watch %s: %w", kind, w.errors[kind].err)
	}
	return nil
}

// Inputs are the tables that are written.
func (w *Watcher) Inputs() *inputs.Inputs { return w.tables }
