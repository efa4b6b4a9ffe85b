// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Found is what is in manifests as people keep them, where objects that a network
// is made of are among others.
type Found struct {
	Objects     *Objects
	Controllers []Controller
	// Passed counts what was passed over, by kind, with its group where a kind of
	// ours has that name. Documents that are no objects are under "".
	Passed map[string]int
}

// Controller is an object that makes pods of a template.
type Controller struct {
	Kind, Namespace, Name string
	Owned                 bool // by another one, which makes the same pods
	Template              corev1.PodTemplateSpec
	// Selector is what pods it takes for its own; nil: it makes one up.
	Selector *metav1.LabelSelector
}

// controllerGroups are those of controllers, by kind.
var controllerGroups = map[string]string{
	"Deployment": "apps", "StatefulSet": "apps", "DaemonSet": "apps", "ReplicaSet": "apps", "Job": "batch", "CronJob": "batch",
}

var controllerNames = map[string][]string{
	"Deployment": {"deployment", "deployments", "deploy"}, "StatefulSet": {"statefulset", "statefulsets", "sts"},
	"DaemonSet": {"daemonset", "daemonsets", "ds"}, "ReplicaSet": {"replicaset", "replicasets", "rs"},
	"Job": {"job", "jobs"}, "CronJob": {"cronjob", "cronjobs", "cj"},
}

// ControllerKind is the kind of controllers that a person calls so: in any case, in
// the plural, or by its short name. It is empty where there is none.
func ControllerKind(called string) string {
	for kind, names := range controllerNames {
		if slices.Contains(names, strings.ToLower(called)) {
			return kind
		}
	}
	return ""
}

// ParseAmong is ParseBeside of manifests that hold other things too: what has no
// part in a network is counted and passed over, and controllers are read. A kind
// that seems to be a misspelt one of ours is an error.
func ParseAmong(name string, r io.Reader, others *Objects) (*Found, error) {
	found := &Found{Passed: map[string]int{}}
	var err error
	found.Objects, err = parse(name, r, others, found)
	return found, err
}

// passedOver says whether an object is none that a network is made of: it is then
// noted as what it is.
func (p *parser) passedOver(doc document, head *header, text []byte) bool {
	if p.among == nil {
		return false
	}
	group, _, grouped := strings.Cut(head.APIVersion, "/")
	if !grouped {
		group = ""
	}
	ours := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == head.Kind })
	switch {
	case head.Kind == "":
		if head.APIVersion != "" || head.Metadata.Name != "" {
			return false
		}
		p.among.Passed[""]++
	case ours >= 0:
		own, _, _ := strings.Cut(kinds()[ours].apiVersion, "/")
		if own == "v1" {
			own = ""
		}
		// One of a policy's name is refused: it may be one of an old version.
		if group == own || strings.HasSuffix(head.Kind, "Policy") {
			return false
		}
		p.among.Passed[head.Kind+"."+group]++
	case controllerGroups[head.Kind] != "" && (group == controllerGroups[head.Kind] || group == "extensions"):
		p.controller(doc, head, text)
	case strings.HasSuffix(head.Kind, "AdminNetworkPolicy"):
		return false
	default:
		if meant := misspelt(head.Kind); meant != "" {
			p.fail(doc, lineOf(doc, "kind"), head.ref(), "kind", "%q is no kind: did you mean %s?", head.Kind, meant)
			return true
		}
		p.among.Passed[head.Kind]++
	}
	return true
}

func (p *parser) controller(doc document, head *header, text []byte) {
	var obj struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			Template    corev1.PodTemplateSpec `json:"template"`
			Selector    *metav1.LabelSelector  `json:"selector"`
			JobTemplate struct {
				Spec struct {
					Template corev1.PodTemplateSpec `json:"template"`
				} `json:"spec"`
			} `json:"jobTemplate"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(text, &obj); err != nil {
		field, problem := jsonProblem(err)
		p.fail(doc, lineOf(doc, field), head.ref(), field, "%s", problem)
		return
	}
	c := Controller{
		Kind: head.Kind, Namespace: NamespaceOr(obj.Metadata.Namespace), Name: obj.Metadata.Name,
		Owned: len(obj.Metadata.OwnerReferences) > 0, Template: obj.Spec.Template, Selector: obj.Spec.Selector,
	}
	if c.Kind == "CronJob" {
		c.Template = obj.Spec.JobTemplate.Spec.Template
	}
	if c.Name == "" {
		c.Name = strings.TrimSuffix(obj.Metadata.GenerateName, "-")
	}
	if c.Name == "" {
		p.fail(doc, 0, head.ref(), "metadata.name", "is missing: give the %s a name", c.Kind)
		return
	}
	p.among.Controllers = append(p.among.Controllers, c)
}

// misspelt is the kind of ours that a name is so like that it was probably meant:
// in other case, or a policy's with a letter or two wrong.
func misspelt(name string) string {
	for _, k := range kinds() {
		if strings.EqualFold(k.name, name) || strings.HasSuffix(k.name, "Policy") && distance(k.name, name) <= 2 {
			return k.name
		}
	}
	return ""
}

// distance is how many letters have to be changed, left out or put in to make one
// word of the other.
func distance(a, b string) int {
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := append(make([]int, 0, len(b)+1), i+1)
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row = append(row, min(change, row[j]+1, last[j+1]+1))
		}
		last = row
	}
	return last[len(b)]
}

// Closest is the one of some words that another is so like that it was probably
// meant; empty where none is, or several are.
func Closest(word string, words ...string) string {
	closest, least := "", 2
	for _, w := range words {
		switch d := likeness(word, w); {
		case d < least:
			closest, least = w, d
		case d == least:
			closest = ""
		}
	}
	return closest
}

// likeness is the distance of two words in any case, of which two letters that
// change places count as one.
func likeness(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	for i := range len(a) - 1 {
		if a != b && a[:i]+a[i+1:i+2]+a[i:i+1]+a[i+2:] == b {
			return 1
		}
	}
	return distance(a, b)
}
