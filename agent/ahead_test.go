// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
)

// A pass that ends while a pod is connected beside it says nothing of the pod until its
// device is up: its ADD would be answered too early.
func TestAPassSaysOfAPodBesideItWhatIsDone(t *testing.T) {
	at, now := api.Attachment{ContainerID: "c1", IfName: "eth0"}, inForce{ifindex: 7}
	a := &Agent{store: storeOf(t), problems: map[string]api.Problem{}, ahead: map[api.Attachment]inForce{at: now}}
	p := &pass{state: &model.State{}, local: &localNode{}}
	a.wireHost(p)
	require.Empty(t, a.inForce, "its device is not up yet")

	a.inForce[at] = now
	a.enforced = enforced{}
	a.wireHost(p)
	require.Equal(t, map[api.Attachment]inForce{at: now}, a.inForce)
}
