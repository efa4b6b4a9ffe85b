// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"github.com/weirnet/weir/model"
)

// First and number of those that sets of labels may have.
const (
	first = model.FirstLabelIdentity
	room  = 1<<16 - uint32(first)
)

// table is what is known of numbers.
type table struct {
	live   map[model.Identity]*record // objects that there are
	byKey  map[string][]*record       // the same, those that count first
	wanted map[string]model.WantedIdentity
	// held are numbers of wanted labels whose object is gone: they are in use,
	// and kept until somebody has them or the labels have another.
	held map[string]model.Identity
	gone map[model.Identity]farewell

	merged map[string]model.Identity // nil: to be made
}

// farewell is the end of an object.
type farewell struct {
	key string
	at  time.Time
}

func newTable() *table {
	return &table{
		live: map[model.Identity]*record{}, byKey: map[string][]*record{}, wanted: map[string]model.WantedIdentity{},
		held: map[string]model.Identity{}, gone: map[model.Identity]farewell{},
	}
}

// number gives that of labels.
func (t *table) number(key string) (model.Identity, bool) {
	if list := t.byKey[key]; len(list) > 0 {
		return list[0].number, true
	}
	number, found := t.held[key]
	return number, found
}

// numbers gives all, each once. Nobody changes the map any more.
func (t *table) numbers() map[string]model.Identity {
	if t.merged == nil {
		t.merged = make(map[string]model.Identity, len(t.byKey)+len(t.held))
		for key, number := range t.held {
			t.merged[key] = number
		}
		for key, list := range t.byKey {
			t.merged[key] = list[0].number
		}
	}
	return t.merged
}

// put takes an object in, and says whether a number that is in force changes.
func (t *table) put(r *record) bool {
	before := t.live[r.number]
	if before != nil && before.UID == r.UID && before.key == r.key {
		t.live[r.number] = r
		t.replace(before, r)
		return false
	}
	keys := []string{r.key}
	if before != nil {
		keys = append(keys, before.key)
	}
	holder, held := t.holder(r.number)
	if held {
		keys = append(keys, holder)
	}
	return t.watching(keys, func() {
		if before != nil {
			t.drop(before)
		}
		if held {
			delete(t.held, holder)
		}
		t.live[r.number] = r
		delete(t.gone, r.number)
		if r.key == "" {
			return
		}
		delete(t.held, r.key)
		list := append(t.byKey[r.key], r)
		slices.SortFunc(list, older)
		t.byKey[r.key] = list
	})
}

// older orders objects of the same labels: the first of them counts, for every
// agent. An agent that has not heard of an older one makes a younger.
func older(a, b *record) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.number, b.number))
}

func (t *table) replace(old, r *record) {
	if i := slices.Index(t.byKey[old.key], old); i >= 0 {
		t.byKey[old.key][i] = r
	}
}

// remove forgets an object, unless another has its number by now, and says
// whether a number that is in force changes.
func (t *table) remove(r *record, now time.Time) bool {
	there := t.live[r.number]
	if there == nil || there.UID != r.UID {
		return false
	}
	return t.watching([]string{there.key}, func() {
		t.drop(there)
		t.gone[r.number] = farewell{there.key, now}
		if _, wanted := t.wanted[there.key]; wanted && len(t.byKey[there.key]) == 0 {
			t.held[there.key] = r.number
		}
	})
}

func (t *table) drop(r *record) {
	delete(t.live, r.number)
	list := slices.DeleteFunc(t.byKey[r.key], func(other *record) bool { return other == r })
	if t.byKey[r.key] = list; len(list) == 0 {
		delete(t.byKey, r.key)
	}
}

func (t *table) holder(number model.Identity) (string, bool) {
	for key, n := range t.held {
		if n == number {
			return key, true
		}
	}
	return "", false
}

// watching says whether a change gives other numbers to labels that are in
// force.
func (t *table) watching(keys []string, change func()) bool {
	type answer struct {
		number model.Identity
		found  bool
	}
	ask := func(key string) answer {
		number, found := t.number(key)
		return answer{number, found}
	}
	before := make([]answer, len(keys))
	for i, key := range keys {
		before[i] = ask(key)
	}
	change()
	t.merged = nil
	for i, key := range keys {
		if t.wanted[key].Number != model.IdentityUnknown && ask(key) != before[i] {
			return true
		}
	}
	return false
}

// want takes in which labels pods have, forgets numbers that were held for
// others, and says whether numbers in force are not the ones given here: they
// may have changed while the labels were looked at.
func (t *table) want(wanted map[string]model.WantedIdentity) bool {
	t.wanted = wanted
	for key := range t.held {
		if _, found := wanted[key]; !found {
			delete(t.held, key)
			t.merged = nil
		}
	}
	differ := false
	for key, w := range wanted {
		if w.Number == model.IdentityUnknown {
			continue
		}
		number, found := t.number(key)
		switch {
		case found:
			differ = differ || number != w.Number
		case w.Number.IsShared() && t.live[w.Number] == nil && !t.isHeld(w.Number):
			t.held[key] = w.Number
			t.merged = nil
		case w.Number.IsShared():
			differ = true
		}
	}
	return differ
}

func (t *table) isHeld(number model.Identity) bool {
	_, held := t.holder(number)
	return held
}

// missing are the labels of this node's pods that have no object.
func (t *table) missing() []string {
	var keys []string
	for key, w := range t.wanted {
		if w.Here && len(t.byKey[key]) == 0 {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// choose gives a number that labels can have: the one that they have had, else
// the first that is free from where the labels themselves say, so that agents
// choose the same. Numbers of others that went after since are not taken.
func (t *table) choose(key string, since time.Time) (model.Identity, bool) {
	if number, found := t.held[key]; found {
		return number, true
	}
	taken := map[model.Identity]bool{}
	for _, number := range t.held {
		taken[number] = true
	}
	start := hash(key) % room
	for i := range room {
		number := first + model.Identity((start+i)%room)
		last, went := t.gone[number]
		if t.live[number] == nil && !taken[number] && (!went || last.key == key || last.at.Before(since)) {
			return number, true
		}
	}
	return 0, false
}

func hash(parts ...string) uint32 {
	h := fnv.New32a()
	for _, part := range parts {
		_, _ = h.Write([]byte(part)) // it never fails
	}
	return h.Sum32()
}

// unused are the objects that count for no pod.
func (t *table) unused() []*record {
	var list []*record
	for _, r := range t.live {
		_, wanted := t.wanted[r.key]
		if !wanted || t.byKey[r.key][0] != r {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *record) int { return cmp.Compare(a.number, b.number) })
	return list
}

// forget drops farewells of before a time.
func (t *table) forget(since time.Time) {
	for number, last := range t.gone {
		if last.at.Before(since) {
			delete(t.gone, number)
		}
	}
}
