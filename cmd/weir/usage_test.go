// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestEveryGroupOfCommandsRefusesWhatItHasNot(t *testing.T) {
	groups := 0
	var ask func(*cobra.Command, []string)
	ask = func(cmd *cobra.Command, path []string) {
		// One that takes names of its own knows no word to be a command.
		if cmd.HasSubCommands() && cmd.Name() != "completion" && !strings.Contains(cmd.Use, "[NAME...]") {
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

// everyCommand gives those that people may see, with the words that lead to them.
func everyCommand(see func(cmd *cobra.Command, path []string)) {
	var walk func(*cobra.Command, []string)
	walk = func(cmd *cobra.Command, path []string) {
		see(cmd, path)
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				walk(sub, append(append([]string{}, path...), sub.Name()))
			}
		}
	}
	walk(rootCommand(), nil)
}

func TestHelpPrintsNoEmptyDefault(t *testing.T) {
	everyCommand(func(cmd *cobra.Command, path []string) {
		out, _, code := weirIn(append(path, "--help")...)
		require.Equal(t, exitOK, code, path)
		require.NotContains(t, out, "(default [])", path)
	})
}

func TestHelpFitsIntoATerminal(t *testing.T) {
	seen := 0
	everyCommand(func(cmd *cobra.Command, path []string) {
		if cmd.Name() == "completion" || cmd.HasParent() && cmd.Parent().Name() == "completion" {
			return // its text is cobra's
		}
		seen++
		out, stderr, code := weirIn(append(path, "--help")...)
		require.Equal(t, exitOK, code, "%s: %s", cmd.CommandPath(), stderr)
		for line := range strings.Lines(out) {
			line = strings.TrimRight(line, "\n")
			require.NotContains(t, line, "\t", "a tab in the help of %s", cmd.CommandPath())
			require.LessOrEqual(t, utf8.RuneCountInString(line), columns, "the help of %s is wider than %d: %s", cmd.CommandPath(), columns, line)
		}
	})
	require.Greater(t, seen, 30)
}

func TestEveryCommandRefusesAFlagThatItHasNot(t *testing.T) {
	everyCommand(func(cmd *cobra.Command, path []string) {
		if cmd.DisableFlagParsing {
			return
		}
		_, stderr, code := weirIn(append(path, "--no-such-flag")...)
		require.Equal(t, exitUsage, code, cmd.CommandPath())
		require.Contains(t, stderr, "unknown flag: --no-such-flag\nSee '"+cmd.CommandPath()+" --help'")
	})
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
