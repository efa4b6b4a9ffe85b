// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model/manifest"
)

func mustParse(t testing.TB, text string) *manifest.Objects {
	t.Helper()
	objs, err := manifest.Parse("test.yaml", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}
