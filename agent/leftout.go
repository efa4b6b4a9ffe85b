// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model/manifest"
)

// leftOut are objects that cannot be kept, in one compile. A policy among them
// is replaced by one that allows nothing, so that what it would have stopped is
// not let through until it is mended.
type leftOut struct {
	objs    *manifest.Objects
	refused []api.Refused
	holds   []string // what holds instead, of each; empty: nothing
}

// addUnread leaves out an object that objs never had.
func (l *leftOut) addUnread(r *watch.Refused) {
	l.refused = append(l.refused, api.Refused{Object: r.Object, UID: string(r.UID), Field: r.Field, Problem: r.Problem})
	l.holds = append(l.holds, l.objs.Isolate(r.Object, r.Raw))
}

// add leaves out an object, and says whether it was there. What takes a
// policy's place is left out like any other if it is refused in its turn.
func (l *leftOut) add(r api.Refused) bool {
	kind, namespace, name := split(r.Object)
	obj := find(l.objs, kind, strings.TrimPrefix(r.Object, kind+" "))
	if obj == nil {
		return false
	}
	_ = l.objs.Delete(kind, namespace, name) // it is there
	if i := slices.IndexFunc(l.refused, func(other api.Refused) bool { return other.Object == r.Object }); i >= 0 {
		l.holds[i] = ""
		return true
	}
	r.UID = string(obj.GetUID()) // by which it is told of
	raw, err := json.Marshal(obj)
	if err != nil {
		raw = nil
	}
	l.refused = append(l.refused, r)
	l.holds = append(l.holds, l.objs.Isolate(r.Object, raw))
	return true
}

// told gives the objects with what holds instead.
func (l *leftOut) told() []api.Refused {
	for i, holds := range l.holds {
		if holds != "" {
			l.refused[i].Problem += "; " + holds
		}
	}
	l.holds = nil
	return l.refused
}
