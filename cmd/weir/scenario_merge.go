// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
)

type scenarioMerge struct {
	output, report string
	timings        bool
}

func scenarioMergeCommand() *cobra.Command {
	var o scenarioMerge
	cmd := &cobra.Command{
		Use:   "merge DIR|FILE...",
		Short: "Merge the results of shards into one report",
		Long: `Merge the results of 'weir scenario run --shard' into one report, with one
exit status.

DIR is the report of a shard, or the directory of its --report, whose latest is
taken, or holds those of several; FILE is what a shard printed by -o json or -o
junit (*.xml), which has no captures. What failed is told by cause, as a run
does. Exit status: 0
all shards are there and passed, 1 something failed or a shard was cut short,
2 they are not the shards of one run: another N, one missing, one twice, other
scenarios, costs or kernels.`,
		Example: `  weir scenario merge shard-1 shard-2 shard-3
  weir scenario merge --report reports shards
  weir scenario merge -o junit 1.json 2.json > junit.xml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("expected the results of shards: DIR or FILE"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "text", "text, json (one object a line) or junit")
	f.StringVar(&o.report, "report", "", "keep the merged report in a folder of its own in this directory, as 'run --report' does")
	f.BoolVar(&o.timings, "timings", false, "show where the time went, too")
	return cmd
}

func (o *scenarioMerge) run(cmd *cobra.Command, args []string) error {
	if err := oneOf("output", o.output, "text", "json", "junit"); err != nil {
		return err
	}
	parts, err := report.ReadParts(args...)
	if err != nil {
		return usageError(err)
	}
	m, err := report.Merge(parts)
	if err != nil {
		return usageError(fmt.Errorf("merge reports: %w", err))
	}
	if o.report != "" {
		if m.Holds(o.report) {
			return usageError(fmt.Errorf("--report %s: it holds one of the reports to merge, which would not be found there any more: name another directory", o.report))
		}
		folder, err := m.Keep(o.report)
		if err != nil {
			return fmt.Errorf("keep the merged report: %w", err)
		}
		return o.show(cmd, m, folder.Capture)
	}
	return o.show(cmd, m, nil)
}

// show tells what the whole came to. Capture is nil where no report is kept.
func (o *scenarioMerge) show(cmd *cobra.Command, m *report.Merged, capture func(scenarios.Result) string) error {
	out := cmd.OutOrStdout()
	var err error
	switch o.output {
	case "json":
		err = m.JSON(out)
		if o.timings {
			err = errors.Join(err, report.JSONTimings(out, m.Results, m.Starts))
		}
		out = cmd.ErrOrStderr()
	case "junit":
		err, out = m.JUnit(out), cmd.ErrOrStderr()
	default:
		(&report.Text{Out: out, Colour: colourful()}).Merged(m, capture)
	}
	if o.timings && o.output != "json" {
		showTimings(out, m.Results, m.Starts)
	}
	if err != nil {
		return err
	}
	for _, what := range m.Run.Problems {
		fmt.Fprintln(cmd.ErrOrStderr(), "weir:", what)
	}
	(&report.Text{Out: out}).Summary(m.Results)
	if m.Failed() {
		return &exitError{code: exitFailed}
	}
	return nil
}
