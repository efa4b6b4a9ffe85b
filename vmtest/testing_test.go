// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/vmtest"
)

func TestAPartOfATestRunsInEachKernel(t *testing.T) {
	vmtest.OnEachKernel(t, vmtest.Options{}, []string{"5.10", "7.2"}, func(t *testing.T) {
		id, ok := vmtest.InGuest()
		require.True(t, ok)
		release, err := os.ReadFile("/proc/sys/kernel/osrelease")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(release), id+"."))
	})
}
