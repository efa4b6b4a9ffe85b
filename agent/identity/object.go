// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weirnet/weir/model"
)

// Kind of the objects, and of their definition's names.
const (
	Kind    = "Identity"
	Plural  = "identities"
	Group   = "weir.net"
	Version = "v1alpha1"
)

// Resource is where the objects are.
func Resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: Group, Version: Version, Resource: Plural}
}

// spec is what an object says: the labels that its name is the number of.
type spec struct {
	Namespace       string            `json:"namespace"`
	NamespaceLabels map[string]string `json:"namespaceLabels,omitempty"`
	PodLabels       map[string]string `json:"podLabels,omitempty"`
	ServiceAccount  string            `json:"serviceAccount,omitempty"`
	Ports           []port            `json:"ports,omitempty"`
}

type port struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"` // as containers have it
	Port     int64  `json:"port"`
}

func protocols() map[string]model.Protocol {
	return map[string]model.Protocol{"TCP": model.ProtocolTCP, "UDP": model.ProtocolUDP, "SCTP": model.ProtocolSCTP}
}

// toObject makes the object of a number.
func toObject(number model.Identity, set *model.LabelSet) (*unstructured.Unstructured, error) {
	s := spec{
		Namespace: set.Namespace, NamespaceLabels: set.NamespaceLabels, PodLabels: set.PodLabels,
		ServiceAccount: set.Account,
	}
	for _, p := range set.Ports {
		s.Ports = append(s.Ports, port{p.Name, strings.ToUpper(p.Protocol.String()), int64(p.Port)})
	}
	slices.SortFunc(s.Ports, func(a, b port) int { return strings.Compare(a.Name+" "+a.Protocol, b.Name+" "+b.Protocol) })
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		return nil, fmt.Errorf("write identity %d: %w", number, err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
	object.SetGroupVersionKind(Resource().GroupVersion().WithKind(Kind))
	object.SetName(strconv.FormatUint(uint64(number), 10))
	return object, nil
}

// fromObject reads an object strictly: what is not understood is nobody's.
func fromObject(object *unstructured.Unstructured) (model.Identity, *model.LabelSet, error) {
	number, err := strconv.ParseUint(object.GetName(), 10, 32)
	id := model.Identity(number)
	if err != nil || !id.IsShared() || strconv.FormatUint(number, 10) != object.GetName() {
		return 0, nil, fmt.Errorf("read identity %q: its name is no number of a set of labels", object.GetName())
	}
	fields, _, err := unstructured.NestedMap(object.Object, "spec")
	if err != nil {
		return id, nil, fmt.Errorf("read identity %d: %w", number, err)
	}
	var s spec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(fields, &s, true); err != nil {
		return id, nil, fmt.Errorf("read identity %d: %w", number, err)
	}
	set := &model.LabelSet{
		Namespace: s.Namespace, NamespaceLabels: s.NamespaceLabels, PodLabels: s.PodLabels,
		Account: s.ServiceAccount,
	}
	for _, p := range s.Ports {
		protocol, known := protocols()[p.Protocol]
		if !known || p.Port < 0 || p.Port > 65535 {
			return id, nil, fmt.Errorf("read identity %d: port %s is %d/%s", number, p.Name, p.Port, p.Protocol)
		}
		set.Ports = append(set.Ports, model.NamedPort{Name: p.Name, Protocol: protocol, Port: uint16(p.Port)})
	}
	return id, set, nil
}

// record is what is kept of an object. It takes the object's place in the
// informer's store: there may be 64k.
type record struct {
	metav1.ObjectMeta
	number model.Identity
	key    string // of its labels; empty: they are not understood
}

// toRecord is an informer's transformation. An object whose name is no number
// keeps nobody from anything, and stays what it is.
func toRecord(obj any) (any, error) {
	object, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil // it has been one before
	}
	r := &record{ObjectMeta: metav1.ObjectMeta{
		Name: object.GetName(), UID: object.GetUID(), ResourceVersion: object.GetResourceVersion(), CreationTimestamp: object.GetCreationTimestamp(),
	}}
	number, set, err := fromObject(object)
	r.number = number
	if err == nil {
		r.key = set.Key()
	}
	return r, nil
}
