// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

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
	out := LeaveUnread(objs, unread)
	err = out.Until(nil, func() (err error) {
		state, warnings, err = i.All(objs, node, local)
		return err
	})
	return state, out.refusals, warnings, err
}

// LeftOut are the objects of a cluster that cannot be kept, as far as they have
// been found out.
type LeftOut struct {
	objs     *manifest.Objects
	refusals []Refusal
}

// LeaveUnread begins with the objects that objs never had.
func LeaveUnread(objs *manifest.Objects, unread []manifest.Unread) *LeftOut {
	l := &LeftOut{objs: objs}
	for _, u := range unread {
		l.refusals = append(l.refusals, Refusal{Object: u.Object, UID: u.UID, Field: u.Field, Problem: u.Problem, Follows: objs.Isolate(u.Object, u.Raw)})
	}
	return l
}

// Refusals are those of all objects that are left out, in the order in which
// they were found.
func (l *LeftOut) Refusals() []Refusal { return l.refusals }

// Until leaves out what the error of a try names, until it succeeds or none of
// those that it names can go. stays, which may be nil, says which may not.
func (l *LeftOut) Until(stays func(model.Ref) bool, try func() error) error {
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
			changed = l.leave(bad) || changed
		}
		if !changed {
			return err
		}
	}
}

// leave leaves out an object, and says whether it was there. What takes a
// policy's place is left out like any other if it is refused in its turn.
func (l *LeftOut) leave(bad *model.FieldError) bool {
	object := l.objs.Find(bad.Object)
	if object == nil {
		return false
	}
	if i := slices.IndexFunc(l.refusals, func(r Refusal) bool { return r.Object == bad.Object }); i >= 0 {
		l.refusals[i].Follows = ""
		_ = l.objs.Delete(bad.Object.Kind, bad.Object.Namespace, bad.Object.Name) // it is there
		return true
	}
	follows, _ := l.objs.LeaveOut(bad.Object)
	l.refusals = append(l.refusals, Refusal{Object: bad.Object, UID: object.GetUID(), Field: bad.Field, Problem: bad.Problem, Table: bad.Table, Follows: follows})
	return true
}
