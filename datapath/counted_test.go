// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestEveryReasonsCountersAreRead(t *testing.T) {
	d := openDatapath(t, Options{})
	for reason, number := range d.names.numbers {
		require.Less(t, d.names.counter(reason, model.ToDevice), d.counted(), "%s, number %d", reason, number)
	}
	require.NotContains(t, d.names.numbers, model.Reason("max"), "room for reasons is none")
}
