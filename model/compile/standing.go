// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// standing is what is left out of what is kept. An object that is wrong in itself
// stays so until it is another, whatever the others say. What is refused for the
// sake of others is asked again with every change that may have to do with it.
type standing struct {
	unread []manifest.Unread
	before []Refusal            // of those
	wrong  map[model.Ref]*wrong // in themselves
	after  []Refusal            // for the sake of others
	aside  *aside               // those; nil: any change may have to do with them
}

// wrong is an object that is left out for what it says.
type wrong struct {
	object  metav1.Object
	refusal Refusal
}

// flawsIn is what is wrong with an object among others by itself, or since its
// namespace is not there.
func flawsIn(objs *manifest.Objects, object metav1.Object) []*model.FieldError {
	flaws := flawsOf(object)
	if space := manifest.NamespaceOr(object.GetNamespace()); isOfNamespace(object) && objs.Namespaces[space] == nil && !slices.Contains(manifest.BornNamespaces(), space) {
		flaws = append(flaws, noNamespace(object))
	}
	return flaws
}

// isOfNamespace is whether an object is refused without its namespace. A slice is
// its service's.
func isOfNamespace(object metav1.Object) bool {
	switch object.(type) {
	case *corev1.Pod, *corev1.Service, *networkingv1.NetworkPolicy, *manifest.CiliumNetworkPolicy:
		return true
	}
	return false
}

func noNamespace(object metav1.Object) *model.FieldError {
	return &model.FieldError{Object: manifest.RefOf(object), Field: "metadata.namespace", Problem: fmt.Sprintf("there is no namespace %s: add the Namespace", manifest.NamespaceOr(object.GetNamespace()))}
}

// flawsOf is what is wrong with an object by itself.
func flawsOf(object metav1.Object) []*model.FieldError {
	flaws := manifest.Validate(object)
	if svc, ok := object.(*corev1.Service); ok && !manifest.IsHeadless(svc) {
		for _, flaw := range unsupported(svc) {
			flaws = append(flaws, &flaw)
		}
	}
	return flaws
}

// refusals gives all of them in the order in which LeftOut finds them.
func (s *standing) refusals() []Refusal {
	all := slices.Clone(s.before)
	for _, ref := range slices.SortedFunc(maps.Keys(s.wrong), manifest.CompareRefs) {
		all = append(all, s.wrong[ref].refusal)
	}
	return append(all, s.after...)
}

// leftOut names what is wrong in itself, and what is set aside.
func (s *standing) leftOut() []model.Ref {
	refs := slices.Collect(maps.Keys(s.wrong))
	if s.aside != nil {
		refs = slices.AppendSeq(refs, maps.Keys(s.aside.objects))
	}
	return refs
}

func sameUnread(a, b []manifest.Unread) bool {
	return slices.EqualFunc(a, b, func(x, y manifest.Unread) bool {
		return x.Object == y.Object && x.UID == y.UID && x.Field == y.Field && x.Problem == y.Problem && bytes.Equal(x.Raw, y.Raw)
	})
}

// admit finds what has changed of what is kept, where changed are others, or gone,
// of all objects. It is not ok where that is more than objects that are wrong in
// themselves and others that are not.
func (i *Incremental) admit(objs *manifest.Objects, changed []model.Ref) (*change, bool) {
	ch := &change{}
	for _, ref := range changed {
		if ref.Kind == "Namespace" && !i.admitAgain(objs, ref, ch) {
			return nil, false
		}
	}
	var others []model.Ref
	for name, space := range ch.namespaces {
		if there := i.c.objs.Namespaces[name] != nil; there != (space != nil) {
			if i.standing.aside.isIn(name) {
				return nil, i.no("an object that is refused for the sake of others has changed")
			}
			if others = append(others, i.objectsOf(name, there)...); slices.ContainsFunc(i.standing.unread, func(u manifest.Unread) bool { return u.Object.Namespace == name }) {
				return nil, i.no("a namespace comes or goes of which an object could not be read")
			}
		}
		put(i.c.objs.Namespaces, name, space) // objects are asked for theirs
	}
	for _, ref := range others {
		i.readmit(objs, ref, ch)
	}
	for _, ref := range changed {
		if ref.Kind != "Namespace" && !i.admitAgain(objs, ref, ch) {
			return nil, false
		}
	}
	return ch, true
}

// admitAgain notes what is to be kept of an object now, if it is another.
func (i *Incremental) admitAgain(objs *manifest.Objects, ref model.Ref, ch *change) bool {
	s := i.standing
	object, old := objs.Find(ref), s.wrong[ref]
	unread := slices.ContainsFunc(s.unread, func(u manifest.Unread) bool { return u.Object == ref })
	if refused, aside := s.aside.objects[ref]; aside {
		if object == refused {
			return true
		}
		return i.no("an object that is refused for the sake of others has changed")
	}
	switch {
	case unread && object == nil, old != nil && object == old.object, old == nil && object == i.c.objs.Find(ref):
		return true
	case unread:
		return i.no("an object could not be read before")
	}
	i.readmit(objs, ref, ch)
	return true
}

func (i *Incremental) readmit(objs *manifest.Objects, ref model.Ref, ch *change) {
	delete(i.standing.wrong, ref)
	ch.set(i.c.objs, ref, i.admitOne(ref, objs.Find(ref)))
}

// objectsOf names the objects of a namespace that are kept, if it was there, and
// those that are wrong.
func (i *Incremental) objectsOf(space string, there bool) (refs []model.Ref) {
	for ref := range i.standing.wrong {
		if manifest.NamespaceOr(ref.Namespace) == space && ref.Kind != "Namespace" && ref.Kind != "Node" {
			refs = append(refs, ref)
		}
	}
	if !there {
		return refs
	}
	i.c.kept.read()
	for key := range i.c.kept.people.spaces[space] {
		refs = append(refs, manifest.RefOf(i.c.objs.Pods[key]))
	}
	refs = append(refs, refsIn(space, i.c.objs.Services)...)
	refs = append(refs, refsIn(space, i.c.objs.NetworkPolicies)...)
	return append(refs, refsIn(space, i.c.objs.CiliumNetworkPolicies)...)
}

func refsIn[T object](space string, objs map[string]T) (refs []model.Ref) {
	for _, one := range objs {
		if manifest.NamespaceOr(one.GetNamespace()) == space {
			refs = append(refs, manifest.RefOf(one))
		}
	}
	return refs
}

// admitOne gives what is to be kept of an object: itself, what stands in for it
// where it is wrong, or nil.
func (i *Incremental) admitOne(ref model.Ref, object metav1.Object) metav1.Object {
	if object == nil {
		return nil
	}
	flaws := flawsIn(i.c.objs, object)
	if len(flaws) == 0 {
		return object
	}
	standIn, follows := i.c.objs.StandIn(object)
	i.standing.wrong[ref] = &wrong{object, refusalOf(object, flaws[0], follows)}
	return standIn
}
