// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/model/manifest"
)

// Controllers give each pod, or each rollout, labels of its own, which hardly
// any policy names. Where none does they say nothing of security, and the pods
// of a StatefulSet, of all Jobs of a CronJob, of a Deployment before and after
// a rollout, have one identity: there are 64k in a cluster, and each is in the
// rule sets of all nodes.

// namelessLabels are keys that tell pods apart only where a policy names them.
func namelessLabels() []string {
	return []string{
		"pod-template-hash", "pod-template-generation", "controller-revision-hash",
		"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index",
		"batch.kubernetes.io/controller-uid", "controller-uid", "batch.kubernetes.io/job-completion-index",
		"batch.kubernetes.io/job-name", "job-name",
	}
}

// ignoredLabels are those that no policy names in any way: a text that holds a
// key somewhere names it. Policies that name services select by the services'
// selectors.
func ignoredLabels(objs *manifest.Objects) []string {
	named := map[string]bool{}
	all := namelessLabels()
	see := func(text string) {
		for _, key := range all {
			if strings.Contains(text, key) {
				named[key] = true
			}
		}
	}
	eachText(reflect.ValueOf(objs.NetworkPolicies), see)
	eachText(reflect.ValueOf(objs.ClusterNetworkPolicies), see)
	eachText(reflect.ValueOf(objs.CiliumNetworkPolicies), see)
	eachText(reflect.ValueOf(objs.CiliumClusterwideNetworkPolicies), see)
	if len(objs.CiliumNetworkPolicies)+len(objs.CiliumClusterwideNetworkPolicies) > 0 {
		for _, svc := range objs.Services {
			for key := range svc.Spec.Selector {
				see(key)
			}
		}
	}
	var ignored []string
	for _, key := range all {
		if !named[key] {
			ignored = append(ignored, key)
		}
	}
	return ignored
}

// eachText calls see with every text in a value, keys of maps and fields that
// nobody reads yet among them, but for objects' names and annotations.
func eachText(v reflect.Value, see func(string)) {
	switch v.Kind() {
	case reflect.String:
		see(v.String())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			eachText(v.Elem(), see)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			see(string(v.Bytes()))
			return
		}
		for i := range v.Len() {
			eachText(v.Index(i), see)
		}
	case reflect.Map:
		for i := v.MapRange(); i.Next(); {
			eachText(i.Key(), see)
			eachText(i.Value(), see)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[metav1.ObjectMeta]() {
			return
		}
		for i := range v.NumField() {
			eachText(v.Field(i), see)
		}
	}
}

// without gives labels that lack some keys; set stays as it is.
func without(set labels.Set, keys []string) labels.Set {
	var less labels.Set
	for _, key := range keys {
		if _, found := set[key]; !found {
			continue
		}
		if less == nil {
			less = maps.Clone(set)
		}
		delete(less, key)
	}
	if less == nil {
		return set
	}
	return less
}
