// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/identity"
)

// identities expects that all nodes know pods by the same numbers, that these
// are the cluster's objects, and that a Deployment has one. It needs pods of
// "web" on every node, and that agents have settled.
func identities(e *environment, t *testing.T) {
	var numbers map[string]uint32
	e.quietly(t, 30*time.Second, "nodes agree on identities", func(ctx context.Context) (bool, string) {
		numbers = nil
		for i := range e.nodes {
			here, err := e.identitiesOf(ctx, t, e.nodes[i].Name)
			if err != nil {
				return false, err.Error()
			}
			if i > 0 && !maps.Equal(numbers, here) {
				return false, fmt.Sprintf("%s has %v, and %s has %v", e.nodes[0].Name, numbers, e.nodes[i].Name, here)
			}
			numbers = here
		}
		return len(numbers) > 0, "there are none"
	})
	web := map[uint32]bool{}
	for pod, number := range numbers {
		_, err := e.dynamic.Resource(identity.Resource()).Get(t.Context(), fmt.Sprint(number), metav1.GetOptions{})
		require.NoError(t, err, "identity %d of Pod %s is an object", number, pod)
		if strings.HasPrefix(pod, e.ns+"/web-") {
			web[number] = true
		}
	}
	require.Len(t, web, 1, "the pods of one Deployment have one identity")
	e.say("  %d nodes know %d pods by the same numbers", len(e.nodes), len(numbers))
}

// identitiesOf gives a node's shared numbers by pod. Labels without one are an
// error.
func (e *environment) identitiesOf(ctx context.Context, t *testing.T, node string) (map[string]uint32, error) {
	text, err := e.exec(ctx, "kube-system", e.agentOf(t, node).Name, "/weir", "identity", "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	numbers := map[string]uint32{}
	lines := json.NewDecoder(strings.NewReader(text))
	for lines.More() {
		var id api.Identity
		if err := lines.Decode(&id); err != nil {
			return nil, fmt.Errorf("read identities of %s: %w", node, err)
		}
		if id.Scope != api.ScopeShared && len(id.Pods) > 0 {
			return nil, fmt.Errorf("%s has no shared number for %s, and calls it %d", node, id.Labels, id.Number)
		}
		for _, pod := range id.Pods {
			numbers[pod] = id.Number
		}
	}
	return numbers, nil
}
