// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrorsInGoThatCannotBePlanted(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		dir  string // empty: here, in the checkout
		code int
		says string
	}{
		{"outside of a checkout", []string{"--go", "./..."}, t.TempDir(), exitFailed,
			"--go: this is no checkout of Weir: run it inside one"},
		{"with scenarios", []string{"--go", "./...", "some.txtar"}, "", exitUsage, "give neither scenarios nor --object"},
		{"of no package", []string{"--go", "./no-such"}, "", exitUsage, "--go: no Go code that errors could be planted in"},
		{"with a killer that there is not", []string{"--go", ".", "--without", "netns"}, "", exitUsage, "--without netns: expected one of test, prog, fuzz"},
		{"since no revision", []string{"--go", ".", "--changed", "no-such"}, "", exitUsage, "--changed no-such: ask git for the changed lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.dir != "" {
				t.Chdir(c.dir)
			}
			_, stderr, code := weirIn(append([]string{"mutate"}, c.args...)...)
			require.Contains(t, stderr, c.says)
			require.Equal(t, c.code, code)
		})
	}
	t.Run("without Go", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, stderr, code := weirIn("mutate", "--go", "./...")
		require.Contains(t, stderr, "the go command is not in PATH")
		require.Equal(t, exitFailed, code)
	})
}
