// SPDX-License-Identifier: Apache-2.0

package scenarios_test

import (
	"context"
	"fmt"
	"log"
	"regexp"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

const script = `# A pod answers pings of another.
worlds prog netns
topology two-pods

ping client -> web
`

// A scenario is text. What is wrong in it is found before it runs.
func ExampleParse() {
	s, err := scenarios.Parse("ping.txtar", []byte(script))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Worlds, s.Families, len(s.Steps), "step")

	_, err = scenarios.Parse("ping.txtar", []byte(script+"ping client -> wbe\n"))
	fmt.Println(err)
	// Output:
	// [prog netns] [ipv4 ipv6] 1 step
	// ping.txtar:6: ping: wbe is no host: expected one of node, client, web, internet, gateway, SERVICE.NAMESPACE, lb(SERVICE.NAMESPACE), an address or the name of one
}

// How many runs were asked for is known before the first one: each scenario, in
// each of its families, in each world.
func ExampleRunner_Count() {
	s, err := scenarios.Parse("ping.txtar", []byte(script))
	if err != nil {
		log.Fatal(err)
	}
	runner := &scenarios.Runner{}
	fmt.Println(runner.Count([]*scenarios.Scenario{s}))
	runner.Worlds, runner.Match = []syntax.World{syntax.Prog}, regexp.MustCompile("/ipv6$")
	fmt.Println(runner.Count([]*scenarios.Scenario{s}))
	// Output:
	// 4
	// 1
}

// Running takes root: programs are loaded. Every run has a result, whatever
// happened to it.
func ExampleRunner_Run() {
	all, err := scenarios.Library()
	if err != nil {
		log.Fatal(err)
	}
	runner := &scenarios.Runner{
		Worlds: []syntax.World{syntax.Prog},
		Match:  regexp.MustCompile("^service-clusterip-"),
		Live:   func(r scenarios.Result) { fmt.Println(r.Outcome, r.World, r.Scenario) },
	}
	results, err := runner.Run(context.Background(), all)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		if r.Failed() {
			fmt.Println(r.Scenario, r.Reason)
		}
	}
}
