// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

func scenarioCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scenario",
		Short: "Run the scenarios that prove the datapath",
		Long: `Run the scenarios that prove the datapath.

A scenario is a text file: a network, steps, and the Kubernetes objects that
they apply. Without files, the library inside this binary is used.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(scenarioRunCommand(), scenarioListCommand(), scenarioShowCommand(), scenarioCheckCommand(), scenarioWordsCommand(),
		scenarioCompareCommand(), scenarioMergeCommand(), scenarioFromFailureCommand(), scenarioGuestCommand())
	return cmd
}

// loadScenarios reads files, or the library when there are none.
func loadScenarios(paths []string) ([]*scenarios.Scenario, error) {
	if len(paths) == 0 {
		return scenarios.Library()
	}
	all, err := scenarios.Load(paths...)
	for _, s := range all {
		for _, warning := range s.File.Warnings {
			fmt.Fprintln(os.Stderr, "weir: "+warning)
		}
	}
	return all, err
}

func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// oneOf checks the value of a flag.
func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return usageError(fmt.Errorf("--%s %s: expected one of %s", flag, value, strings.Join(allowed, ", ")))
}

func worldsOf(names []string) ([]syntax.World, error) {
	var out []syntax.World
	for _, n := range names {
		if !slices.Contains(syntax.Worlds(), syntax.World(n)) {
			return nil, usageError(fmt.Errorf("--world %s: expected one of %s", n, strings.ReplaceAll(join(syntax.Worlds()), " ", ", ")))
		}
		out = append(out, syntax.World(n))
	}
	return out, nil
}

func scenarioListCommand() *cobra.Command {
	var output, world string
	cmd := &cobra.Command{
		Use:   "list [FILE|DIR]...",
		Short: "List scenarios with their worlds and families",
		Long: `List scenarios with their worlds and families.

With --world those that run there come first, and behind them those that do
not: of world cluster with the reason why.`,
		Example: `  weir scenario list
  weir scenario list --world cluster
  weir scenario list -o json | jq -r .name`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			all, err := loadScenarios(args)
			if err != nil {
				return err
			}
			if world != "" {
				return listWorld(cmd, all, world, output)
			}
			if output == "json" {
				return listJSON(cmd, all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SCENARIO\tWORLDS\tFAMILIES\tABOUT")
			for _, s := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, join(s.Worlds), join(s.Families), s.Description)
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json (one object a line)")
	cmd.Flags().StringVar(&world, "world", "", "which of them run in this world (prog, netns, cluster), and which do not")
	return cmd
}

// listWorld lists who runs in a world, and who does not.
func listWorld(cmd *cobra.Command, all []*scenarios.Scenario, name, output string) error {
	worlds, err := worldsOf([]string{name})
	if err != nil {
		return err
	}
	type entry struct {
		Name string `json:"name"`
		Runs bool   `json:"runs"`
		Why  string `json:"why,omitempty"` // it does not
	}
	var runs, others []entry
	for _, s := range all {
		switch {
		case slices.Contains(s.Worlds, worlds[0]):
			runs = append(runs, entry{s.Name, true, ""})
		case worlds[0] == syntax.Cluster:
			others = append(others, entry{s.Name, false, s.WhyNot()})
		default:
			others = append(others, entry{s.Name, false, s.Except[worlds[0]]})
		}
	}
	if output == "json" {
		e := json.NewEncoder(cmd.OutOrStdout())
		for _, one := range slices.Concat(runs, others) {
			if err := e.Encode(one); err != nil {
				return fmt.Errorf("write list: %w", err)
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "SCENARIO\tRUNS IN %s\n", strings.ToUpper(name))
	for _, one := range slices.Concat(runs, others) {
		text := "yes"
		if !one.Runs {
			text = "no"
			if one.Why != "" {
				text += ": " + one.Why
			}
		}
		fmt.Fprintf(w, "%s\t%s\n", one.Name, text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d of %d\n", len(runs), len(all))
	return nil
}

func join[T ~string](words []T) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return strings.Join(out, " ")
}

func listJSON(cmd *cobra.Command, all []*scenarios.Scenario) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	for _, s := range all {
		err := e.Encode(struct {
			Name        string          `json:"name"`
			Path        string          `json:"path"`
			Worlds      []syntax.World  `json:"worlds"`
			Families    []syntax.Family `json:"families"`
			Description string          `json:"description"`
		}{s.Name, s.Path, s.Worlds, s.Families, s.Description})
		if err != nil {
			return fmt.Errorf("write list: %w", err)
		}
	}
	return nil
}

func scenarioShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME [FILE|DIR]...",
		Short:   "Print a scenario's file",
		Example: `  weir scenario show service-clusterip-tcp`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("which scenario? 'weir scenario list' lists them"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := loadScenarios(args[1:])
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all, func(s *scenarios.Scenario) bool { return s.Name == args[0] })
			if i < 0 {
				return usageError(fmt.Errorf("there is no scenario %s: 'weir scenario list' lists them", args[0]))
			}
			fmt.Fprint(cmd.OutOrStdout(), all[i].Source)
			return nil
		},
	}
}

func scenarioCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE|DIR]...",
		Short: "Find the mistakes in scenario files without running them",
		Example: `  weir scenario check my.txtar
  weir scenario check scenarios/library`,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := loadScenarios(args)
			if _, unread := errors.AsType[*fs.PathError](err); unread {
				return err
			}
			if err != nil { // mistakes are told as compilers do, file and line first
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return &exitError{code: exitFailed}
			}
			if len(all) == 0 {
				return usageError(fmt.Errorf("%s: no scenario is there to check: they are files that end with %s", strings.Join(args, " "), syntax.Suffix))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d scenarios, no mistakes\n", len(all))
			return nil
		},
	}
}

func scenarioWordsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "words [WORD]...",
		Short: "Explain the words of the scenario language",
		Long: `Explain the words of the scenario language: steps, what makes a network, layers
of frames, topologies, and reasons for which frames are dropped.

With WORD that one alone, and of a step what it means in each world, and
whether anything is sent again there.`,
		Example: `  weir scenario words
  weir scenario words connect
  weir scenario words two-nodes`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				fmt.Fprint(cmd.OutOrStdout(), scenarios.Words())
				return nil
			}
			for i, name := range args {
				text, err := scenarios.Word(name)
				if err != nil {
					return usageError(fmt.Errorf("%w\n'weir scenario words' lists them", err))
				}
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				fmt.Fprint(cmd.OutOrStdout(), text)
			}
			return nil
		},
	}
}
