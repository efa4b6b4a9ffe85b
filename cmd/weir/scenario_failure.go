// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/scenarios/failure"
)

func scenarioFromFailureCommand() *cobra.Command {
	var action, output string
	cmd := &cobra.Command{
		Use:   "from-failure REPORT",
		Short: "Make a scenario of an action that failed in a cluster",
		Long: `Make a scenario of an action of 'weir connectivity test' that failed, of its
report alone: REPORT is the folder of --report, the file report.json in it, or
what -o json has printed; - is the standard input.

The scenario has the nodes and pods between which the action was, with their
labels, the services and policies that have to do with it, and the action with
how it had to end. Addresses are the scenario's own. Where Weir runs it is for
world prog, but for what only sockets and stacks do: services asked by a node
itself, and datagrams in parts. Of any other network it is for world netns, and
shows what Weir would do.

Sound programs pass it. Where those of the cluster had an error that the
scenario meets, theirs do not: run it with both. What others did meanwhile is
not repeated, nor what is wrong beside the programs.

The exit status is 0 if there is a scenario, 1 if there is none, and 2 if the
command line is wrong.`,
		Example: `  weir connectivity test --report reports
  weir scenario from-failure reports -o udp.txtar
  weir scenario from-failure reports --action cluster-ip/node-1-udp/ipv4
  weir scenario run udp.txtar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := readFailures(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			if action, err = oneAction(report, action); err != nil {
				return err
			}
			text, err := failure.Scenario(report, action)
			if err != nil {
				return err
			}
			if output == "" {
				_, err = cmd.OutOrStdout().Write(text)
			} else {
				err = os.WriteFile(output, text, 0o644)
			}
			if err != nil {
				return fmt.Errorf("write scenario: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&action, "action", "", "of the action of this `name`: TEST/CASE/FAMILY (default: the only one that failed)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the scenario to this `file` (default: to the standard output)")
	return cmd
}

// readFailures reads a report: a folder's, a file, or what comes in.
func readFailures(in io.Reader, path string) (*connectivity.Report, error) {
	if path == "-" {
		return connectivity.ReadReport(in)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, reportName)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	defer file.Close()
	report, err := connectivity.ReadReport(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return report, nil
}

// failedActions are those of the report that the command line names.
func failedActions(_ *cobra.Command, args []string) []string {
	if len(args) == 0 || args[0] == "-" {
		return nil
	}
	report, err := readFailures(nil, args[0])
	if err != nil {
		return nil // whoever runs the command is told
	}
	return failure.Failed(report)
}

// oneAction is the action that is meant.
func oneAction(report *connectivity.Report, name string) (string, error) {
	failed := failure.Failed(report)
	switch {
	case len(failed) == 0:
		return "", errors.New("no action of the report failed, or there is no evidence of what failed")
	case name != "":
		for _, one := range failed {
			if one == name {
				return name, nil
			}
		}
		return "", usageError(fmt.Errorf("--action %s: the report has evidence of %s", name, strings.Join(failed, ", ")))
	case len(failed) > 1:
		return "", usageError(fmt.Errorf("several actions failed: name one by --action: %s", strings.Join(failed, ", ")))
	}
	return failed[0], nil
}
