// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// standing is what is left out of what is kept. An object that is wrong in itself
// stays so until it is another, whatever the others say. What is refused for the
// sake of others is asked again with every change.
type standing struct {
	unread  []manifest.Unread
	before  []Refusal            // of those
	wrong   map[model.Ref]*wrong // in themselves
	asAlone bool                 // nothing else is left out
}

// wrong is an object that is left out for what it says.
type wrong struct {
	object  metav1.Object
	refusal Refusal
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
	for _, ref := range slices.SortedFunc(maps.Keys(s.wrong), compareKinds) {
		all = append(all, s.wrong[ref].refusal)
	}
	return all
}

// compareKinds orders as objects are looked through.
func compareKinds(a, b model.Ref) int {
	kinds := manifest.Kinds()
	return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Key(), b.Key()))
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
	s, ch := i.standing, &change{}
	for _, ref := range changed {
		object, old := objs.Find(ref), s.wrong[ref]
		unread := slices.ContainsFunc(s.unread, func(u manifest.Unread) bool { return u.Object == ref })
		switch {
		case unread && object == nil, old != nil && object == old.object, old == nil && object == i.c.objs.Find(ref):
			continue
		case unread:
			return nil, i.no("an object could not be read before")
		}
		if ref.Kind == "Namespace" && (object == nil) != (i.c.objs.Find(ref) == nil) && len(s.wrong) > 0 {
			return nil, i.no("a namespace comes or goes while objects are refused")
		}
		delete(s.wrong, ref)
		ch.set(i.c.objs, ref, i.admitOne(ref, object))
	}
	return ch, true
}

// admitOne gives what is to be kept of an object: itself, what stands in for it
// where it is wrong, or nil.
func (i *Incremental) admitOne(ref model.Ref, object metav1.Object) metav1.Object {
	if object == nil {
		return nil
	}
	flaws := flawsOf(object)
	if len(flaws) == 0 {
		return object
	}
	standIn, follows := i.c.objs.StandIn(object)
	i.standing.wrong[ref] = &wrong{object, refusalOf(object, flaws[0], follows)}
	return standIn
}
