// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/scenarios/watch"
)

// watchable refuses what makes no sense together with --watch.
func (o *scenarioRun) watchable(cmd *cobra.Command) error {
	for _, refused := range []struct {
		flag string
		is   bool
		why  string
	}{
		{"--output " + o.output, o.output != "text", "a watch is for a person, and never ends by itself"},
		{"--kernel", len(o.kernels) > 0, "guests run the programs of this binary, and not those that a watch builds"},
		{"--world cluster", slices.Contains(o.worlds, string(syntax.Cluster)), "its agents run programs of their own, and not those that a watch builds"},
		{"--keep", o.keep, "a world that is kept would end the watch"},
		{"--cover", o.cover != "", "it is of one run of all"},
		{"--shard", cmd.Flags().Changed("shard"), "it is of one run of all"},
		{"--shuffle", o.many.shuffle.value != nil, "a watch has an order of its own"},
		{"--timings", o.timings, "they are of one run of all"},
	} {
		if refused.is {
			return usageError(fmt.Errorf("--watch goes without %s: %s", refused.flag, refused.why))
		}
	}
	if err := netns.Privileged(); err != nil {
		return fmt.Errorf("--watch runs on this machine's kernel alone: %w", err)
	}
	return nil
}

// watching is a watch.
type watching struct {
	*scenarioRun
	cmd      *cobra.Command
	out      io.Writer
	template *scenarios.Runner
	files    *watch.Files
	session  *watch.Session
	failed   bool // the last run, or there was none yet
	cut      bool // it was stopped before its end
}

func (o *scenarioRun) watchFiles(cmd *cobra.Command, runner *scenarios.Runner, paths []string) (err error) {
	w := &watching{scenarioRun: o, cmd: cmd, out: cmd.OutOrStdout(), template: runner, failed: true}
	if err := o.many.apply(runner, o.report, cmd.ErrOrStderr()); err != nil {
		return err
	}
	tree, err := sourceTree()
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		if tree == "" {
			return usageError(errors.New("--watch has nothing to watch: name files or folders, or run it in a source tree of Weir"))
		}
		paths = []string{filepath.Join(tree, "scenarios", "library")}
	}
	var compiler *watch.Compiler
	source := ""
	if tree != "" {
		source = filepath.Join(tree, "bpf")
		compiler = watch.NewCompiler(tree, source)
	}
	if w.files, err = watch.Open(paths, source); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.files.Close()) }()
	w.session = watch.NewSession(compiler, runner.Planned)
	return w.until(cmd.Context(), paths, source)
}

// sourceTree is the root of the source tree that this process is in, as seen from here;
// empty: it is in none.
func sourceTree() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the source tree: %w", err)
	}
	for at := here; ; at = filepath.Dir(at) {
		text, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module "+modulePath+"\n") {
			return filepath.Rel(here, at)
		}
		if at == filepath.Dir(at) {
			return "", nil
		}
	}
}

// modulePath is this module's.
const modulePath = "github.com/weirnet/weir"

