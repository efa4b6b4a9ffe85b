// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// completions are the values of flags that a shell completes, by the flag's name:
// it means the same in every command that has it, save where completedOf says otherwise.
var completions = map[string]func() []string{
	"kernel": kernelIDs,
	"world":  worldNames,
	"reason": reasonNames,
	"family": words("ipv4", "ipv6"),
	"output": words("table", "json"),
}

var (
	textOrJSON  = words("text", "json")
	forPages    = words("text", "json", "html")
	forSuites   = words("text", "json", "junit")
	lbModes     = words("snat", "dsr", "hybrid")
	tunnels     = words("ipip", "geneve")
	denials     = words("drop", "refuse")
	somewhere   = words("on", "off")
	noneOfThese = words()
)

// completedOf are values of flags that mean something of their own in a command, by
// its path.
var completedOf = map[string]map[string]func() []string{
	"weir bench":             {"output": forPages},
	"weir bench counts":      {"output": textOrJSON},
	"weir bench goals":       {"output": textOrJSON},
	"weir connectivity test": {"output": textOrJSON},
	"weir flow list":         {"proto": words("tcp", "udp", "sctp", "icmp", "icmpv6")},
	"weir fuzz":              {"output": textOrJSON},
	"weir image":             {"output": noneOfThese}, // a file
	"weir install": {
		"output": words("yaml"), "algorithm": words("random", "maglev"), "lb-mode": lbModes, "return": lbModes,
		"dsr-dispatch": tunnels, "tunnel": tunnels, "denied-ingress": denials, "denied-egress": denials,
		"audit-annotations": words("pods", "namespaces", "policies", "off"), "service-pings": words("answer", "drop"),
		"external-ips": somewhere, "host-ports": somewhere, "repair-interval": words("off"),
	},
	"weir lab cluster up":   {"ip-family": words("ipv4", "ipv6", "dual"), "network": words("weir", "reference")},
	"weir lab traffic load": {"output": textOrJSON},
	"weir mutate": {
		"output":  forPages,
		"without": words(mutate.ByFuzz, mutate.ByNetns, mutate.BySocket, mutate.ByTest, mutate.ByProg),
	},
	"weir policy check":   {"output": textOrJSON},
	"weir policy diff":    {"output": textOrJSON},
	"weir policy suggest": {"output": words("yaml", "json")},
	"weir policy table": {
		"engine": words("model", "bpf"),
		"output": words("text", "matrix", "json"),
	},
	"weir replay": {
		"at":     func() []string { return replayHooks },
		"by":     words(byConnection, byPacket),
		"output": textOrJSON,
	},
	"weir scenario compare":      {"output": textOrJSON},
	"weir scenario from-failure": {"output": noneOfThese}, // a file
	"weir scenario list":         {"output": textOrJSON},
	"weir scenario merge":        {"output": forSuites},
	"weir scenario run":          {"output": forSuites, "run": scenarioNames, "shuffle": words("on")},
	"weir sysdump":               {"output": noneOfThese}, // a file
	"weir version":               {"output": textOrJSON},
}

// words offers always the same.
func words(all ...string) func() []string {
	return func() []string { return slices.Clone(all) }
}

// completedArguments are those of commands, by the command's path.
var completedArguments = map[string]func() []string{
	"weir scenario show":  scenarioNames,
	"weir scenario words": scenarios.WordNames,
	"weir record":         scenarioNames,
	"weir vm fetch":       kernelIDs,
	"weir vm refresh":     kernelIDs,
}

// completedFrom are values of flags that are names of somebody, by the command's path.
var completedFrom = map[string]map[string]func(*cobra.Command, []string) []string{
	"weir agent":                 {"node": clusterNodes},
	"weir flow list":             {"from": pods, "to": pods},
	"weir monitor":               {"pod": pods, "endpoint": pods},
	"weir policy check":          {"from": podsAndNodes, "to": podsAndNodes},
	"weir replay":                {"from": stateParties, "to": stateParties, "node": stateNodes},
	"weir scenario from-failure": {"action": failedActions},
	"weir sysdump":               {"node": clusterNodes},
}

// complete lets a shell complete the values of a tree of commands. Files are
// completed beside them, for most commands take a path in their place.
func complete(cmd *cobra.Command) {
	// A flag that is not there is refused, as is a second completion of one.
	for name, values := range completedOf[cmd.CommandPath()] {
		_ = cmd.RegisterFlagCompletionFunc(name, offer(values))
	}
	for name, parties := range completedFrom[cmd.CommandPath()] {
		_ = cmd.RegisterFlagCompletionFunc(name, offerParties(parties))
	}
	for name, values := range completions {
		_ = cmd.RegisterFlagCompletionFunc(name, offer(values))
	}
	_ = cmd.RegisterFlagCompletionFunc("context", offerParties(contexts))
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
