// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/fuzz"
	"github.com/weirnet/weir/scenarios/reach"
)

// stepsShare is the part of the time that the compiler's steps have: one in so
// many.
const stepsShare = 10

type fuzzing struct {
	time     time.Duration
	seed     uint64
	captures string
	out      string
	parallel int
	output   string
	uplinks  bool
	guided   bool
	cover    string
	guest    guest

	problems []error // of what was found and could not be written
}

func fuzzCommand() *cobra.Command {
	var o fuzzing
	cmd := &cobra.Command{
		Use:   "fuzz",
		Short: "Send random frames through the programs, compare with the model",
		Long: `Make networks, policies, services and conversations by chance, change their
frames, the clock and the objects, and compare what the programs do to every
frame with what the model expects.

What they do not agree on is shrunk to the smallest case and written as a
scenario, which fails until one of them is mended. A seed gives the same
sequences again, however many workers play them. The last line counts frames
and disagreements.

Without root, and with --kernel, it runs in a VM, on one processor.

A tenth of the time goes to the compiler before: clusters by chance change step
by step, and what is made of each change alone is compared with what is made of
all objects anew.`,
		Example: `  weir fuzz --time 10m
  weir fuzz --seed 7 --time 30s -o json
  weir fuzz --uplinks --time 5m
  weir fuzz --captures ~/captures --out found
  weir fuzz --uplinks --time 5s --cover reached
  weir scenario run found/fuzz-7-0.txtar`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				o.seed = uint64(rand.Uint32())
			}
			return o.run(cmd)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&o.time, "time", time.Minute, "for how long")
	f.Uint64Var(&o.seed, "seed", 0, "what chance begins with; default another one each time")
	f.StringVar(&o.captures, "captures", "", "splice frames of the captures (*.pcap, *.pcapng, *.cap) in this directory into others")
	f.StringVar(&o.out, "out", "fuzz-findings", "write scenarios of disagreements into this directory")
	f.Var(count{&o.parallel}, "parallel", "how many workers; default one a core")
	f.BoolVar(&o.uplinks, "uplinks", false, "give the node's uplink programs too, and services that are reached from outside")
	f.BoolVar(&o.guided, "guided", false, "keep sequences that reach new blocks or branches of the programs, and go on from them, in place of each sequence anew")
	f.StringVar(&o.cover, "cover", "", "count what of the programs is reached, and keep pages and cover.lcov in this directory; not with --guided")
	o.guest.register(cmd)
	f.StringVarP(&o.output, "output", "o", "text", "text, or json (one object a line)")
	return cmd
}

