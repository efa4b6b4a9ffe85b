// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/model"
)

func newRecord(number model.Identity, key string) *record {
	r := &record{number: number, key: key}
	r.Name, r.UID = nameOf(number), types.UID("uid of "+key)
	return r
}

func TestAllNumbersCanBeGivenAndNoneTwice(t *testing.T) {
	table := newTable()
	for i := range int(room) {
		key := fmt.Sprint(i)
		number, free := table.choose(key, time.Time{})
		require.True(t, free, i)
		require.True(t, number.IsShared())
		require.Nil(t, table.live[number])
		table.put(newRecord(number, key))
	}
	require.Len(t, table.numbers(), 65280)
	_, free := table.choose("one more", time.Time{})
	require.False(t, free)
}

func TestANumberThatWentIsNotOthersAtOnce(t *testing.T) {
	table := newTable()
	number, _ := table.choose("a", time.Now())
	// Whatever begins to look at the same number.
	rival := ""
	for i := 0; rival == ""; i++ {
		if key := fmt.Sprint(i); hash(key)%room == hash("a")%room {
			rival = key
		}
	}
	a := newRecord(number, "a")
	table.put(a)
	went := time.Now()
	table.remove(a, went)
	next, _ := table.choose(rival, went.Add(-time.Minute))
	require.Equal(t, number+1, next)
	same, _ := table.choose("a", went.Add(-time.Minute))
	require.Equal(t, number, same, "its labels may have it")
	later, _ := table.choose(rival, went.Add(time.Second))
	require.Equal(t, number, later)
	table.forget(went.Add(time.Second))
	require.Empty(t, table.gone)
}

func TestADeletionThatIsToldLateTakesNothingFromWhoCameSince(t *testing.T) {
	table := newTable()
	old, fresh := newRecord(300, "old"), newRecord(300, "fresh")
	table.put(old)
	table.put(fresh)
	table.remove(old, time.Now())
	require.Equal(t, map[string]model.Identity{"fresh": 300}, table.numbers())
}

func TestANumberLostWhileLabelsWereLookedAtIsHeld(t *testing.T) {
	table := newTable()
	a := newRecord(300, "a")
	table.put(a)
	require.Equal(t, model.Identity(300), table.numbers()["a"]) // a compile begins
	table.remove(a, time.Now())
	wanted := map[string]model.WantedIdentity{"a": {Number: 300, Here: true}}
	require.False(t, table.want(wanted), "nothing is to be done anew")
	require.Equal(t, map[string]model.Identity{"a": 300}, table.numbers())
	require.Equal(t, []string{"a"}, table.missing())

	// Somebody else has it since: then it is not.
	table.put(newRecord(300, "b"))
	require.True(t, table.want(wanted))
	require.Equal(t, map[string]model.Identity{"b": 300}, table.numbers())
}

func BenchmarkNumbers(b *testing.B) {
	table := newTable()
	for i := range int(room) {
		table.put(newRecord(first+model.Identity(i), fmt.Sprint(i)))
	}
	for b.Loop() {
		table.merged = nil
		table.numbers()
	}
}
