// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Refusal is an object that is left out, because it cannot be kept.
type Refusal struct {
	Object  model.Ref
	UID     types.UID   // empty: it has none yet
	Field   string      // path, as in spec.ports[0].port; empty: it is about all of it
	Problem string      // with the remedy
	Table   model.Table // whose budget does not hold the object; empty: it is wrong in itself
	// Follows says what holds instead until the object is mended, as
	// manifest.Isolate tells it; empty: nothing.
	Follows string
}

// String is one sentence for people.
func (r Refusal) String() string {
	text := r.Object.String()
	if r.Field != "" {
		text += ": " + r.Field
	}
	text += ": " + r.Problem
	if r.Follows != "" {
		text += " (" + r.Follows + ")"
	}
	return text
}

// Keep is All of as many objects as can be kept: the others are taken out of
// objs, and who is selected by a policy among them is isolated, so that what it
// would have stopped is not let through until it is mended. An error is about no
// object that could be left out; the State is then nil.
func (i *Incremental) Keep(objs *manifest.Objects, unread []manifest.Unread, node string, local model.Local) (state *model.State, refusals []Refusal, warnings []Warning, err error) {
	var changed []model.Ref
	if i.c != nil && i.standing != nil {
		changed = append(walk(i.c.objs, objs), i.standing.leftOut()...) // which may be gone
	}
	state, refusals, warnings, ok := i.keepPart(objs, unread, changed, node, local)
	if !ok {
		return i.keepAll(objs, unread, node, local)
	}
	for _, refusal := range refusals {
		objs.Remove(refusal.Object) // it may never have been there
		if standIn := i.c.objs.Find(refusal.Object); standIn != nil {
			_ = objs.Upsert(standIn) // it is a policy
			objs.MarkStandIn(standIn)
		}
	}
	return state, refusals, warnings, nil
}

// KeepAfter is Keep to whom says what has changed since the last call, as After
// is All. It leaves objs as they are: what is refused stays among them.
func (i *Incremental) KeepAfter(objs *manifest.Objects, unread []manifest.Unread, changed []model.Ref, node string, local model.Local) (state *model.State, refusals []Refusal, warnings []Warning, err error) {
	if state, refusals, warnings, ok := i.keepPart(objs, unread, changed, node, local); ok {
		return state, refusals, warnings, nil
	}
	return i.keepAll(objs.Clone(), unread, node, local)
}

// keepPart makes again what has changed, if that is enough.
func (i *Incremental) keepPart(objs *manifest.Objects, unread []manifest.Unread, changed []model.Ref, node string, local model.Local) (state *model.State, refusals []Refusal, warnings []Warning, ok bool) {
	switch s := i.standing; {
	case !i.keeps(node, &local):
		return nil, nil, nil, false
	case s == nil || !sameUnread(s.unread, unread):
		return nil, nil, nil, i.no("other objects could not be read")
	case s.aside == nil:
		return nil, nil, nil, i.no("an object is refused for the sake of others that is no service, and no NetworkPolicy for its rules or blocks")
	}
	ch, ok := i.admit(objs, changed)
	if !ok {
		return nil, nil, nil, false
	}
	state, warnings, ok = i.patch(ch, &local)
	return state, i.standing.refusals(), warnings, ok
}

// keepAll makes all of it, of those of objs that can be kept.
func (i *Incremental) keepAll(objs *manifest.Objects, unread []manifest.Unread, node string, local model.Local) (state *model.State, refusals []Refusal, warnings []Warning, err error) {
	out := LeaveUnread(objs, unread)
	err = out.Until(nil, func() (err error) {
		state, warnings, err = i.full(objs, node, local, true)
		return err
	})
	first := len(unread) + len(out.wrong)
	i.standing = &standing{unread: slices.Clone(unread), before: out.refusals[:len(unread):len(unread)], after: out.refusals[first:], wrong: out.wrong}
	if i.c != nil {
		i.standing.aside = i.c.setAside(out.asides, i.standing.after)
	}
	return state, out.refusals, warnings, err
}

// LeftOut are the objects of a cluster that cannot be kept, as far as they have
// been found out.
type LeftOut struct {
	objs     *manifest.Objects
	refusals []Refusal
	wrong    map[model.Ref]*wrong
	asides   map[model.Ref]metav1.Object // of them, those that are wrong because of others; nil: refused twice
}

// LeaveUnread begins with the objects that objs never had.
func LeaveUnread(objs *manifest.Objects, unread []manifest.Unread) *LeftOut {
	l := &LeftOut{objs: objs, wrong: map[model.Ref]*wrong{}, asides: map[model.Ref]metav1.Object{}}
	for _, u := range unread {
		l.refusals = append(l.refusals, Refusal{Object: u.Object, UID: u.UID, Field: u.Field, Problem: u.Problem, Follows: objs.Isolate(u.Object, u.Raw)})
	}
	return l
}

// Refusals are those of all objects that are left out, in the order in which
// they were found.
func (l *LeftOut) Refusals() []Refusal { return l.refusals }

// Until leaves out what is wrong in itself, and then what the error of a try
// names, until it succeeds or none of those that it names can go. stays, which may
// be nil, says which may not.
func (l *LeftOut) Until(stays func(model.Ref) bool, try func() error) error {
	l.leaveWrong(stays)
	for {
		err := try()
		if err == nil {
			return nil
		}
		changed := false
		named := map[model.Ref]bool{}
		for _, bad := range model.FieldErrors(err) {
			if named[bad.Object] || stays != nil && stays(bad.Object) {
				continue
			}
			named[bad.Object] = true
			if l.asides[bad.Object] = l.objs.Find(bad.Object); l.isRefused(bad.Object) {
				l.asides[bad.Object] = nil
			}
			changed = l.leave(bad) || changed
		}
		if !changed {
			return err
		}
	}
}

// leaveWrong leaves out what is wrong in itself, so that nobody is refused for the
// sake of it.
func (l *LeftOut) leaveWrong(stays func(model.Ref) bool) {
	l.objs.Each(func(object metav1.Object) {
		flaws := flawsIn(l.objs, object)
		if len(flaws) == 0 || stays != nil && stays(flaws[0].Object) {
			return
		}
		before := len(l.refusals)
		if l.leave(flaws[0]); len(l.refusals) > before {
			l.wrong[flaws[0].Object] = &wrong{object, l.refusals[before]}
		}
	})
}

// leave leaves out an object, and says whether it was there. What takes a
// policy's place is left out like any other if it is refused in its turn.
func (l *LeftOut) leave(bad *model.FieldError) bool {
	object := l.objs.Find(bad.Object)
	if object == nil {
		return false
	}
	if i := l.refusal(bad.Object); i >= 0 {
		l.refusals[i].Follows = ""
		l.objs.Remove(bad.Object)
		return true
	}
	follows, _ := l.objs.LeaveOut(bad.Object)
	l.refusals = append(l.refusals, refusalOf(object, bad, follows))
	return true
}

// refusal is the index of an object's refusal; negative: it is not refused.
func (l *LeftOut) refusal(ref model.Ref) int {
	return slices.IndexFunc(l.refusals, func(r Refusal) bool { return r.Object == ref })
}

func (l *LeftOut) isRefused(ref model.Ref) bool { return l.refusal(ref) >= 0 }

func refusalOf(object metav1.Object, bad *model.FieldError, follows string) Refusal {
	return Refusal{Object: bad.Object, UID: object.GetUID(), Field: bad.Field, Problem: bad.Problem, Table: bad.Table, Follows: follows}
}
