// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

const manualFolder = "../../docs/commands"

// manual is docs/commands as the commands say it, by file name: one for each word
// behind weir, with the commands below it, and an index.
func manual() map[string]string {
	root := rootCommand()
	pages := map[string]string{}
	index := "# Commands\n\nMade from the commands themselves, by `WEIR_WRITE_MANUAL=1 go test ./cmd/weir -run TestTheManual`.\n" +
		"Exit status: 0 all is well, 1 something failed, 2 the command line is wrong.\n\n"
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue // what these print is cobra's
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".md"
		index += fmt.Sprintf("- [%s](%s): %s\n", cmd.CommandPath(), name, cmd.Short)
		var page strings.Builder
		page.WriteString("<!-- Made from the commands: see README.md. -->\n")
		describe(&page, cmd, 1)
		pages[name] = page.String()
	}
	pages["README.md"] = index
	return pages
}

// describe writes a command, and those below it.
func describe(page *strings.Builder, cmd *cobra.Command, depth int) {
	if page.Len() > 0 {
		page.WriteString("\n")
	}
	fmt.Fprintf(page, "%s %s\n\n%s\n", strings.Repeat("#", min(depth, 6)), cmd.CommandPath(), prose(cmd))
	text := cmd.UsageString()
	if cmd.HasAvailableSubCommands() && !cmd.Runnable() {
		text, _, _ = strings.Cut(text, "\nAvailable Commands:")
	}
	fmt.Fprintf(page, "\n```text\n%s\n```\n", strings.TrimSpace(withoutOwn(cmd, text)))
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			describe(page, sub, depth+1)
		}
	}
}

// withoutOwn leaves out defaults that are this machine's.
func withoutOwn(cmd *cobra.Command, text string) string {
	if flag := cmd.Flags().Lookup("cpu"); flag != nil {
		text = strings.ReplaceAll(text, "(default "+flag.DefValue+")", "(default the last one)")
	}
	return text
}

// prose is what a command says of itself, with nothing that Markdown would read.
func prose(cmd *cobra.Command) string {
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	return strings.NewReplacer("*", "\\*", "<", "\\<", "_", "\\_").Replace(strings.TrimSpace(text))
}

func TestTheManualIsWhatTheCommandsSay(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	want := manual()
	if os.Getenv("WEIR_WRITE_MANUAL") != "" {
		require.NoError(t, os.RemoveAll(manualFolder))
		require.NoError(t, os.MkdirAll(manualFolder, 0o755))
		for name, text := range want {
			require.NoError(t, os.WriteFile(filepath.Join(manualFolder, name), []byte(text), 0o644))
		}
	}
	const remedy = "docs/commands is old: WEIR_WRITE_MANUAL=1 go test ./cmd/weir -run TestTheManualIsWhat, and commit what it writes"
	files, err := os.ReadDir(manualFolder)
	require.NoError(t, err, remedy)
	for _, file := range files {
		require.Contains(t, want, file.Name(), "%s: %s", file.Name(), remedy)
	}
	for name, text := range want {
		is, err := os.ReadFile(filepath.Join(manualFolder, name))
		require.NoError(t, err, remedy)
		require.Equal(t, text, string(is), "%s: %s", name, remedy)
	}
}
