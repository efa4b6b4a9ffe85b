// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// customKinds watches the kinds of policies that a cluster may have, as soon
// as it has them, and until it does not any more.
type customKinds struct {
	watcher     *Watcher
	client      dynamic.Interface
	definitions cache.SharedIndexInformer

	mu       sync.Mutex
	running  map[string]*customKind // by name of the definition
	complete bool                   // all definitions that there were at the start are running
}

// customKind is a kind that is watched. It is written with mu held.
type customKind struct {
	version string
	told    cache.ResourceEventHandlerRegistration
	stop    context.CancelFunc
	ended   bool               // the last of it may still be told
	rows    map[model.Ref]bool // what it has written
}

// customResource is a kind, and the versions in which it is read: the first that a
// cluster has. What is written in another comes in that one too.
type customResource struct {
	group, resource string
	versions        []string
}

func (r *customResource) in(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.group, Version: version, Resource: r.resource}
}

// customResources are the kinds, by name of their definition.
func customResources() map[string]customResource {
	return map[string]customResource{
		"ciliumnetworkpolicies.cilium.io":                 {"cilium.io", "ciliumnetworkpolicies", []string{"v2"}},
		"ciliumclusterwidenetworkpolicies.cilium.io":      {"cilium.io", "ciliumclusterwidenetworkpolicies", []string{"v2"}},
		"clusternetworkpolicies.policy.networking.k8s.io": {"policy.networking.k8s.io", "clusternetworkpolicies", []string{"v1beta1", "v1alpha2"}},
	}
}

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func newCustomKinds(w *Watcher, client dynamic.Interface) *customKinds {
	return &customKinds{
		watcher: w, client: client,
		definitions: dynamicinformer.NewFilteredDynamicInformer(client, definitionResource, metav1.NamespaceAll, resync, cache.Indexers{}, nil).Informer(),
		running:     map[string]*customKind{},
	}
}

func (c *customKinds) run(ctx context.Context) {
	var kinds sync.WaitGroup
	news := make(chan struct{}, 1)
	tell := func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	_, err := c.definitions.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { tell() },
		UpdateFunc: func(any, any) { tell() },
		DeleteFunc: func(any) { tell() },
	})
	err = errors.Join(err, c.definitions.SetTransform(onlyVersions), c.definitions.SetWatchErrorHandlerWithContext(
		func(_ context.Context, _ *cache.Reflector, err error) {
			c.watcher.bad("customresourcedefinitions", err)
		}))
	if err != nil {
		c.watcher.bad("customresourcedefinitions", err)
	}
	kinds.Go(func() { c.definitions.RunWithContext(ctx) })
	kinds.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), c.definitions.HasSynced) {
			tell()
		}
	})
	for {
		select {
		case <-ctx.Done():
			kinds.Wait()
			return
		case <-news:
			c.adjust(ctx, &kinds)
		}
	}
}

// adjust begins with kinds that the cluster has, and ends with those that it
// has not.
func (c *customKinds) adjust(ctx context.Context, kinds *sync.WaitGroup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, resource := range customResources() {
		version, running := c.served(name, resource.versions), c.running[name]
		if running != nil && running.version != version {
			c.end(running)
			delete(c.running, name)
			c.watcher.good(resource.resource)
			running = nil
		}
		if version == "" || running != nil {
			continue
		}
		kind, err := c.start(ctx, resource.in(version), kinds)
		if err != nil {
			c.watcher.bad(resource.resource, err)
			continue
		}
		c.running[name] = kind
	}
	c.complete = c.complete || c.definitions.HasSynced()
}

func (c *customKinds) start(ctx context.Context, resource schema.GroupVersionResource, kinds *sync.WaitGroup) (*customKind, error) {
	kind := &customKind{version: resource.Version, rows: map[model.Ref]bool{}}
	informer := dynamicinformer.NewFilteredDynamicInformer(c.client, resource, metav1.NamespaceAll, resync, cache.Indexers{}, nil).Informer()
	if err := informer.SetTransform(withoutBallast); err != nil {
		return nil, err
	}
	var err error
	kind.told, err = c.watcher.follow(resource.Resource, informer,
		func(object any) { c.put(kind, object) }, func(object any) { c.drop(kind, object) })
	if err != nil {
		return nil, err
	}
	ctx, kind.stop = context.WithCancel(ctx)
	kinds.Go(func() { informer.RunWithContext(ctx) })
	return kind, nil
}

