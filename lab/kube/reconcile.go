// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model/manifest"
)

// fieldManager is whose fields the API server takes those of objects for.
const fieldManager = "weir-lab"

// Reconcile makes the cluster's objects equal to the scenario's, and waits until
// its controllers have made of them what datapaths go by. What a datapath needs to
// follow is not awaited: nothing tells it of all of them.
func (w *World) Reconcile(ctx context.Context, objects *manifest.Objects) error {
	defer phase.Start(ctx, phase.Tables)()
	if err := w.reconcilePods(ctx, objects); err != nil {
		return err
	}
	if err := w.reconcileNamespaces(ctx, objects); err != nil {
		return err
	}
	for _, kind := range resources {
		if err := w.reconcileKind(ctx, kind, objects); err != nil {
			return err
		}
	}
	return w.awaitEndpoints(ctx, objects)
}

// reconcileKind removes and writes the objects of one kind.
func (w *World) reconcileKind(ctx context.Context, kind resource, objects *manifest.Objects) error {
	// Anew for each kind: objects name addresses that were given to those before.
	wanted, err := w.wanted(kind, objects)
	if err != nil {
		return err
	}
	for ref, old := range w.written {
		if old.resource == kind.GroupVersionResource && wanted[ref] == nil {
			if err := w.remove(ctx, old); err != nil {
				return err
			}
			delete(w.written, ref)
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(wanted)) {
		if o := wanted[ref]; w.written[ref] == nil || w.written[ref].text != o.text {
			if err := w.write(ctx, o, objects); err != nil {
				return err
			}
			w.written[ref] = o
		}
	}
	return nil
}

// wanted are the objects of a kind as they are to be written.
func (w *World) wanted(kind resource, objects *manifest.Objects) (map[string]*object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]*object{}
	var wrong error
	objects.Each(func(obj metav1.Object) {
		if manifest.KindOf(obj) != kind.kind || wrong != nil {
			return
		}
		o, err := w.places.object(obj)
		if err != nil {
			wrong = err
			return
		}
		all[o.ref] = o
	})
	return all, wrong
}

func (w *World) write(ctx context.Context, o *object, objects *manifest.Objects) error {
	api := w.session.dynamic.Resource(o.resource).Namespace(o.content.GetNamespace())
	got, err := api.Apply(ctx, o.content.GetName(), o.content, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && strings.Contains(err.Error(), "provided port is already allocated") {
		return fmt.Errorf("apply %s: %w: leave some node ports from %d on to the lab", o.ref, err, firstNodePort)
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", o.ref, err)
	}
	if o.resource.Resource == "services" {
		return w.learn(o.ref, got, objects)
	}
	return nil
}

// learn takes the addresses that the cluster gave to a service.
func (w *World) learn(ref string, got *unstructured.Unstructured, objects *manifest.Objects) error {
	given := new(corev1.Service)
	text, err := json.Marshal(got.Object)
	if err == nil {
		err = json.Unmarshal(text, given)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", ref, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, svc := range objects.Services {
		if manifest.RefOf(svc).String() != ref {
			continue
		}
		w.places.Pair(parsedAddresses(svc.Spec.ClusterIPs), parsedAddresses(given.Spec.ClusterIPs))
	}
	return nil
}

// parsedAddresses are those that can be read.
func parsedAddresses(texts []string) (all []netip.Addr) {
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a)
		}
	}
	return all
}

