// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/reach"
	"github.com/weirnet/weir/scenarios/report"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

type scenarioRun struct {
	worlds   []string
	match    string
	parallel int
	output   string
	report   string
	keep     bool
	kernels  []string
	thorough bool
	cover    string
	reach    *reach.Collector // nil: nothing is counted
	part     partFlags
	timings  bool
	many     manyFlags
	watch    bool
	starts   []matrix.Start // of guests
	cluster  clusterFlags
	image    string // of the pods of world cluster
}

func scenarioRunCommand() *cobra.Command {
	var o scenarioRun
	cmd := &cobra.Command{
		Use:   "run [FILE|DIR]...",
		Short: "Run scenarios, and count what passed, failed, was skipped",
		Long: `Run scenarios, each once for every family and world that it declares.

Each run is a line as it ends. What failed is told at the end, by cause:
failures at the same hook and source line, with the same decision, in the same
field. Each cause has its count, some names, and the shortest story: the step,
what was expected and what was there, the way of every frame, and the command
that repeats it. With --report DIR, the whole story of each failure is kept,
and a capture with notes beside the packets. Each run has a folder of its own
there, named by the time; DIR/latest is that of the last one, and its
summary.txt says how the run ended, or that it was interrupted. Its index.html
is for a browser: causes, worlds and kernels side by side, and of each failure
the network, drawn with the hooks that the frame met.

With --fail-fast what was not run is counted, and the exit status is 1; what is
on at that moment is stopped. --rerun-failed runs what failed on any kernel, in
the same world.
--shuffle and --count are for this machine's kernel.

A report keeps what each run spent its time on; --timings shows it, and with
-o json as lines {"timing": ...} at the end.

With --cover, counters are put into the programs when they are loaded, and pages
show which lines and branches of their source the scenarios reach.

With --shard I/N only the I-th of N parts is run, with what it costs balanced
by --costs; 'weir scenario merge' puts the reports of all parts into one.

In world netns one scenario of eight attaches the programs as a cluster does, by
tcx where the kernel has it, and the others by clsact, which waits for nothing.
With --thorough all do as a cluster does; in kernels of --kernel they always do.

With --watch it goes on when all have run, until Ctrl-C: a scenario whose file
changes runs again, and in a source tree so does what a change of bpf/*.c or *.h
touches. The programs are built anew as by 'make generate', but beside the tree,
and loaded in place of those of this binary. Those runs are made again that
reach the changed lines, what failed first; where no run is known to, or lines
do not tell, as of a constant, all of the programs that changed. Without files
it is the library of the source tree that runs. The exit status is that of the
last run.

World cluster is a live one, with any network plugin: only those scenarios run
that can be there ('weir scenario list --world cluster'), each with namespaces
and pods of its own, which are removed at the end. It has to be asked for, by
--world cluster, with the cluster's kubeconfig.

With --kernel they run in those kernels, booted in QEMU, and what differs
between kernels is shown first. World prog runs on all of them, with counters
in the programs. Where a scenario runs the same instructions there and comes
to the same frames on several kernels, one of these runs it in world netns; if
it passes, the others have the result 'same'. With --thorough, or in one world
alone, all runs are run on all kernels.

Without the privileges that worlds need, they run in the newest kernel of the
lock by themselves.`,
		Example: `  weir scenario run
  weir scenario run --world prog --run 'service-.*/ipv6'
  weir scenario run --report reports my.txtar
  weir scenario run --kernel all --report reports
  weir scenario run --kernel 5.10,6.1,./linux/arch/x86/boot/bzImage
  weir scenario run --kernel all --thorough --report nightly
  weir scenario run --shard 2/5 --costs last --kernel all --report shard-2
  weir scenario run --world netns --timings
  weir scenario run --cover reached --kernel all
  weir scenario run --world cluster --kubeconfig kind.yaml --run '^service-'
  weir scenario run -q --fail-fast=20 --report reports
  weir scenario run --rerun-failed --report reports
  weir scenario run --world netns --run '^tcp' --count 20 --shuffle on
  weir scenario run --watch --world prog
  weir scenario run --keep --world netns --run '^policy-ingress/ipv4$'`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.worlds, "world", nil, "only in these worlds (prog, netns, cluster); default prog and netns, as a scenario declares")
	f.StringVar(&o.match, "run", "", "only those whose name/family this regular expression matches")
	f.Var(count{&o.parallel}, "parallel", "how many at once, or guests at once; default three a core, or as guests need")
	f.StringVarP(&o.output, "output", "o", "text", "text, json (one object a line) or junit")
	f.StringVar(&o.report, "report", "", "keep index.html, results.json, junit.xml, stories and captures in a folder of its own in this directory")
	f.BoolVar(&o.keep, "keep", false, "leave the world of a failure up until Ctrl-C, and say how to enter it")
	f.StringVar(&o.cover, "cover", "", "count what of the programs is reached, and keep pages and cover.lcov in this directory")
	f.StringSliceVar(&o.kernels, "kernel", nil, "in these kernels: of the lock ('weir vm kernels'), all of them (all), or paths")
	f.BoolVar(&o.thorough, "thorough", false, "run all on every kernel, also what does the same, and attach programs by tcx only")
	f.BoolVar(&o.timings, "timings", false, "show where the time went, by kernel and world, and of the slowest scenarios")
	o.cluster.register(cmd)
	f.StringVar(&o.image, "image", "", "`reference` of the image that pods of world cluster run, which has this program (default: that of the agents of Weir there)")
	f.BoolVar(&o.watch, "watch", false, "run again what a change of the scenarios' files, or of the programs' source, touches")
	o.part.add(f)
	o.many.add(f)
	return cmd
}

