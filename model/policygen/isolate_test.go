// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// What stands in for a refused policy lets nothing through that the policy
// would have stopped, whatever other policies say.
func TestAnIsolatedPolicyIsNeverMoreOpenThanItself(t *testing.T) {
	seed := seedOf(t)
	isolated, closed := 0, 0
	for round := range number(t, "TEST_ROUNDS", 200) {
		objs := Cluster(rand.New(rand.NewPCG(seed, round)), Options{Nodes: 1, MaxPods: 5, MaxPolicies: 4})
		before := oracle.NewExplainer(objs)
		for _, policy := range policiesOf(objs) {
			raw, err := json.Marshal(policy)
			require.NoError(t, err)
			without := objs.Clone()
			object := manifest.RefOf(policy)
			require.NotEmpty(t, without.Isolate(object, raw), object)
			isolated++
			after := oracle.NewExplainer(without)
			for _, from := range ends(objs) {
				for _, to := range ends(objs) {
					for _, port := range []uint16{80, 443} {
						was, err := before.Explain(from, to, port, model.ProtocolTCP)
						require.NoError(t, err)
						is, err := after.Explain(from, to, port, model.ProtocolTCP)
						require.NoError(t, err)
						require.False(t, is.Allowed && !was.Allowed, "TEST_SEED=%d round %d: without %s, %s reaches %s port %d:\n%s\n%v\n%v",
							seed, round, object, from, to, port, raw, was.Story(), is.Story())
						if was.Allowed && !is.Allowed {
							closed++
						}
					}
				}
			}
		}
	}
	t.Logf("%d policies isolated, which closed %d flows", isolated, closed)
	require.Greater(t, closed, isolated)
}

func policiesOf(objs *manifest.Objects) []metav1.Object {
	var all []metav1.Object
	each(objs.NetworkPolicies, func(k string) { all = append(all, objs.NetworkPolicies[k]) })
	each(objs.ClusterNetworkPolicies, func(k string) { all = append(all, objs.ClusterNetworkPolicies[k]) })
	each(objs.CiliumNetworkPolicies, func(k string) { all = append(all, objs.CiliumNetworkPolicies[k]) })
	each(objs.CiliumClusterwideNetworkPolicies, func(k string) { all = append(all, objs.CiliumClusterwideNetworkPolicies[k]) })
	return all
}

func ends(objs *manifest.Objects) []string {
	var all []string
	each(objs.Pods, func(k string) { all = append(all, k) })
	return append(slices.Clone(all), Outside...)
}