func (w *World) remove(ctx context.Context, o *object) error {
	err := w.session.dynamic.Resource(o.resource).Namespace(o.content.GetNamespace()).Delete(ctx, o.content.GetName(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", o.ref, err)
	}
	return nil
}

// reconcilePods makes those that are gone anew, deletes those that are to go, and
// labels the others.
func (w *World) reconcilePods(ctx context.Context, objects *manifest.Objects) error {
	for _, h := range w.topology.Pods {
		pod, key := objects.Pods[h.Name], "pod/"+h.Name
		_, there := w.labels[key]
		var err error
		switch {
		case pod == nil && there:
			err = w.deletePod(ctx, h.Name, 0)
		case pod != nil && !there:
			err = w.startPod(ctx, h, pod)
		case pod != nil && pod.DeletionTimestamp != nil && !w.ending[h.Name]:
			err = w.deletePod(ctx, h.Name, lifetime)
		case pod != nil && pod.DeletionTimestamp == nil && w.ending[h.Name]:
			if err = w.deletePod(ctx, h.Name, 0); err == nil {
				err = w.startPod(ctx, h, pod)
			}
		case pod != nil && !maps.Equal(pod.Labels, w.labels[key]):
			err = w.label(ctx, h.Name, pod.Labels)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deletePod ends a pod: one with a lifetime goes on meanwhile, and any other is
// waited for until it is gone.
func (w *World) deletePod(ctx context.Context, name string, lifetime time.Duration) error {
	namespace, short, _ := strings.Cut(name, "/")
	api := w.session.kube.CoreV1().Pods(w.places.namespaces[namespace])
	pod, err := api.Get(ctx, short, metav1.GetOptions{})
	if err == nil {
		err = api.Delete(ctx, short, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(lifetime.Seconds()))})
	}
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	if lifetime > 0 {
		w.ending[name] = true
		return nil
	}
	delete(w.ending, name)
	delete(w.labels, "pod/"+name)
	w.mu.Lock()
	client := w.clients[name]
	delete(w.clients, name)
	w.mu.Unlock()
	if client != nil {
		client.Close() // its end is gone
	}
	_, err = w.session.awaitPod(ctx, pod, func(*corev1.Pod) (bool, error) { return false, nil })
	if err != nil && err != errGone {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return nil
}

// label makes a pod's labels these.
func (w *World) label(ctx context.Context, name string, labels map[string]string) error {
	namespace, short, _ := strings.Cut(name, "/")
	patch := labelPatch(w.labels["pod/"+name], labels)
	_, err := w.session.kube.CoreV1().Pods(w.places.namespaces[namespace]).Patch(ctx, short, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("label pod %s: %w", name, err)
	}
	w.labels["pod/"+name] = maps.Clone(labels)
	return nil
}

// labelPatch makes some labels of others (RFC 7396).
func labelPatch(before, after map[string]string) []byte {
	labels := map[string]*string{}
	for key := range before {
		labels[key] = nil
	}
	for key, value := range after {
		labels[key] = &value
	}
	delete(labels, corev1.LabelMetadataName) // the API server's own
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		panic("kube: labels are no JSON: " + err.Error())
	}
	return text
}

// reconcileNamespaces makes those that are new, and labels the others. They are not
// deleted before the world is.
func (w *World) reconcileNamespaces(ctx context.Context, objects *manifest.Objects) error {
	for name, ns := range objects.Namespaces {
		before, there := w.labels["namespace/"+name]
		if !there {
			if err := w.namespace(ctx, name, ns.Labels); err != nil {
				return err
			}
			continue
		}
		if maps.Equal(before, ns.Labels) {
			continue
		}
		_, err := w.session.kube.CoreV1().Namespaces().Patch(ctx, w.places.namespaces[name], types.MergePatchType, labelPatch(before, ns.Labels), metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("label namespace %s: %w", name, err)
		}
		w.labels["namespace/"+name] = maps.Clone(ns.Labels)
	}
	return nil
}

// controllers is how long they may take to make endpoints of services and pods.
const controllers = 20 * time.Second

// awaitEndpoints waits until the endpoints of each service with a selector are its
// pods of now.
func (w *World) awaitEndpoints(ctx context.Context, objects *manifest.Objects) error {
	defer phase.Start(ctx, phase.Waits)()
	ctx, cancel := context.WithTimeout(ctx, controllers)
	defer cancel()
	for _, svc := range objects.Services {
		if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		if err := w.awaitEndpointsOf(ctx, svc, wantedEndpoints(svc, objects)); err != nil {
			return fmt.Errorf("wait for the endpoints of %s: %w", manifest.RefOf(svc), err)
		}
	}
	return nil
}

// wantedEndpoints are the pods behind a service, and whether each is ready.
func wantedEndpoints(svc *corev1.Service, objects *manifest.Objects) map[string]bool {
	pods := map[string]bool{}
	for _, pod := range objects.Pods {
		if pod.Namespace != svc.Namespace {
			continue
		}
		matches := true
		for key, value := range svc.Spec.Selector {
			has, ok := pod.Labels[key]
			matches = matches && ok && has == value
		}
		if matches {
			pods[pod.Name] = pod.DeletionTimestamp == nil || svc.Spec.PublishNotReadyAddresses
		}
	}
	return pods
}

func (w *World) awaitEndpointsOf(ctx context.Context, svc *corev1.Service, want map[string]bool) error {
	api := w.session.kube.DiscoveryV1().EndpointSlices(w.places.namespaces[svc.Namespace])
	options := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + svc.Name}
	for {
		list, err := api.List(ctx, options)
		if err != nil {
			return err
		}
		if sliced(list.Items, want) {
			return nil
		}
		from := options
		from.ResourceVersion = list.ResourceVersion
		changes, err := api.Watch(ctx, from)
		if err != nil {
			return err
		}
		<-changes.ResultChan() // the list is read anew, whatever it was
		changes.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("they are not the pods %v: %w", slices.Sorted(maps.Keys(want)), ctx.Err())
		}
	}
}

// sliced says whether each family's slices have just these pods.
func sliced(slices []discoveryv1.EndpointSlice, want map[string]bool) bool {
	if len(slices) == 0 {
		return false
	}
	got := map[discoveryv1.AddressType]map[string]bool{}
	for i := range slices {
		s := &slices[i]
		if s.Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" {
			return true // the scenario's own
		}
		if got[s.AddressType] == nil {
			got[s.AddressType] = map[string]bool{}
		}
		for _, e := range s.Endpoints {
			if e.TargetRef != nil {
				got[s.AddressType][e.TargetRef.Name] = e.Conditions.Ready == nil || *e.Conditions.Ready
			}
		}
	}
	for _, pods := range got {
		if !maps.Equal(pods, want) {
			return false
		}
	}
	return true
}
