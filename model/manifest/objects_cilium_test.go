// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// An empty list names nobody, and no list is no condition: who writes a policy
// that was read must not make one of the other.
func TestAnEmptyListOfPeersStaysOneWhenItIsWritten(t *testing.T) {
	for name, rule := range map[string]string{
		"nobody":       `{"endpointSelector":{},"ingress":[{"fromEndpoints":[]}]}`,
		"no condition": `{"endpointSelector":{},"ingress":[{}]}`,
		"no rule":      `{"endpointSelector":{},"ingress":[]}`,
		"no direction": `{"endpointSelector":{}}`,
		"to nobody":    `{"endpointSelector":{},"egress":[{"toEntities":[],"toCIDRSet":[{"cidr":"10.0.0.0/8","except":[]}]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			var read CiliumRule
			require.NoError(t, json.Unmarshal([]byte(rule), &read))
			written, err := json.Marshal(&read)
			require.NoError(t, err)
			require.JSONEq(t, rule, string(written))
		})
	}
}