func (o *scenarioRun) run(cmd *cobra.Command, args []string) (err error) {
	runner, err := o.runner()
	if err != nil {
		return err
	}
	if o.watch {
		if err := o.watchable(cmd); err != nil {
			return err
		}
		return o.watchFiles(cmd, runner, args)
	}
	all, err := loadScenarios(args)
	if err != nil {
		return err
	}
	if err := o.many.apply(runner, o.report, cmd.ErrOrStderr()); err != nil {
		return err
	}
	if runner.Count(all) == 0 {
		return o.end(cmd, nil, nil, fmt.Errorf("%w: no scenario, world and family fit what was asked for", scenarios.ErrNothingRun))
	}
	names, err := o.kernelNames(cmd)
	if err != nil {
		return err
	}
	mine, err := o.part.take(all, runner.Planned(all))
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return o.onKernels(cmd, names, runner, mine, len(args) > 0)
	}
	if slices.Contains(runner.Worlds, syntax.Cluster) {
		session, err := o.openCluster(cmd)
		if err != nil {
			return err
		}
		runner.Cluster = session
		defer func() { err = errors.Join(err, session.Close(cmd.Context())) }()
	}
	live, err := o.live(cmd, runner.Count(mine.scenarios), nil, mine.describe(scenarios.Kernel()))
	if err != nil {
		return err
	}
	o.many.tellSeed(cmd.ErrOrStderr())
	ctx, tell, done := o.many.fast(cmd.Context())
	defer done()
	runner.Live = func(r scenarios.Result) { live.add(r); tell(r) }
	runner.Hold = func(ctx context.Context, r scenarios.Result) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s failed; its world is kept until Ctrl-C.\n%s\n", r.Scenario, (&report.Text{}).Story(r))
		<-ctx.Done()
	}
	results, err := runner.Run(ctx, mine.scenarios)
	err = o.many.enough(ctx, err, len(results), live.total)
	return o.end(cmd, live, results, live.close(ctx, results, err))
}

// openCluster reaches the cluster of world cluster, and says what it is.
func (o *scenarioRun) openCluster(cmd *cobra.Command) (*kube.Session, error) {
	session, err := kube.Open(cmd.Context(), kube.Options{Kubeconfig: o.cluster.kubeconfig, Context: o.cluster.context, Image: o.image})
	if err != nil {
		return nil, fmt.Errorf("world cluster: %w", err)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), session)
	return session, nil
}

func (o *scenarioRun) runner() (*scenarios.Runner, error) {
	if err := oneOf("output", o.output, "text", "json", "junit"); err != nil {
		return nil, err
	}
	if o.many.quiet && o.output != "text" {
		return nil, usageError(fmt.Errorf("--quiet is for text: leave out -o %s", o.output))
	}
	worlds, err := worldsOf(o.worlds)
	if err != nil {
		return nil, err
	}
	r := &scenarios.Runner{Worlds: worlds, Parallel: o.parallel, Keep: o.keep, Thorough: o.thorough, Cover: o.cover != ""}
	if r.Cover {
		if o.reach, err = reach.New(); err != nil {
			return nil, err
		}
	}
	if o.match != "" {
		if r.Match, err = regexp.Compile(o.match); err != nil {
			return nil, usageError(fmt.Errorf("--run: %w", err))
		}
	}
	return r, nil
}

// live shows each result as it comes, and keeps it if that is asked for. On a
// terminal it shows how far the run is.
type live struct {
	*scenarioRun
	out, progress io.Writer
	text          *report.Text
	folder        *report.Folder // nil: nothing is kept
	bar           bool
	brief         bool // of runs only the first that fails is shown at once
	failed        bool // one has
	annotate      bool // for GitHub
	done, total   int
	problems      []error
	run           *shard.Run
}