func (o *fuzzing) run(cmd *cobra.Command) error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	if o.time <= 0 {
		return usageError(fmt.Errorf("--time: %s is no time to search in", o.time))
	}
	if o.cover != "" && o.guided {
		return usageError(errors.New("--cover: a guided search counts for itself: leave out --guided"))
	}
	if away, err := o.guest.runs(cmd, o.errand()); away || err != nil {
		return err
	}
	opts := fuzz.Options{Seed: o.seed, Time: o.time, Parallel: o.parallel, Uplinks: o.uplinks, Guided: o.guided}
	if o.captures != "" {
		var err error
		if opts.Captured, err = fuzz.ReadCaptures(o.captures); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	if o.output == "text" {
		fmt.Fprintf(out, "seed %d\n", o.seed)
	}
	bar := terminal(os.Stderr)
	opts.Found = func(r fuzz.Report) {
		if bar {
			fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
		}
		o.found(out, r)
	}
	if bar {
		opts.Progress = func(t fuzz.Tally, took time.Duration) {
			fmt.Fprintf(cmd.ErrOrStderr(), "\r\x1b[K%d frames, %.0f a second, %s of %s", t.Frames, float64(t.Frames)/took.Seconds(), took.Round(time.Second), o.time)
		}
	}
	var lives cover.Lives
	counters := lives.Counters()
	if o.cover != "" {
		opts.Edit = counters.Edit
		defer counters.Close()
	}
	// Little is kept, much is made: collecting it seldom is a fifth faster.
	debug.SetGCPercent(400)
	steps, wrong := fuzz.CompareSteps(cmd.Context(), o.seed, o.time/stepsShare)
	opts.Time -= o.time / stepsShare
	begin := time.Now()
	tally, disagreements, err := fuzz.Run(cmd.Context(), opts)
	if bar {
		fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
	}
	o.summary(out, tally, steps, disagreements, time.Since(begin))
	if wrong != nil {
		o.problems = append(o.problems, wrong)
	}
	if o.cover != "" && err == nil {
		err = o.keepReach(out, counters)
	}
	if errors.Is(err, context.Canceled) {
		err = nil // Ctrl-C: what was done is told
	}
	if err = errors.Join(append(o.problems, err)...); err != nil {
		return err
	}
	if disagreements > 0 || tally.Frames == 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// errand is what it needs in a guest.
func (o *fuzzing) errand() errand {
	e := errand{writes: []string{o.out}}
	if o.captures != "" {
		e.reads = append(e.reads, o.captures)
	}
	if o.cover != "" {
		e.writes = append(e.writes, o.cover)
	}
	return e
}

// keepReach writes what was reached, and says how much that is.
func (o *fuzzing) keepReach(out io.Writer, counters *cover.Counters) error {
	r, err := reach.New()
	if err != nil {
		return err
	}
	if err := r.Add("fuzz", scenarios.Kernel(), counters.Take()); err != nil {
		return err
	}
	report := r.Report()
	if err := report.Write(o.cover); err != nil {
		return err
	}
	if o.output == "text" {
		fmt.Fprintf(out, "%s; see %s\n", report.Summary(), filepath.Join(o.cover, "index.html"))
	}
	return nil
}

// found writes a finding's scenario, and tells of it.
func (o *fuzzing) found(out io.Writer, r fuzz.Report) {
	path := filepath.Join(o.out, fmt.Sprintf("fuzz-%d-%d.txtar", r.Seed, r.Sequence))
	text, err := r.Scenario()
	if err == nil {
		err = os.MkdirAll(o.out, 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		o.problems = append(o.problems, fmt.Errorf("write scenario of a disagreement: %w", err))
		path = ""
	}
	if o.output == "json" {
		printJSON(out, struct {
			Kind     string   `json:"kind"`
			Problems []string `json:"problems"`
			Sequence uint64   `json:"sequence"`
			Scenario string   `json:"scenario"`
		}{r.Kind, r.Problems, r.Sequence, path})
		return
	}
	fmt.Fprintf(out, "disagreement %s\n", r.Kind)
	for _, p := range r.Problems {
		fmt.Fprintf(out, "    %s\n", p)
	}
	fmt.Fprintf(out, "    repeat: weir scenario run %s\n", path)
}

func (o *fuzzing) summary(out io.Writer, t fuzz.Tally, steps fuzz.Steps, disagreements uint64, took time.Duration) {
	rate := float64(t.Frames) / took.Seconds()
	if o.output == "json" {
		printJSON(out, struct {
			Seed          uint64         `json:"seed"`
			Frames        uint64         `json:"frames"`
			Undeliverable uint64         `json:"undeliverable"`
			Sequences     uint64         `json:"sequences"`
			Changes       uint64         `json:"changes"`
			Disagreements uint64         `json:"disagreements"`
			Seconds       float64        `json:"seconds"`
			Rate          float64        `json:"frames_per_second"`
			Reached       int            `json:"reached,omitempty"` // blocks and branches
			Kept          int            `json:"kept,omitempty"`
			Outcomes      []fuzz.Outcome `json:"outcomes"`
			Steps         fuzz.Steps     `json:"steps"` // of the compiler
		}{o.seed, t.Frames, t.Undeliverable, t.Sequences, t.Changes, disagreements, took.Seconds(), rate, t.Reached, t.Kept, t.Outcomes(), steps})
		return
	}
	for _, m := range t.Outcomes() {
		reason := string(m.Reason)
		if reason == "" {
			reason = "forwarded"
		}
		fmt.Fprintf(out, "  %12d  %-14s  %s\n", m.Frames, m.Hook, reason)
	}
	cores := o.parallel
	if cores <= 0 {
		cores = runtime.GOMAXPROCS(0)
	}
	fmt.Fprintf(out, "%d sequences, %d changes of objects, %d frames that no program is given, %.0f frames a second on %d workers\n",
		t.Sequences, t.Changes, t.Undeliverable, rate, cores)
	if o.guided {
		fmt.Fprintf(out, "%d blocks and branches reached, %d sequences kept\n", t.Reached, t.Kept)
	}
	fmt.Fprintf(out, "%d changes of %d clusters compiled alone and %d as a whole, %d refused, beside all objects anew\n",
		steps.Alone, steps.Sequences, steps.Whole, steps.Refused)
	fmt.Fprintf(out, "%d frames, %d disagreements\n", t.Frames, disagreements)
}

// printJSON writes one object a line. A reader that is gone shows at the end.
func printJSON(out io.Writer, v any) {
	_ = json.NewEncoder(out).Encode(v)
}
