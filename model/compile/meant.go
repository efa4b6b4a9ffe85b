// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// annotationDomain is what the names of Weir's annotations begin with.
const annotationDomain = "weir.net/"

// warnOfAnnotations warns of annotations of Weir's that say nothing where they
// are: one that is misspelt would be missed when it is needed.
func (c *compiler) warnOfAnnotations(object metav1.Object) {
	annotations := object.GetAnnotations()
	if len(annotations) == 0 {
		return
	}
	known := manifest.AnnotationsOf(object)
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, annotationDomain) || slices.Contains(known, key) {
			continue
		}
		remedy := "remove it"
		if len(known) > 0 {
			remedy = "the kind has " + strings.Join(known, ", ")
		}
		c.warn(object, "metadata.annotations["+key+"]", "says nothing on a %s: %s", manifest.KindOf(object), remedy)
	}
}

// ignoreReservedLabels tells of labels of a pod that policies are not asked for.
func (c *compiler) ignoreReservedLabels(pod *corev1.Pod) {
	for _, key := range slices.Sorted(maps.Keys(pod.Labels)) {
		if isReservedKey(key) {
			c.ignore(pod, "metadata.labels["+key+"]", "is a label that Cilium's policies know of namespaces and accounts alone, and says nothing to them on a Pod: use another key")
		}
	}
}

// warnOfNobody warns of what matches nobody, and says so if that cannot change.
func (c *compiler) warnOfNobody(object metav1.Object, field, problem string, selectors ...*metav1.LabelSelector) {
	for _, selector := range selectors {
		if key := contradiction(selector); key != "" {
			c.warn(object, field, "matches nobody whatever the labels: what it asks of label %s contradicts itself: correct it, or remove it", key)
			return
		}
	}
	c.warn(object, field, "%s", problem)
}

// contradiction is the key of a label of which a selector asks what no label
// can be; empty if there is none.
func contradiction(selector *metav1.LabelSelector) string {
	if selector == nil {
		return ""
	}
	type asked struct {
		some, none bool // that there is one, that there is none
		among      []string
		listed     bool // among holds
		not        []string
	}
	all := map[string]*asked{}
	of := func(key string) *asked {
		if all[key] == nil {
			all[key] = &asked{}
		}
		return all[key]
	}
	among := func(key string, values ...string) {
		a := of(key)
		if a.listed {
			values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return !slices.Contains(a.among, v) })
		}
		a.some, a.listed, a.among = true, true, values
	}
	for key, value := range selector.MatchLabels {
		among(key, value)
	}
	for _, e := range selector.MatchExpressions {
		switch a := of(e.Key); e.Operator {
		case metav1.LabelSelectorOpIn:
			among(e.Key, e.Values...)
		case metav1.LabelSelectorOpNotIn:
			a.not = append(a.not, e.Values...)
		case metav1.LabelSelectorOpExists:
			a.some = true
		case metav1.LabelSelectorOpDoesNotExist:
			a.none = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		a := all[key]
		possible := !a.listed || slices.ContainsFunc(a.among, func(v string) bool { return !slices.Contains(a.not, v) })
		if a.some && a.none || !possible {
			return key
		}
	}
	return ""
}

// warnOfNoRules warns of a policy that does nothing as it stands.
func (c *compiler) warnOfNoRules(p *compiledPolicy, path string) {
	if len(p.rules)+len(p.requires) == 0 && !p.isolates[model.Ingress] && !p.isolates[model.Egress] {
		c.warn(p.object, path, "has neither rules nor a direction that it isolates: the policy has no effect")
	}
}

func pointers[T any](list []T) []*T {
	all := make([]*T, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	return all
}

func noPod(where string) string {
	return fmt.Sprintf("matches no pod%s: the policy has no effect until one has these labels", where)
}

const noPeer = "matches no pod: the entry has no effect until one has these labels"
