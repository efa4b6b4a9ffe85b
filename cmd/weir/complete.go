// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/policy"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// completions are the values of flags that a shell completes, by the flag's name:
// it means the same in every command that has it.
var completions = map[string]func() []string{
	"kernel": kernelIDs,
	"world":  worldNames,
	"reason": reasonNames,
}

// completedOf are values of flags that mean something of their own in a command, by
// its path.
var completedOf = map[string]map[string]func() []string{
	"weir policy table": {
		"engine": func() []string { return []string{"model", "bpf"} },
		"family": func() []string { return []string{policy.IPv4, policy.IPv6} },
		"output": func() []string { return []string{"text", "matrix", "json"} },
	},
	"weir policy suggest": {
		"output": func() []string { return []string{"yaml", "json"} },
	},
	"weir connectivity test": {
		"family": func() []string { return []string{"ipv4", "ipv6"} },
		"output": func() []string { return []string{"text", "json"} },
	},
	"weir replay": {
		"at":     func() []string { return replayHooks },
		"by":     func() []string { return []string{byConnection, byPacket} },
		"output": func() []string { return []string{"text", "json"} },
	},
}

// completedArguments are those of commands, by the command's path.
var completedArguments = map[string]func() []string{
	"weir scenario show":  scenarioNames,
	"weir scenario words": scenarios.WordNames,
	"weir record":         scenarioNames,
	"weir vm fetch":       kernelIDs,
	"weir vm refresh":     kernelIDs,
}

// completedFrom are values of flags that are names of somebody in a cluster, by the
// command's path: pods, and with true nodes too.
var completedFrom = map[string]map[string]bool{
	"weir monitor":      {"pod": false, "endpoint": false},
	"weir flow list":    {"from": false, "to": false},
	"weir policy check": {"from": true, "to": true},
}

// complete lets a shell complete the values of a tree of commands. Files are
// completed beside them, for most commands take a path in their place.
func complete(cmd *cobra.Command) {
	for name, values := range completions {
		if cmd.Flags().Lookup(name) != nil {
			// It refuses flags that are not there, and those that have one.
			_ = cmd.RegisterFlagCompletionFunc(name, offer(values))
		}
	}
	for name, values := range completedOf[cmd.CommandPath()] {
		_ = cmd.RegisterFlagCompletionFunc(name, offer(values))
	}
	for name, nodes := range completedFrom[cmd.CommandPath()] {
		_ = cmd.RegisterFlagCompletionFunc(name, offerParties(nodes))
	}
	if values := completedArguments[cmd.CommandPath()]; values != nil {
		cmd.ValidArgsFunction = offer(values)
	}
	for _, sub := range cmd.Commands() {
		complete(sub)
	}
}

func offer(values func() []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		other := func(value string) bool { return !strings.HasPrefix(value, begun) }
		return slices.DeleteFunc(values(), other), cobra.ShellCompDirectiveDefault
	}
}

// kernelIDs are those of the lock; none where it cannot be read, of which the
// command itself tells.
func kernelIDs() []string {
	lock, err := vmtest.DefaultLock()
	if err != nil {
		return nil
	}
	return lock.IDs()
}

func worldNames() []string {
	var names []string
	for _, world := range syntax.Worlds() {
		names = append(names, string(world))
	}
	return names
}

func scenarioNames() []string {
	all, err := scenarios.Library()
	if err != nil {
		return nil
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	return names
}
