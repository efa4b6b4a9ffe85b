// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/scenarios/mutate"
)

type mutating struct {
	objects  []string
	golang   []string
	tests    []string
	sample   int
	seed     uint64
	changed  string
	output   string
	state    string
	list     string
	known    string
	only     []string
	files    map[string]bool // that have mutants
	fits     map[string]bool // parts of only that a mutant contains
	without  []string
	fuzz     time.Duration
	parallel int
	paths    []string
}

func mutateCommand() *cobra.Command {
	var o mutating
	cmd := &cobra.Command{
		Use:   "mutate [FILE|DIR]...",
		Short: "Plant errors in the programs, and count what the lab notices",
		Long: `Plant deliberate errors in the compiled programs, one at a time: a condition
turned round, a bound off by one, a constant changed, a store, a call or a byte
swap left out, arguments swapped, source and destination confused. Each is
killed by the scenarios in prog that reach it, else by 5 seconds of the fuzzer,
else by the scenarios in netns that reach it; what is left is shown by source
line.

What the verifier refuses, what no run of the unchanged programs executes, and
what a list holds to be equivalent is counted apart. What another list holds to
survive, and says why, counts as survived, and is shown apart. With --state an
interrupted run goes on where it was. Scenarios are the library's, or those of
the files given.

With --go the errors are in Go code, such as the model's: all of them are
compiled in at once, and killed by the unit tests of the packages, else by the
scenarios in prog, else by the fuzzer. That needs Go and a checkout, which
stays as it is.

It ends with 1 when a mutant survived that is in neither list; with --changed,
when one of a changed line did. A filter or a sample that selects none is wrong
usage, and ends with 2; that no changed line has one is not.`,
		Example: `  weir mutate --sample 200 --seed 7
  weir mutate --state mutants.jsonl -o html > mutants.html
  weir mutate --changed origin/main
  weir mutate --only lib/packet.h,lib/conntrack.h --without netns
  weir mutate --object build/container_bpfel.o --sample 50 -o json
  weir mutate --go ./model --tests ./model/... --sample 200
  weir mutate --go ./model/... --changed origin/main --without fuzz`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.paths = args
			return o.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.objects, "object", nil, "object files to take in place of the embedded ones")
	f.StringSliceVar(&o.golang, "go", nil, "take errors in these packages of the checkout around, in place of the programs'")
	f.StringSliceVar(&o.tests, "tests", nil, "with --go: judge by the tests of these packages; default those with errors")
	f.Var(count{&o.sample}, "sample", "take this many mutants by chance; default all")
	f.Uint64Var(&o.seed, "seed", 1, "what chance begins with")
	f.StringVar(&o.changed, "changed", "", "take all mutants of lines that differ from this revision, besides the sample")
	f.StringVarP(&o.output, "output", "o", "text", "text, json (one mutant a line) or html (a page by source line)")
	f.StringVar(&o.state, "state", "", "remember what was found in this file, and go on from there")
	f.StringVar(&o.list, "equivalents", "", "the list of mutants that are no errors; default the one inside this binary")
	f.StringVar(&o.known, "survivors", "", "the list of mutants that are known to survive; default the one inside this binary")
	f.StringSliceVar(&o.only, "only", nil, "only mutants whose FILE:LINE or ID contains one of these")
	f.StringSliceVar(&o.without, "without", nil, "leave out killers: fuzz, netns, socket; with --go test, prog, fuzz")
	f.DurationVar(&o.fuzz, "fuzz", 5*time.Second, "how long the fuzzer is given for a mutant")
	f.Var(count{&o.parallel}, "parallel", "how many workers; default one a core")
	return cmd
}

func (o *mutating) run(cmd *cobra.Command) error {
	var progress func(stage string, done, total int)
	bar := terminal(os.Stderr)
	if bar {
		progress = func(stage string, done, total int) {
			fmt.Fprintf(cmd.ErrOrStderr(), "\r\x1b[K%s: %d of %d", stage, done, total)
		}
	}
	report, err := o.measure(cmd, progress)
	if bar {
		fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
	}
	if report == nil {
		return err
	}
	if report.Available == 0 && err == nil {
		return o.nothing()
	}
	if o.sample > report.Available {
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: --sample %d: there are %d mutants, all of which are taken\n", o.sample, report.Available)
	}
	if len(report.Results) == 0 && o.changed != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: --changed %s: no line that differs from it has a mutant: nothing was judged\n", o.changed)
	}
	stopped := errors.Is(err, context.Canceled)
	if err != nil && !stopped {
		return err
	}
	if err := o.write(cmd, report); err != nil {
		return err
	}
	if stopped || o.fails(report) {
		return &exitError{code: exitFailed}
	}
	return nil
}

// fails says whether one has survived that had to be noticed: what is known to
// survive needs not, nor what stands in other lines than those that have changed.
func (o *mutating) fails(report *mutate.Report) bool {
	return slices.ContainsFunc(report.Results, func(r mutate.Result) bool {
		return r.Outcome == mutate.Survived && (o.changed == "" || r.Changed)
	})
}