// end is called with mu held.
func (c *customKinds) end(kind *customKind) {
	kind.stop()
	kind.ended = true
	for ref := range kind.rows {
		c.erase(ref)
	}
	c.watcher.changed()
}

// put writes an object, or what is wrong with it.
func (c *customKinds) put(kind *customKind, object any) {
	o, ok := object.(*unstructured.Unstructured)
	if !ok {
		return
	}
	read, unread := parse(o)
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind.ended {
		return
	}
	tables := c.watcher.tables
	kind.rows[refOf(o)] = true
	if unread != nil {
		tables.PutUnread(*unread)
	} else {
		_ = tables.Put(read) // it is of a kind that has a table
	}
	c.watcher.changed()
}

func (c *customKinds) drop(kind *customKind, object any) {
	o, ok := object.(*unstructured.Unstructured)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ref := refOf(o); kind.rows[ref] {
		delete(kind.rows, ref)
		c.erase(ref)
		c.watcher.changed()
	}
}

func (c *customKinds) erase(ref model.Ref) {
	c.watcher.tables.Delete(ref)
	c.watcher.tables.Unread.Delete(ref.String())
}

// served gives the first of some versions in which the API has a kind; empty: none.
func (c *customKinds) served(name string, versions []string) string {
	for _, version := range versions {
		if c.serves(name, version) {
			return version
		}
	}
	return ""
}

// serves says whether the API has a kind in a version.
func (c *customKinds) serves(name, version string) bool {
	obj, found, err := c.definitions.GetStore().GetByKey(name)
	definition, ok := obj.(*unstructured.Unstructured)
	if err != nil || !found || !ok {
		return false
	}
	established := false
	conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
	for _, condition := range conditions {
		c, _ := condition.(map[string]any)
		established = established || c["type"] == "Established" && c["status"] == "True"
	}
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range versions {
		if v, _ := v.(map[string]any); v["name"] == version && v["served"] == true {
			return established
		}
	}
	return false
}

// onlyVersions takes the schemas off a definition: they are its bulk.
func onlyVersions(obj any) (any, error) {
	definition, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	definition.SetManagedFields(nil)
	definition.SetAnnotations(nil)
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok {
			delete(v, "schema")
		}
	}
	return definition, unstructured.SetNestedSlice(definition.Object, versions, "spec", "versions")
}

func (c *customKinds) hasSynced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kind := range c.running {
		if !kind.told.HasSynced() {
			return false
		}
	}
	return c.complete
}

// parse reads an object strictly: a field that is not known may be one that
// forbids. It gives the object, or why it cannot be read.
func parse(object *unstructured.Unstructured) (metav1.Object, *manifest.Unread) {
	ref := refOf(object)
	unread := &manifest.Unread{Object: ref, UID: object.GetUID()}
	data, err := json.Marshal(object)
	if err != nil {
		unread.Problem = err.Error()
		return nil, unread
	}
	objects, err := manifest.Parse(ref.String(), bytes.NewReader(data))
	if problem, ok := errors.AsType[*manifest.ParseError](err); ok {
		unread.Field, unread.Problem = problem.Field, problem.Problem
	} else if err != nil {
		unread.Problem = err.Error()
	}
	if err != nil {
		unread.Raw = data
		return nil, unread
	}
	read := objects.Find(ref)
	if read == nil {
		unread.Problem = fmt.Sprintf("is read as %v", objects.Refs())
		return nil, unread
	}
	return read, nil
}

// refOf names an object.
func refOf(object *unstructured.Unstructured) model.Ref {
	return model.Ref{Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName()}
}
