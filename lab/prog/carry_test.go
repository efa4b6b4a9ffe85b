// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

func TestAFrameThatGoesRoundIsStopped(t *testing.T) {
	round := &trip{world: &World{}, walk: lab.Walk{Steps: make([]lab.Step, maxSteps)}}
	d, err := round.hook(model.FromDevice, &node{}, nil)
	require.NoError(t, err)
	require.Equal(t, model.Drop, d.Action)
	require.Equal(t, []string{"it goes round: it has met 512 hooks"}, round.walk.Faults)
	require.Len(t, round.walk.Steps, maxSteps, "no program was run")
}
