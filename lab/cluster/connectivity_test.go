// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/connectivity"
)

// connected is 'weir connectivity test': on Weir no action fails, and only for what is
// not the network's is one skipped.
func connected(e *environment, t *testing.T) {
	command := exec.CommandContext(t.Context(), e.weir, "connectivity", "test", "--image", e.image, "-o", "json")
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &prefixed{say: func(line string) { e.say("  %s", line) }}
	require.NoError(t, command.Run())
	var report connectivity.Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &report))
	require.True(t, report.Features.Weir)
	tally := connectivity.Count(report.Results)
	require.Zero(t, tally.Failed+tally.Flaky)
	require.GreaterOrEqual(t, tally.Passed, 70*len(e.families()))
	for i := range report.Results {
		r := &report.Results[i]
		if r.Status == connectivity.Skipped {
			require.True(t, notTheNetworks(r.Reason), "%s is skipped: %s", r.Name, r.Reason)
		}
	}
}

// notTheNetworks says whether a reason is of how many nodes and families the cluster
// has, and of where the test is run.
func notTheNetworks(reason string) bool {
	for _, why := range []string{"pods have no", "one node alone", "no neighbour", "no way back"} {
		if strings.Contains(reason, why) {
			return true
		}
	}
	return false
}