// until watches until it is interrupted. Its exit status is that of the last run.
func (w *watching) until(ctx context.Context, paths []string, source string) error {
	seen, err := w.files.Look()
	if err != nil {
		return err
	}
	if source != "" {
		paths = append(slices.Clone(paths), source)
	}
	fmt.Fprintf(w.out, "watching %s until Ctrl-C\n", strings.Join(paths, ", "))
	for seen != nil && err == nil {
		if err = w.take(ctx, seen); err == nil {
			seen, err = w.run(ctx)
		}
		if seen == nil && err == nil {
			seen, err = w.wait(ctx)
		}
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	if w.failed || w.session.Broken() {
		return &exitError{code: exitFailed}
	}
	return nil
}

// wait waits for files that differ; nothing: it was interrupted.
func (w *watching) wait(ctx context.Context) (*watch.Snapshot, error) {
	for told := false; ctx.Err() == nil; {
		now, err := w.files.Look()
		switch {
		case err != nil:
			tellError(w.cmd.ErrOrStderr(), err) // it may be mended by the next change
		case w.session.Differs(now):
			return now, nil
		}
		if !told {
			fmt.Fprintln(w.out, "waiting for changes")
			told = true
		}
		select {
		case <-ctx.Done():
		case <-w.files.Changed():
		}
	}
	return nil, nil
}

// take takes in what the files say now, and tells what is new.
func (w *watching) take(ctx context.Context, now *watch.Snapshot) error {
	news, err := w.session.Take(ctx, now)
	if err != nil {
		return err
	}
	for _, line := range news.Changed {
		fmt.Fprintln(w.out, line)
	}
	for _, problem := range news.Problems {
		tellError(w.cmd.ErrOrStderr(), problem)
	}
	return nil
}

// run runs what is due, if it can be. If the files change in the middle it stops, and
// gives what they say; else nothing.
func (w *watching) run(ctx context.Context) (*watch.Snapshot, error) {
	all, due, _ := w.session.Count()
	if all == 0 {
		fmt.Fprintln(w.out, "no scenario, world and family fit what was asked for")
	}
	if due == 0 || w.session.Build() == nil {
		return nil, nil
	}
	if w.cut {
		fmt.Fprintf(w.out, "%d are to be run, with what had not run yet\n", due)
	}
	w.failed, w.cut = true, false // until it has ended
	began := time.Now()
	r, err := w.round(ctx)
	if err != nil {
		return nil, err
	}
	defer r.stop(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.results, r.err = r.runner.Run(r.ctx, r.scenarios)
	}()
	for {
		select {
		case <-ended:
			w.end(ctx, r, time.Since(began))
			return nil, nil
		case <-w.files.Changed():
			now, err := w.files.Look()
			if err != nil || !w.session.Differs(now) {
				continue
			}
			r.stop(errChanged)
			<-ended
			w.cut = true
			err = fmt.Errorf("stopped after %d of %d runs: %w", len(r.results), r.live.total, errChanged)
			tellError(w.cmd.ErrOrStderr(), r.live.close(r.ctx, r.results, err))
			return now, nil
		}
	}
}

func ranBefore(n int) string {
	if n == 1 {
		return "1 that ran before has"
	}
	return fmt.Sprintf("%d that ran before have", n)
}

// errChanged ends a run whose files have changed.
var errChanged = errors.New("files have changed")

// round is one run of what is due.
type round struct {
	*part
	runner  *scenarios.Runner
	live    *live
	ctx     context.Context
	stop    context.CancelCauseFunc
	results []scenarios.Result
	err     error
}

func (w *watching) round(ctx context.Context) (*round, error) {
	runner := *w.template
	runner.Files = w.session.Build().Files
	runner.Cover, runner.WithoutLives = true, true
	runner.Only = func(r scenarios.Result) bool {
		return (w.template.Only == nil || w.template.Only(r)) && w.session.Due(r)
	}
	runner.Order = w.session.Order
	all := w.session.Scenarios()
	planned := runner.Planned(all)
	// Each that runs at once loads programs of its own, since they have counters, and world
	// prog keeps a core busy.
	if runner.Parallel == 0 && !slices.ContainsFunc(planned, func(r scenarios.Result) bool { return r.World != syntax.Prog }) {
		runner.Parallel = runtime.GOMAXPROCS(0)
	}
	mine, err := w.part.take(all, planned)
	if err != nil {
		return nil, err
	}
	r := &round{part: mine, runner: &runner}
	if r.live, err = w.live(w.cmd, len(planned), nil, mine.describe(scenarios.Kernel())); err != nil {
		return nil, err
	}
	r.ctx, r.stop = context.WithCancelCause(ctx)
	fast, tell, _ := w.many.fast(r.ctx)
	r.ctx = fast
	r.live.brief = true
	runner.Live = func(one scenarios.Result) {
		if one.Failure != nil && one.Failure.Repeat != "" && w.session.Rebuilt() {
			one.Failure.Repeat = "make generate build && bin/" + one.Failure.Repeat
		}
		r.live.problems = append(r.live.problems, w.session.Note(one))
		r.live.add(one)
		tell(one)
	}
	return r, nil
}

// end tells how a run has ended.
func (w *watching) end(ctx context.Context, r *round, took time.Duration) {
	err := w.many.enough(r.ctx, r.err, len(r.results), r.live.total)
	if err = r.live.close(r.ctx, r.results, err); err != nil {
		tellError(w.cmd.ErrOrStderr(), tellSignal(ctx, err))
	}
	r.live.failures(r.results)
	tally := report.Count(r.results)
	w.failed, w.cut = err != nil || tally.Failed > 0, len(r.results) < r.live.total
	fmt.Fprintf(w.out, "%s in %.1f s\n", tally, took.Seconds())
	if _, _, failed := w.session.Count(); failed > tally.Failed {
		fmt.Fprintf(w.out, "%s failed too\n", ranBefore(failed-tally.Failed))
	}
}
