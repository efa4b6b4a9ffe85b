// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func twoFlows(t testing.TB) *Captures {
	return captureOf(t,
		sent{0, tcp(t, "10.1.0.2", "192.0.2.1", 1000, 443, syn), 0},
		sent{1, tcp(t, "10.1.0.1", "10.96.0.1", 1000, 80, syn), 0},
		sent{2, tcp(t, "10.1.0.1", "10.96.0.1", 1000, 80, syn), 0})
}

func TestADifferenceIsToldByFlow(t *testing.T) {
	needRoot(t)
	captures := twoFlows(t)
	var d *Diff
	require.NoError(t, WithNetwork(context.Background(), func(n *Network) (err error) {
		before := Options{At: model.FromContainer, Objects: objects(t)}
		after := Options{At: model.FromContainer, Objects: objects(t, closed)}
		d, err = Compare(context.Background(), n, captures, before, after)
		return err
	}))
	require.Equal(t, 3, d.Packets)
	require.Equal(t, 2, d.Changed)
	require.Len(t, d.Flows, 1)
	require.Equal(t, "tcp 10.1.0.1:1000 > 10.96.0.1:80", d.Flows[0].Flow())
	require.Equal(t, 2, d.Flows[0].First)
	require.Equal(t, []Kind{{
		Before: "forward out local as 10.1.0.1:1000 > 10.1.0.2:8080", After: "drop policy-ingress", First: 2, Packets: 2,
		before: d.Flows[0].Kinds[0].before, after: d.Flows[0].Kinds[0].after,
	}}, d.Flows[0].Kinds)
}

func TestEqualProgramsOfTwoFilesDoNotDiffer(t *testing.T) {
	needRoot(t)
	object, err := os.ReadFile("../bpf/container_bpfel.o")
	require.NoError(t, err)
	captures := twoFlows(t)
	require.NoError(t, WithNetwork(context.Background(), func(n *Network) error {
		o := Options{At: model.FromContainer, Objects: objects(t)}
		other := o
		other.Object = object
		d, err := Compare(context.Background(), n, captures, o, other)
		require.NoError(t, err)
		require.Equal(t, 3, d.Packets)
		require.Zero(t, d.Changed)
		other.Object = []byte("not an object file")
		_, err = Compare(context.Background(), n, captures, o, other)
		require.ErrorIs(t, err, datapath.ErrObject)
		require.ErrorContains(t, err, "after: ")
		return nil
	}))
}

// results writes a replay's JSON.
func resultsOf(t testing.TB, captures *Captures, objs *manifest.Objects) []byte {
	got, _, err := replayed(t, captures, Options{Objects: objs})
	require.NoError(t, err)
	var out []byte
	var s Summary
	for i := range got {
		s.Add(&got[i])
		out = append(AppendJSON(out, &got[i], false), '\n')
	}
	s.Finish()
	line, err := json.Marshal(map[string]*Summary{"summary": &s})
	require.NoError(t, err)
	return append(out, line...)
}

func TestEarlierResultsCompareAsReplaysDo(t *testing.T) {
	needRoot(t)
	captures := twoFlows(t)
	open, shut := resultsOf(t, captures, objects(t)), resultsOf(t, captures, objects(t, closed))
	d, err := CompareResults(bytes.NewReader(open), bytes.NewReader(shut))
	require.NoError(t, err)
	require.Equal(t, 3, d.Packets)
	require.Equal(t, 2, d.Changed)
	require.Len(t, d.Flows, 1)
	require.Equal(t, "tcp 10.1.0.1:1000 > 10.96.0.1:80", d.Flows[0].Flow())
	require.Equal(t, "drop policy-ingress", d.Flows[0].Kinds[0].After)

	d, err = CompareResults(bytes.NewReader(open), bytes.NewReader(open))
	require.NoError(t, err)
	require.Zero(t, d.Changed)
}

func TestResultsThatDoNotFitTogetherAreRefused(t *testing.T) {
	one := `{"n":1,"len":60,"verdict":"forward","src":"10.0.0.1","dst":"10.0.0.2"}`
	for name, c := range map[string]struct{ before, after, says string }{
		"other packets":    {one, strings.Replace(one, "10.0.0.2", "10.0.0.3", 1), "packet 1 of the one is not packet 1"},
		"fewer packets":    {one, `{"summary":{}}`, "one has more packets"},
		"no results":       {one, `{"kind":"Pod"}`, "after: read results, line 1"},
		"no JSON":          {"\n\nhello", one, "before: read results, line 3"},
		"a wrong address":  {strings.Replace(one, "10.0.0.1", "ten", 1), one, "before: read results, line 1"},
		"an endless line":  {strings.Repeat(" ", maxLine+1), one, "before: read results, line 1"},
		"a negative value": {strings.Replace(one, "60", `"sixty"`, 1), one, "before: read results, line 1"},
	} {
		_, err := CompareResults(strings.NewReader(c.before), strings.NewReader(c.after))
		require.ErrorIs(t, err, ErrResults, name)
		require.ErrorContains(t, err, c.says, name)
	}
}

func TestManyChangedFlowsAreCountedAndNotKept(t *testing.T) {
	d := &Diff{}
	for i := range maxChanges + 5 {
		flow := flowID{lowPort: uint16(i), highPort: uint16(i >> 16)}
		d.add(i+1, flow, met{verdict: Forward}, met{verdict: Drop}, func() Change { return Change{} })
	}
	require.Len(t, d.Flows, maxChanges)
	require.Equal(t, 5, d.More)
	require.Equal(t, maxChanges+5, d.Changed)
}

func FuzzResults(f *testing.F) {
	f.Add([]byte(`{"n":1,"time":"2024-01-02T03:04:05Z","caplen":1,"len":60,"verdict":"forward","src":"10.0.0.1","dst":"fd00::2","xlate":{"src":"10.0.0.1","dst":"10.0.0.2","sport":1}}`))
	f.Add([]byte("{\"n\":1,\"verdict\":\"drop\",\"reason\":\"vlan\"}\n{\"summary\":{\"packets\":1}}\n"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newResults(bytes.NewReader(data))
		for {
			one, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				require.ErrorIs(t, err, ErrResults)
				return
			}
			require.NotZero(t, one.Number)
			require.NotEmpty(t, fmt.Sprint(one.met()))
		}
		d, err := CompareResults(bytes.NewReader(data), bytes.NewReader(data))
		require.NoError(t, err)
		require.Zero(t, d.Changed)
	})
}