func (o *mutating) measure(cmd *cobra.Command, progress func(stage string, done, total int)) (*mutate.Report, error) {
	if err := o.check(cmd); err != nil {
		return nil, err
	}
	if len(o.golang) > 0 {
		return o.runGo(cmd.Context(), progress)
	}
	opts, err := o.options(cmd)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(o.without, mutate.BySocket) {
		dir, err := os.MkdirTemp("", "weir-mutate-")
		if err != nil {
			return nil, fmt.Errorf("make a directory for the tests of sockets: %w", err)
		}
		defer os.RemoveAll(dir)
		if opts.Sockets, err = socketTests(cmd.Context(), dir); err != nil {
			return nil, err
		}
		if opts.Sockets == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "weir: the programs of sockets are run by %s alone: there is none here, or no Go, and their mutants count as not executed\n", socketSource)
		}
	}
	opts.Progress = progress
	return mutate.Run(cmd.Context(), *opts)
}

func (o *mutating) check(cmd *cobra.Command) error {
	if err := oneOf("output", o.output, "text", "json", "html"); err != nil {
		return err
	}
	if o.fuzz <= 0 {
		return usageError(fmt.Errorf("--fuzz %s: it is no time to search in: leave the fuzzer out by --without fuzz", o.fuzz))
	}
	if len(o.tests) > 0 && len(o.golang) == 0 {
		return usageError(errors.New("--tests judges errors in Go, and --go is not given"))
	}
	if o.sample == 0 && cmd.Flags().Changed("sample") {
		return usageError(errors.New("--sample 0: nothing would be judged: take 1 or more, or leave it out to take all"))
	}
	if cmd.Flags().Changed("only") && (len(o.only) == 0 || slices.Contains(o.only, "")) {
		return usageError(errors.New("--only: it is empty: name a part of FILE:LINE or of an ID, or leave it out to take all"))
	}
	return nil
}

func (o *mutating) isOnly(id, file string, line int) bool {
	if o.files == nil {
		o.files, o.fits = map[string]bool{}, map[string]bool{}
	}
	o.files[file] = true
	at := fmt.Sprintf("%s:%d", file, line)
	is := false
	for _, part := range o.only { // each, so that one that fits nothing is known
		if strings.Contains(id, part) || strings.Contains(at, part) {
			is, o.fits[part] = true, true
		}
	}
	return is
}

// unfit refuses a part of --only that no mutant contains, though others do. Where
// none does, nothing says so.
func (o *mutating) unfit(available int) error {
	for _, part := range o.only {
		if available > 0 && !o.fits[part] {
			return usageError(fmt.Errorf("--only %s: no mutant's FILE:LINE or ID contains %s: leave it out, or correct it", strings.Join(o.only, ","), part))
		}
	}
	return nil
}

// nothing says what would have been a mutant, where there is none to judge.
func (o *mutating) nothing() error {
	if len(o.only) == 0 {
		return usageError(fmt.Errorf("--object %s: no program there has a mutant: name objects that hold programs", strings.Join(o.objects, ",")))
	}
	const few = 5
	files := slices.Sorted(maps.Keys(o.files))
	more := ""
	if len(files) > few {
		more = fmt.Sprintf(" and %d more", len(files)-few)
		files = files[:few]
	}
	return usageError(fmt.Errorf("--only %s: no mutant's FILE:LINE or ID contains it: the files are %s%s, and -o json prints IDs", strings.Join(o.only, ","), strings.Join(files, ", "), more))
}

func (o *mutating) write(cmd *cobra.Command, r *mutate.Report) error {
	switch o.output {
	case "json":
		return r.JSON(cmd.OutOrStdout())
	case "html":
		return r.HTML(cmd.OutOrStdout())
	}
	return r.Text(cmd.OutOrStdout())
}

func (o *mutating) options(cmd *cobra.Command) (*mutate.Options, error) {
	for _, w := range o.without {
		if err := oneOf("without", w, mutate.ByFuzz, mutate.ByNetns, mutate.BySocket); err != nil {
			return nil, err
		}
	}
	opts := &mutate.Options{
		Sample: o.sample, Seed: o.seed, Fuzz: o.fuzz, Without: o.without, Parallel: o.parallel, State: o.state,
	}
	var err error
	if opts.Objects, err = o.read(); err != nil {
		return nil, err
	}
	if opts.Scenarios, err = loadScenarios(o.paths); err != nil {
		return nil, err
	}
	if len(o.only) > 0 {
		opts.Only = func(m *mutant.Mutant) bool { return o.isOnly(m.ID, m.File, m.Line) }
		opts.Chosen = o.unfit
	}
	if o.changed != "" {
		if opts.Changed, err = changedLines(cmd.Context(), o.changed, "bpf", "*.c", "*.h"); err != nil {
			return nil, err
		}
	}
	if opts.Equivalents, err = readList(o.list, "bpf/equivalents", bpf.Equivalents); err != nil {
		return nil, err
	}
	opts.Survivors, err = readList(o.known, "bpf/survivors", bpf.Survivors)
	return opts, err
}

func (o *mutating) read() ([]*mutate.Object, error) {
	if len(o.objects) == 0 {
		return mutate.Embedded()
	}
	var out []*mutate.Object
	for _, name := range o.objects {
		file, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
		object, err := mutate.NewObject(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !object.Runs() {
			fmt.Fprintf(os.Stderr, "weir: %s: the lab has no hook for programs of %s: their mutants count as not executed\n", name, object.Name)
		}
		out = append(out, object)
	}
	return out, nil
}

// readList reads a list of excuses in a file, or the embedded one.
func readList(path, name, embedded string) (*mutate.Excuses, error) {
	if path == "" {
		return mutate.ReadExcuses(name, strings.NewReader(embedded))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a list of mutants: %w", err)
	}
	defer f.Close()
	return mutate.ReadExcuses(filepath.Base(path), f)
}
