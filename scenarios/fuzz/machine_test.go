// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

// A machine with a device on the node is an endpoint: it is reached, speaks, and is
// bound by the policies that would bind a pod with its labels, as the oracle says, in
// both families.
func TestProgramAndModelAgreeOnEndpointsThatAreNoPods(t *testing.T) {
	requireRoot(t)
	for name, uplinks := range map[string]bool{"between endpoints": false, "with uplinks": true} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			met := map[string]int{}
			watch := func(data []byte, e oracle.Expectation) oracle.Expectation {
				mu.Lock()
				defer mu.Unlock()
				for _, t := range e.Translations {
					if e.Action == model.Forward && strings.HasPrefix(t.Endpoint, "ExternalWorkload ") {
						met[map[byte]string{4: "IPv4", 6: "IPv6"}[byte(frame.Decode(data).Version)]]++
					}
				}
				return e
			}
			tally, disagreements, err := Run(t.Context(), Options{
				Seed: 3, Sequences: 150, Uplinks: uplinks, Doubt: watch,
				machine: func(pod string) bool { return strings.HasSuffix(pod, "p0") || strings.HasSuffix(pod, "p2") },
				Found:   func(r Report) { t.Logf("sequence %d: %+v", r.Sequence, r.Finding) },
			})
			require.NoError(t, err)
			require.Zero(t, disagreements)
			require.Greater(t, met["IPv4"], 100, "frames were forwarded to machines: %v", met)
			require.Greater(t, met["IPv6"], 100, "frames were forwarded to machines: %v", met)
			for _, reason := range []model.Reason{model.ReasonNone, model.ReasonPolicyIngress, model.ReasonPolicyEgress, model.ReasonSpoofedSource} {
				require.NotZero(t, tally.met[Outcome{Hook: model.FromContainer, Reason: reason}], "no frame met %q", reason)
			}
		})
	}
}
