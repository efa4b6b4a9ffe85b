// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever pods, policies and services become, what is made from what the last
// change left is what is made anew.
func TestStepsComeToWhatIsMadeAnew(t *testing.T) {
	seed := uint64(rand.Uint32())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "TEST_SEED")
	}
	t.Logf("TEST_SEED=%d", seed)
	var done Steps
	sequences := uint64(150)
	if text := os.Getenv("TEST_ROUNDS"); text != "" {
		var err error
		sequences, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "TEST_ROUNDS")
	}
	for sequence := range sequences {
		require.NoError(t, PlaySteps(seed, sequence, &done))
	}
	t.Logf("%+v", done)
	require.Greater(t, done.Alone, uint64(1500), "hardly anything was made from what was left")
	require.Greater(t, done.Whole, uint64(300), "hardly anything was made as a whole")
	require.Positive(t, done.Refused, "nothing was refused")
}
