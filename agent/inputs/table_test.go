// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// seed is TEST_SEED, or chance.
func seed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// reader takes in what a table says.
type reader struct {
	seen uint64
	rows map[string]int
}

func (r *reader) read(t *Table[string, int]) (changes int, whole bool) {
	list, now, whole := t.Since(r.seen)
	if whole {
		clear(r.rows)
	}
	for _, c := range list {
		if c.Gone {
			delete(r.rows, c.Key)
		} else {
			r.rows[c.Key] = c.Value
		}
	}
	r.seen = now
	return len(list), whole
}

func TestAReaderThatTakesInWhatChangedHasTheRows(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	table, truth := NewTable[string, int](), map[string]int{}
	often, seldom := &reader{rows: map[string]int{}}, &reader{rows: map[string]int{}}
	for round := range 8_000 {
		key := fmt.Sprint(random.IntN(1 + round/4)) // ever more of them
		if random.IntN(3) == 0 {
			_, there := truth[key]
			require.Equal(t, there, table.Delete(key))
			delete(truth, key)
		} else {
			table.Put(key, round)
			truth[key] = round
		}
		if round > 6_000 && len(truth) > 0 { // and then none
			for key := range maps.Keys(truth) {
				table.Delete(key)
				delete(truth, key)
				break
			}
		}
		if random.IntN(5) == 0 {
			often.read(table)
			require.Equal(t, truth, often.rows)
		}
		if random.IntN(1000) == 0 {
			seldom.read(table)
			require.Equal(t, truth, seldom.rows)
		}
		require.Equal(t, len(truth), table.Len())
		require.LessOrEqual(t, len(table.log), 2*len(truth)+slack)
	}
}

func TestAChangeIsToldOnceAndInOrder(t *testing.T) {
	table := NewTable[string, string]()
	table.Put("a", "1")
	table.Put("b", "1")
	_, now, whole := table.Since(0)
	require.True(t, whole)
	table.Put("a", "2")
	table.Put("c", "1")
	table.Delete("b")
	table.Put("a", "3")
	changes, now, whole := table.Since(now)
	require.False(t, whole)
	require.Equal(t, []Change[string, string]{{Key: "c", Value: "1"}, {Key: "b", Gone: true}, {Key: "a", Value: "3"}}, changes)
	changes, _, whole = table.Since(now)
	require.False(t, whole)
	require.Empty(t, changes)
	value, found := table.Get("a")
	require.True(t, found)
	require.Equal(t, "3", value)
	_, found = table.Get("b")
	require.False(t, found)
}

func TestDeletionsAreForgottenAndWhoMissedThemBeginsAnew(t *testing.T) {
	table := NewTable[string, int]()
	late := &reader{rows: map[string]int{}}
	table.Put("kept", 0)
	table.Put("gone", 0)
	late.read(table)
	table.Delete("gone")
	for i := range 10 * slack {
		table.Put(fmt.Sprint(i), i)
		table.Delete(fmt.Sprint(i))
	}
	require.Less(t, len(table.rows), 4*slack, "what is gone takes no memory for ever")
	_, whole := late.read(table)
	require.True(t, whole)
	require.Equal(t, map[string]int{"kept": 0}, late.rows)
}
