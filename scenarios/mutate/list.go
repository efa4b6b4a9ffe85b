// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"cmp"
	"slices"
	"sync"
)

// lockedList is filled by several workers.
type lockedList struct {
	mu  sync.Mutex
	all []*subject
}

func (l *lockedList) add(some []*subject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, some...)
}

// sorted gives them in an order that does not depend on who was first.
func (l *lockedList) sorted() []*subject {
	slices.SortFunc(l.all, func(a, b *subject) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Function, b.Function), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
	return l.all
}
