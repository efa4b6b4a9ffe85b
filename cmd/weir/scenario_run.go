// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
)

type scenarioRun struct {
	worlds   []string
	match    string
	parallel int
	output   string
	report   string
	keep     bool
}

func scenarioRunCommand() *cobra.Command {
	var o scenarioRun
	cmd := &cobra.Command{
		Use:   "run [FILE|DIR]...",
		Short: "Run scenarios; the last line counts what passed, failed and was skipped",
		Long: `Run scenarios, each once for every family and world that it declares.

A failure tells the step, what was expected and what was there, the way of
every frame, and the command that repeats it. With --report, its story and a
capture with notes beside the packets are kept too.`,
		Example: `  weir scenario run
  weir scenario run --world prog --run 'service-.*/ipv6'
  weir scenario run --report reports my.txtar
  weir scenario run --keep --world netns --run '^policy-ingress/ipv4$'`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.worlds, "world", nil, "only in these worlds (prog, netns); default all that a scenario declares")
	f.StringVar(&o.match, "run", "", "only those whose name/family this regular expression matches")
	f.IntVar(&o.parallel, "parallel", 0, "how many at once; default one a core")
	f.StringVarP(&o.output, "output", "o", "text", "text, json (one object a line) or junit")
	f.StringVar(&o.report, "report", "", "keep results.json, junit.xml, stories and captures in this directory")
	f.BoolVar(&o.keep, "keep", false, "leave the world of a failure up until Ctrl-C, and say how to enter it")
	return cmd
}

func (o *scenarioRun) run(cmd *cobra.Command, args []string) error {
	runner, err := o.runner()
	if err != nil {
		return err
	}
	all, err := loadScenarios(args)
	if err != nil {
		return err
	}
	if runner.Count(all) == 0 {
		return o.end(cmd, nil, fmt.Errorf("%w: no scenario, world and family fit what was asked for", scenarios.ErrNothingRun))
	}
	var folder *report.Folder
	if o.report != "" {
		if folder, err = report.NewFolder(o.report); err != nil {
			return err
		}
	}
	var problems []error
	show := o.live(cmd.OutOrStdout(), cmd.ErrOrStderr(), runner.Count(all))
	runner.Live = func(r scenarios.Result) {
		capture := ""
		if folder != nil {
			var err error
			if capture, err = folder.Add(r); err != nil {
				problems = append(problems, err)
			}
		}
		show(r, capture)
	}
	runner.Hold = func(ctx context.Context, r scenarios.Result) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s failed; its world is kept until Ctrl-C.\n%s\n", r.Scenario, (&report.Text{}).Story(r))
		<-ctx.Done()
	}
	results, err := runner.Run(cmd.Context(), all)
	problems = append(problems, err)
	if folder != nil {
		problems = append(problems, folder.Close(results))
	}
	return o.end(cmd, results, errors.Join(problems...))
}

func (o *scenarioRun) runner() (*scenarios.Runner, error) {
	if err := oneOf("output", o.output, "text", "json", "junit"); err != nil {
		return nil, err
	}
	worlds, err := worldsOf(o.worlds)
	if err != nil {
		return nil, err
	}
	r := &scenarios.Runner{Worlds: worlds, Parallel: o.parallel, Keep: o.keep}
	if o.match != "" {
		if r.Match, err = regexp.Compile(o.match); err != nil {
			return nil, usageError(fmt.Errorf("--run: %w", err))
		}
	}
	return r, nil
}

// live shows each result as it comes, and on a terminal how far the run is.
func (o *scenarioRun) live(out, progress io.Writer, total int) func(scenarios.Result, string) {
	n := 0
	text := &report.Text{Out: out, Colour: terminal(os.Stdout) && os.Getenv("NO_COLOR") == ""}
	bar := terminal(os.Stderr)
	return func(r scenarios.Result, capture string) {
		n++
		if bar {
			fmt.Fprint(progress, "\r\x1b[K")
		}
		switch o.output {
		case "text":
			text.Result(r)
			if capture != "" {
				fmt.Fprintf(out, "    capture: %s\n", capture)
			}
		case "json":
			// A reader that is gone shows at the last write.
			_ = report.JSON(out, r)
		}
		if bar && n < total {
			fmt.Fprintf(progress, "%d of %d", n, total)
		}
	}
}

func (o *scenarioRun) end(cmd *cobra.Command, results []scenarios.Result, err error) error {
	out := cmd.OutOrStdout()
	switch o.output {
	case "junit":
		err = errors.Join(err, report.JUnit(out, results))
	case "json":
		out = cmd.ErrOrStderr()
	}
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "weir:", err)
	}
	if o.output == "junit" {
		out = cmd.ErrOrStderr()
	}
	(&report.Text{Out: out}).Summary(results)
	if tally := report.Count(results); err != nil || tally.Failed > 0 || len(results) == 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}
