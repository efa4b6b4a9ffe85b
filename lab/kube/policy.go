// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// clusterWide are kinds of policies that are of no namespace.
var clusterWide = []resource{
	{"CiliumClusterwideNetworkPolicy", schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumclusterwidenetworkpolicies"}},
	{"ClusterNetworkPolicy", schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}},
}

// Policy makes a policy of a kind that HasKind knows, for a namespace of the session. One
// of a kind that is of no namespace has it in its name, and is owned by it: it goes with
// the namespace, whoever removes that. It fails as the API does.
func (s *Session) Policy(ctx context.Context, kind, namespace, name string, spec map[string]any) (remove func(context.Context) error, err error) {
	of, wide, err := resourceOf(kind)
	if err != nil {
		return nil, err
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": of.GroupVersion().String(), "kind": kind, "spec": spec}}
	o.SetName(name)
	api := s.dynamic.Resource(of.GroupVersionResource).Namespace(namespace)
	if wide {
		owner, err := s.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("make %s %s: %w", kind, name, err)
		}
		o.SetName(namespace + "-" + name)
		o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Namespace", Name: namespace, UID: owner.UID}})
		api = s.dynamic.Resource(of.GroupVersionResource)
	}
	if _, err := api.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager}); err != nil {
		return nil, fmt.Errorf("make %s %s: %w", kind, o.GetName(), err)
	}
	return func(ctx context.Context) error {
		if err := api.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s: %w", kind, o.GetName(), err)
		}
		return nil
	}, nil
}

// resourceOf is where the API has a kind, and whether that is of no namespace.
func resourceOf(kind string) (of resource, wide bool, err error) {
	for _, r := range clusterWide {
		if r.kind == kind {
			return r, true, nil
		}
	}
	for _, r := range resources {
		if r.kind == kind {
			return r, false, nil
		}
	}
	return resource{}, false, fmt.Errorf("%s is no kind of policies", kind)
}
