// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/model/manifest"
)

// workload is the pods that one owner has made alike, or a pod of its own.
type workload struct {
	namespace  string
	kind, name string            // of the owner; kind Pod: it has none
	pods       []string          // namespace/pod, sorted
	labels     map[string]string // that all its pods have, and keep
	matches    map[string]string // those of them by which it is selected
	lacks      []string          // keys of labels that others have who have these too
	also       []string          // workloads of its namespace that are selected with it
}

func (w *workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

// isSelectable is whether labels tell it from the rest of its namespace's pods at all.
func (w *workload) isSelectable() bool { return len(w.matches) > 0 }

func (w *workload) selector() metav1.LabelSelector {
	s := metav1.LabelSelector{MatchLabels: w.matches}
	for _, key := range w.lacks {
		s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpDoesNotExist})
	}
	return s
}

// takes is whether the selector takes a pod with these labels.
func (w *workload) takes(have map[string]string) bool {
	for key, value := range w.matches {
		if is, has := have[key]; !has || is != value {
			return false
		}
	}
	return !slices.ContainsFunc(w.lacks, func(key string) bool { _, has := have[key]; return has })
}

// Labels that tell one of a workload's pods from another, or one version of it: the
// next pod has others.
var passing = map[string]bool{
	"pod-template-hash": true, "controller-revision-hash": true, "pod-template-generation": true,
	"statefulset.kubernetes.io/pod-name": true, "apps.kubernetes.io/pod-index": true,
	"controller-uid": true, "job-name": true, "batch.kubernetes.io/controller-uid": true,
	"batch.kubernetes.io/job-name": true, "batch.kubernetes.io/job-completion-index": true,
	"app.kubernetes.io/version": true, "app.kubernetes.io/managed-by": true, "helm.sh/chart": true, "chart": true, "heritage": true,
}

// Labels by which people call a workload, the first first (the recommended labels of
// Kubernetes, and what was usual before).
var naming = []string{
	"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component",
	"k8s-app", "app", "component", "tier", "role", "name",
}

// workloads are those of all pods that policies select, by their pods.
func workloads(input *Input) (all []*workload, of map[string]*workload) {
	objs := input.Objects
	of = map[string]*workload{}
	by := map[owner]*workload{}
	standIns := map[string]owner{}
	for _, s := range input.Substitutes {
		namespace, _, _ := strings.Cut(s.Pod, "/")
		standIns[s.Pod] = owner{namespace, s.Kind, s.name}
	}
	for _, pod := range manifest.InOrder(objs.Pods) {
		if pod.Spec.HostNetwork {
			continue
		}
		at, standsIn := standIns[manifest.NameOf(pod)]
		if !standsIn {
			at = ownerOf(pod)
		}
		w := by[at]
		if w == nil {
			w = &workload{namespace: at.namespace, kind: at.kind, name: at.name, labels: stable(pod.Labels)}
			if at.kind == "" {
				w.kind, w.name = "Pod", pod.Name
			}
			by[at] = w
			all = append(all, w)
		}
		maps.DeleteFunc(w.labels, func(key, value string) bool { have, has := pod.Labels[key]; return !has || have != value })
		w.pods = append(w.pods, manifest.NameOf(pod))
		of[manifest.NameOf(pod)] = w
	}
	slices.SortFunc(all, func(a, b *workload) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
	})
	for _, w := range all {
		w.choose(all, objs, input.controllers)
	}
	return all, of
}

// owner is what pods are of.
type owner struct{ namespace, kind, name string }

func stable(all map[string]string) map[string]string {
	kept := map[string]string{}
	for key, value := range all {
		if !passing[key] {
			kept[key] = value
		}
	}
	return kept
}

// madeByCron is the end of the name of a Job that a CronJob has made: a time, in
// minutes since 1970.
var madeByCron = regexp.MustCompile(`-\d{8,}$`)

// ownerOf gives who has made a pod: a Deployment in place of its ReplicaSet, a CronJob
// in place of its Job. Pods that nobody has made are together by their labels: then
// there is no kind.
func ownerOf(pod *corev1.Pod) owner {
	namespace := manifest.NamespaceOr(pod.Namespace)
	by := metav1.GetControllerOf(pod)
	if by == nil && len(pod.OwnerReferences) > 0 {
		by = &pod.OwnerReferences[0]
	}
	if by == nil || by.Kind == "Node" { // of which static pods are
		if set := stable(pod.Labels); len(set) > 0 {
			return owner{namespace, "", labels.Set(set).String()}
		}
		return owner{namespace, "Pod", pod.Name}
	}
	if hash := pod.Labels["pod-template-hash"]; by.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(by.Name, "-"+hash) {
		return owner{namespace, "Deployment", strings.TrimSuffix(by.Name, "-"+hash)}
	}
	if cut := madeByCron.ReplaceAllString(by.Name, ""); by.Kind == "Job" && cut != by.Name {
		return owner{namespace, "CronJob", cut}
	}
	return owner{namespace, by.Kind, by.Name}
}

// choose takes the fewest labels that select the workload and nobody else: those of
// its owner's selector, those that name it, or all.
func (w *workload) choose(all []*workload, objs *manifest.Objects, controllers []manifest.Controller) {
	var choices []map[string]string
	for i := range controllers {
		c := &controllers[i]
		if c.Kind == w.kind && c.Namespace == w.namespace && c.Name == w.name && c.Selector != nil {
			choices = append(choices, stable(c.Selector.MatchLabels))
		}
	}
	named := map[string]string{}
	for _, key := range naming {
		if value, has := w.labels[key]; has {
			named = maps.Clone(named)
			named[key] = value
			choices = append(choices, named)
		}
	}
	choices = append(choices, w.labels)
	for _, w.matches = range choices {
		// A selector of its owner's may ask for labels that a pod does not keep.
		if w.lacks, w.also = nil, nil; len(w.matches) > 0 && w.takes(w.labels) && len(w.others(all, objs)) == 0 {
			return
		}
	}
	w.matches = w.labels
	for _, other := range w.others(all, objs) {
		for _, key := range slices.Sorted(maps.Keys(other.labels)) {
			if _, has := w.labels[key]; !has {
				w.lacks = append(w.lacks, key)
				break
			}
		}
	}
	slices.Sort(w.lacks)
	w.lacks = slices.Compact(w.lacks)
	for _, other := range w.others(all, objs) {
		w.also = append(w.also, other.String())
	}
}

// others are the other workloads of whose pods the selector takes one.
func (w *workload) others(all []*workload, objs *manifest.Objects) (found []*workload) {
	for _, other := range all {
		if other != w && other.namespace == w.namespace && slices.ContainsFunc(other.pods, func(pod string) bool { return w.takes(objs.Pods[pod].Labels) }) {
			found = append(found, other)
		}
	}
	return found
}
