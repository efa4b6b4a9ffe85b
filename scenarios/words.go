// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Words explains the language of scenarios, from the tables that its parser
// works by.
func Words() string {
	var b strings.Builder
	header, steps := syntax.Help()
	fmt.Fprintln(&b, "The network, before the first step:")
	for _, v := range header {
		fmt.Fprintf(&b, "  %s\n      %s\n", v.Usage, v.Help)
	}
	fmt.Fprintln(&b, "\nSteps. [ipv4] or [ipv6] before a step makes it one of that family, 'eventually' repeats it until it holds:")
	for _, v := range steps {
		fmt.Fprintf(&b, "  %s\n      %s\n", v.Usage, v.Help)
	}
	fmt.Fprintln(&b, "\nLayers of frames. Lengths, checksums and protocol numbers that are not named are made right:")
	for _, k := range frame.Kinds() {
		fmt.Fprintf(&b, "  %s(%s)\n", k.Name, k.FieldNames())
		if k.Help != "" {
			fmt.Fprintf(&b, "      %s\n", k.Help)
		}
	}
	fmt.Fprintln(&b, "\nTopologies. Pods have the label app=NAME, without what is behind a dash:")
	for _, t := range syntax.Topologies() {
		fmt.Fprintf(&b, "  %-10s  %s\n", t.Name, topologyLine(t))
	}
	fmt.Fprintln(&b, "\nReasons, for which a frame is dropped or answered:")
	for _, line := range wrap(reasonNames(), 76) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	fmt.Fprintln(&b, "\nWhat a step means in each world: weir scenario words STEP")
	return b.String()
}

// ErrNoWord is of a word that the language does not have.
var ErrNoWord = errors.New("no word of scenarios")

// Word explains one word of the language: a step, with what it means in each world; a
// word of the network; a layer of frames, a topology, or a reason. ErrNoWord.
func Word(name string) (string, error) {
	if help, worlds, known := syntax.Explain(name); known {
		text := help.Usage + "\n    " + help.Help + "\n"
		for _, m := range worlds {
			if m.Text == "" {
				m.Text = "it is not there"
			}
			text += fmt.Sprintf("\nworld %s\n", m.World)
			for _, line := range wrap(strings.Fields(m.Text), 76) {
				text += "    " + line + "\n"
			}
		}
		return text, nil
	}
	if kind, known := frame.KindOf(name); known {
		return fmt.Sprintf("%s(%s)\n    %s\n", kind.Name, kind.FieldNames(), cmp.Or(kind.Help, "a layer of a frame: what is not named is made right where it is sent, and not checked where it is expected")), nil
	}
	for _, t := range syntax.Topologies() {
		if t.Name == name {
			return fmt.Sprintf("topology %s\n    %s\n", name, topologyLine(t)), nil
		}
	}
	if slices.Contains(reasonNames(), name) {
		return fmt.Sprintf("%s\n    a reason for which a frame is dropped or answered: docs/datapath.md and docs/services.md say when\n", name), nil
	}
	meant := ""
	if close := manifest.Closest(name, slices.Concat(syntax.Names(), reasonNames())...); close != "" {
		meant = ": did you mean " + close + "?"
	}
	return "", fmt.Errorf("%s: %w%s", name, ErrNoWord, meant)
}

// WordNames are all words that Word explains.
func WordNames() []string {
	names := syntax.Names()
	for _, k := range frame.Kinds() {
		names = append(names, k.Name)
	}
	for _, t := range syntax.Topologies() {
		names = append(names, t.Name)
	}
	names = append(names, reasonNames()...)
	slices.Sort(names)
	return slices.Compact(names)
}

func topologyLine(t syntax.TopologyHelp) string {
	var nodes []string
	for i, pods := range t.Nodes {
		node := syntax.FirstNode
		if i > 0 {
			node = fmt.Sprintf("%s-%d", node, i+1)
		}
		nodes = append(nodes, strings.Join(pods, ", ")+" on "+node)
	}
	return strings.Join(nodes, "; ") + "; " + t.Outside + " outside"
}

func reasonNames() []string {
	var names []string
	for _, r := range syntax.Reasons() {
		names = append(names, string(r))
	}
	slices.Sort(names)
	return names
}

// wrap puts words into lines of so many columns at most.
func wrap(words []string, columns int) []string {
	var lines []string
	for _, word := range words {
		if n := len(lines); n > 0 && utf8.RuneCountInString(lines[n-1])+1+utf8.RuneCountInString(word) <= columns {
			lines[n-1] += " " + word
			continue
		}
		lines = append(lines, word)
	}
	return lines
}
