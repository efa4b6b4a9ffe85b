// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func FuzzAnnotations(f *testing.F) {
	for _, text := range []string{"1", "256", "257", "0", "-1", "+1", "01", " 1", "1e2", "0x10", "٣", "random", "maglev", "Maglev", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		weight, err := parseWeight(text)
		if err == nil {
			require.True(t, weight >= 1 && weight <= model.MaxWeight, "%q is a weight of %d", text, weight)
			require.Regexp(t, `^[1-9][0-9]{0,2}$`, text, "there is one way to write a weight")
		}
		algorithm, err := model.ParseAlgorithm(text)
		require.Equal(t, text == "random" || text == "maglev", err == nil)
		if err == nil {
			require.EqualValues(t, text, algorithm)
		}
	})
}