func (o *scenarioRun) live(cmd *cobra.Command, total int, names map[string]string, run *shard.Run) (*live, error) {
	l := &live{
		scenarioRun: o, out: cmd.OutOrStdout(), progress: cmd.ErrOrStderr(), total: total, run: run,
		bar: terminal(os.Stderr) && !o.many.quiet, annotate: os.Getenv("GITHUB_ACTIONS") == "true",
	}
	l.text = &report.Text{Out: l.out, Colour: colourful(), Names: names}
	if o.report == "" {
		return l, nil
	}
	var err error
	if l.folder, err = report.NewFolder(o.report); err != nil {
		return nil, err
	}
	run.Build, run.Seed = thisBuild().String(), o.many.shuffle.String()
	return l, l.folder.Describe(run)
}

// colourful says whether standard output is for a person who likes colours.
func colourful() bool { return terminal(os.Stdout) && os.Getenv("NO_COLOR") == "" }

func (l *live) add(r scenarios.Result) {
	l.done++
	if l.reach != nil {
		l.problems = append(l.problems, l.reach.Add(r.Scenario, r.Kernel, r.Reach))
	}
	if l.folder != nil {
		l.problems = append(l.problems, l.folder.Add(r))
	}
	if l.bar {
		fmt.Fprint(l.progress, "\r\x1b[K")
	}
	switch l.output {
	case "text":
		if !l.many.quiet && (!l.brief || r.Failed() && !l.failed) {
			l.text.Line(r)
		}
		l.failed = l.failed || r.Failed()
	case "json":
		// A reader that is gone shows at the last write.
		_ = report.JSON(l.out, r)
	}
	if l.annotate {
		l.problems = append(l.problems, report.Annotate(l.progress, r))
	}
	if l.bar && l.done < l.total {
		fmt.Fprintf(l.progress, "%d of %d", l.done, l.total)
	}
}

// close ends the report. The error joins how the run ended and what went wrong
// meanwhile; the report keeps that too.
func (l *live) close(ctx context.Context, results []scenarios.Result, err error) error {
	if l.bar && l.done < l.total {
		fmt.Fprint(l.progress, "\r\x1b[K")
	}
	err = errors.Join(append(l.problems, err)...)
	l.run.Ended = ctx.Err() == nil
	if err != nil {
		l.run.Problems = strings.Split(plainly(tellSignal(ctx, err)), "\n")
	}
	if l.folder == nil {
		return err
	}
	return errors.Join(err, l.folder.Close(results, l.run))
}

// failures shows what failed, by cause.
func (l *live) failures(results []scenarios.Result) {
	if l == nil {
		return
	}
	var capture func(scenarios.Result) string
	if l.folder != nil {
		capture = l.folder.Capture
	}
	l.text.Failures(results, capture)
}

// part is the run where it is a part of a whole, else nil.
func (l *live) part() *shard.Run {
	if l == nil || l.scenarioRun.part.shard == shard.Whole {
		return nil
	}
	return l.run
}

// showTimings shows where the time went.
func showTimings(out io.Writer, results []scenarios.Result, starts []matrix.Start) {
	(&report.Text{Out: out, Colour: out == os.Stdout && colourful()}).Timings(results, starts)
	fmt.Fprintln(out)
}

// keepReach writes what was reached, and says how much that is.
func (o *scenarioRun) keepReach(cmd *cobra.Command, out io.Writer) error {
	r := o.reach.Report()
	if err := r.Write(o.cover); err != nil {
		tellError(cmd.ErrOrStderr(), err)
		return err
	}
	if cmd.Context().Err() != nil {
		fmt.Fprintf(out, "cover: the run was stopped: this is what the first %d runs reached\n", r.Runs)
	}
	fmt.Fprintf(out, "%s; see %s\n", r.Summary(), filepath.Join(o.cover, "index.html"))
	return nil
}

// end shows how the run has ended. Without a live one nothing was run.
func (o *scenarioRun) end(cmd *cobra.Command, live *live, results []scenarios.Result, err error) error {
	out := cmd.OutOrStdout()
	switch o.output {
	case "junit":
		err = errors.Join(err, report.JUnit(out, results, live.part()))
	case "json":
		if part := live.part(); part != nil {
			err = errors.Join(err, report.JSONRun(out, part))
		}
		if o.timings {
			err = errors.Join(err, report.JSONTimings(out, results, o.starts))
		}
		out = cmd.ErrOrStderr()
	}
	if err != nil {
		tellError(cmd.ErrOrStderr(), tellSignal(cmd.Context(), err))
	}
	if o.output == "junit" {
		out = cmd.ErrOrStderr()
	}
	if o.reach != nil && len(results) > 0 {
		err = errors.Join(err, o.keepReach(cmd, out))
	}
	if o.timings && o.output != "json" && len(results) > 0 {
		showTimings(out, results, o.starts)
	}
	if o.output == "text" {
		live.failures(results)
	}
	(&report.Text{Out: out}).Summary(results)
	if tally := report.Count(results); err != nil || tally.Failed > 0 || len(results) == 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}
