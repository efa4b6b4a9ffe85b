// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// source follows the objects.
type source struct {
	registry *Registry
	informer cache.SharedIndexInformer
	told     cache.ResourceEventHandlerRegistration

	mu        sync.Mutex
	disturbed time.Time // when the API was last not there; zero: never
}

func newSource(r *Registry) (*source, error) {
	s := &source{registry: r}
	asks := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := r.client.List(ctx, o)
			return list, s.heard(err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := r.client.Watch(ctx, o)
			return w, s.heard(err)
		},
	}
	s.informer = cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(asks, r.opts.Client), &unstructured.Unstructured{}, 0, cache.Indexers{})
	told, err := s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.put(obj) },
		UpdateFunc: func(_, obj any) { s.put(obj) },
		DeleteFunc: func(obj any) { s.remove(obj) },
	})
	s.told = told
	// Failures are kept by heard; a watch that breaks is told here alone.
	err = errors.Join(err, s.informer.SetTransform(toRecord), s.informer.SetWatchErrorHandlerWithContext(
		func(context.Context, *cache.Reflector, error) { s.disturb() }))
	if err != nil {
		return nil, fmt.Errorf("watch %s.%s: %w", Plural, Group, err)
	}
	return s, nil
}

func (s *source) synced() bool { return s.told.HasSynced() }

// heard keeps how the API answered.
func (s *source) heard(err error) error {
	if !errors.Is(err, context.Canceled) {
		s.registry.note(watching, err)
	}
	if err != nil {
		s.disturb()
	}
	return err
}

func (s *source) disturb() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disturbed = time.Now()
}

// calm says whether the API has been there for a time.
func (s *source) calm(least time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disturbed.IsZero() || time.Since(s.disturbed) >= least
}

func (s *source) put(obj any) {
	if r, ok := obj.(*record); ok && r.number.IsShared() && s.registry.take(r) {
		s.registry.opts.Changed()
	}
}

func (s *source) remove(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if r, ok := obj.(*record); ok && r.number.IsShared() && s.registry.lose(r) {
		s.registry.opts.Changed()
	}
	// Who has such a pod makes it anew.
	s.registry.wake()
}

func asRecord(object *unstructured.Unstructured) (*record, error) {
	obj, err := toRecord(object)
	if err != nil {
		return nil, err
	}
	r, ok := obj.(*record)
	if !ok {
		return nil, fmt.Errorf("read identity %q: it is a %T", object.GetName(), obj)
	}
	return r, nil
}
