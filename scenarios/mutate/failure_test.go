// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFailureIsTheInnermostError(t *testing.T) {
	around := "--- FAIL: TestSockets (0.62s)\n    \tError Trace:\tsocket_test.go:79\n    \tError:      \tReceived unexpected error:\n" +
		"    \t            \texit status 1\n    \tMessages:   \t=== RUN   TestSockets\n"
	for name, tt := range map[string]struct{ said, want string }{
		"in a child":           {around + "    \t    \tError:      \tNot equal: \n    \t    \t    \texpected: 1\n", "Not equal:"},
		"an error in a child":  {around + "    \t    \tError:      \tReceived unexpected error:\n    \t    \t    \tno route to host\n", "no route to host"},
		"a child that crashed": {around + "    \t    panic: nil map\n", "exit status 1"},
		"in no child":          {"--- FAIL: TestMap (0s)\n    Error:      \tShould be zero\n", "Should be zero"},
		"no assertion":         {"panic: nil map\ngoroutine 1\n", "panic: nil map"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, failure(tt.said)) })
	}
}
