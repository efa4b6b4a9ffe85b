// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestEveryGroupOfCommandsRefusesWhatItHasNot(t *testing.T) {
	groups := 0
	var ask func(*cobra.Command, []string)
	ask = func(cmd *cobra.Command, path []string) {
		if cmd.HasSubCommands() && cmd.Name() != "completion" {
			groups++
			out, stderr, code := weirIn(append(path, "no-such")...)
			require.Equal(t, exitUsage, code, "%s: %s", cmd.CommandPath(), out)
			require.Contains(t, stderr, `unknown command "no-such" for "`+cmd.CommandPath()+`"`)
			require.Contains(t, stderr, "See '"+cmd.CommandPath()+" --help'")
		}
		// One that has flags of its own does something itself.
		if cmd.HasSubCommands() && cmd.Name() != "completion" && !cmd.LocalNonPersistentFlags().HasFlags() {
			out, _, code := weirIn(path...)
			require.Equal(t, exitOK, code, cmd.CommandPath())
			require.Contains(t, out, "Available Commands:")
		}
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				ask(sub, append(append([]string{}, path...), sub.Name()))
			}
		}
	}
	ask(rootCommand(), nil)
	require.GreaterOrEqual(t, groups, 7)
}

func TestVersionNamesTheBuild(t *testing.T) {
	out, _, code := weirIn("version", "-o", "json")
	require.Equal(t, exitOK, code)
	var b build
	require.NoError(t, json.Unmarshal([]byte(out), &b))
	require.Equal(t, thisBuild(), b)
	require.NotEmpty(t, b.Version)
	_, stderr, code := weirIn("version", "-o", "xml")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "it is text or json")
}
