// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever pods, policies and services become, what is made from what the last
// change left is what is made anew.
func TestStepsComeToWhatIsMadeAnew(t *testing.T) {
	seed := uint64(rand.Uint32())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "TEST_SEED")
	}
	t.Logf("TEST_SEED=%d", seed)
	var done Steps
	sequences := uint64(150)
	if text := os.Getenv("TEST_ROUNDS"); text != "" {
		var err error
		sequences, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "TEST_ROUNDS")
	}
	for sequence := range sequences {
		require.NoError(t, PlaySteps(seed, sequence, &done))
	}
	t.Logf("%+v", done)
	require.Greater(t, done.Alone, uint64(1500), "hardly anything was made from what was left")
	require.Greater(t, done.Whole, uint64(300), "hardly anything was made as a whole")
	require.Positive(t, done.Refused, "nothing was refused")
	for _, kind := range []string{
		"a Node comes", "a Node goes", "a Node says something else", "a Node's heartbeat", "labels of this node's own Node",
		"a namespace comes", "a namespace is gone", "a block of addresses comes or goes", "most of an identity's addresses are in other blocks",
		"an address in dispute", "an identity has addresses of another family", "an identity is shared", "a pod with a gateway",
		"a pod with a weight, or on the only node without its name", "a policy of Cilium's reads services", "the API's servers", "a workload", "a workload at a device of this node",
		"the first policy of Cilium's comes, or the last one goes", "objects are refused for the sake of others",
	} {
		require.Positive(t, done.Taken[kind], "nothing was made from what was left: %s", kind)
	}
	for _, why := range []string{
		"a budget is exceeded", "an address of this node's is another's too", "networks of pods overlap, or hold addresses of Nodes",
		"pods bring other gateways", "pods have addresses of another family now", "this node's own Node comes, goes or says something else",
		"an object is refused for the sake of others that is no service, and no NetworkPolicy for its rules or blocks",
	} {
		require.Positive(t, done.Why[why], "nothing was made as a whole: %s", why)
	}
}
