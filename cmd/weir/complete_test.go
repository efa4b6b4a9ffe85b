// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// uncompleted are flags whose values a shell cannot know, or takes from the files
// around, by why. Numbers and times need no line here.
var uncompleted = map[string]string{
	"files and folders": "bin-dir captures cni-conf-dir collect compare config costs cover dir equivalents file flows host-root " +
		"junit kubeconfig lock object objects out pin-path pins program report run-dir socket state state-dir survivors svg to with write before",
	"addresses":                      "api-server metrics node-port-addresses masquerade-excluded target",
	"images":                         "image push tag",
	"expressions":                    "filter node-selector run skip only",
	"settings with a syntax":         "append env flow-lifetimes needs ports reserved-ports shard size-limit tables",
	"ports, of which any may be":     "port",
	"what the caller makes up":       "name namespace-prefix",
	"packages and revisions":         "changed go tests",
	"what only the other end knows":  "devices module service",
	"counts, with a type of its own": "fail-fast scenario count",
}

// counted are types of flags whose values are numbers, times and switches.
var counted = []string{"int", "counts", "uint32", "uint64", "duration", "bool", "N"}

func TestAFlagThatNamesSomethingIsCompleted(t *testing.T) {
	reviewed := map[string]bool{}
	for _, names := range uncompleted {
		for _, name := range strings.Fields(names) {
			reviewed[name] = false
		}
	}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if _, completed := cmd.GetFlagCompletionFunc(flag.Name); completed {
				return
			}
			_, known := reviewed[flag.Name]
			if !known && slices.Contains(counted, flag.Value.Type()) {
				return
			}
			require.Truef(t, known, "%s --%s has no completion: give it one in complete.go, or say above why there is none", cmd.CommandPath(), flag.Name)
			reviewed[flag.Name] = true
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	for name, found := range reviewed {
		require.Truef(t, found, "no flag --%s is without a completion: take it out of the list", name)
	}
}

func TestEveryCompletionHasItsFlag(t *testing.T) {
	flags := map[string]*cobra.Command{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		flags[cmd.CommandPath()] = cmd
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	has := func(command, flag string) {
		require.NotNil(t, flags[command], command)
		require.NotNilf(t, flags[command].Flags().Lookup(flag), "%s --%s", command, flag)
	}
	for command, of := range completedOf {
		for flag := range of {
			has(command, flag)
		}
	}
	for command, of := range completedFrom {
		for flag := range of {
			has(command, flag)
		}
	}
}
