// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// fit leaves out what does not fit, as an agent does, and names what is left out
// in its order.
func fit(t *testing.T, objs *manifest.Objects, node string, local model.Local) (rest *manifest.Objects, state *model.State, refused []model.Ref) {
	t.Helper()
	rest = objs.Clone()
	for {
		state, _, err := compile.All(rest, node, local)
		if err == nil {
			return rest, state, refused
		}
		found := false
		for _, err := range flat(err) {
			var field *model.FieldError
			require.ErrorAs(t, err, &field, "an error about the whole")
			if _, there := rest.LeaveOut(field.Object); there {
				refused, found = append(refused, field.Object), true
			}
		}
		require.True(t, found, err)
	}
}

func flat(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, flat(err)...)
	}
	return all
}

// Whatever the budgets, there is a state; it is within them, the same in every
// run, and lets nothing through that the policies stop.
func TestWhatDoesNotFitOpensNothing(t *testing.T) {
	seed := seedOf(t)
	policies, pods, closed := 0, 0, 0
	for round := range number(t, "TEST_ROUNDS", 100) {
		r := rand.New(rand.NewPCG(seed, round))
		objs := Cluster(r, Options{Nodes: 1, MaxPods: 6, MaxPolicies: 6})
		local := model.Local{Devices: map[model.Key]model.Device{}}
		node := ""
		for name := range objs.Nodes {
			node = name
		}
		for name := range objs.Pods {
			local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name}
		}
		whole, _, err := compile.All(objs, node, local)
		require.NoError(t, err)
		local.Budgets = model.Budgets{}
		filled := compile.Fill(whole)
		for _, table := range slices.Sorted(maps.Keys(filled)) {
			least := 8 // the node's own addresses, and two rules of a set
			local.Budgets[table] = max(least, filled[table]*r.IntN(110)/100)
		}
		rest, state, refused := fit(t, objs, node, local)
		for table, entries := range compile.Fill(state) {
			require.LessOrEqual(t, entries, local.Budgets[table], "TEST_SEED=%d round %d: %s", seed, round, table)
		}
		_, again, same := fit(t, objs, node, local)
		require.Equal(t, refused, same, "TEST_SEED=%d round %d", seed, round)
		require.Equal(t, state, again, "TEST_SEED=%d round %d", seed, round)
		local.Budgets = nil
		free, _, err := compile.All(rest, node, local)
		require.NoError(t, err)
		require.Equal(t, free, state, "TEST_SEED=%d round %d: what fits is as it is without budgets", seed, round)

		before, after := oracle.NewExplainer(objs), oracle.NewExplainer(rest)
		for _, from := range ends(rest) {
			for _, to := range ends(rest) {
				for _, port := range []uint16{80, 443} {
					was, err := before.Explain(from, to, port, model.ProtocolTCP)
					require.NoError(t, err)
					is, err := after.Explain(from, to, port, model.ProtocolTCP)
					require.NoError(t, err)
					require.False(t, is.Allowed && !was.Allowed, "TEST_SEED=%d round %d: without %v, %s reaches %s port %d:\n%v\n%v",
						seed, round, refused, from, to, port, was.Story(), is.Story())
					if was.Allowed && !is.Allowed {
						closed++
					}
				}
			}
		}
		for _, object := range refused {
			if strings.HasSuffix(object.Kind, "Policy") {
				policies++
			} else {
				pods++
			}
		}
	}
	t.Logf("%d policies and %d other objects did not fit, which closed %d flows", policies, pods, closed)
	require.Positive(t, policies)
	require.Positive(t, pods)
	require.Positive(t, closed)
}
