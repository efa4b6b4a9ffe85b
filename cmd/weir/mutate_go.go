// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/mutate/source"
	"github.com/weirnet/weir/scenarios/mutate/suite"
)

// Where errors in Go stand that are none, and those that are known to survive, from
// the module's root.
const (
	equivalentsOfGo = "model/equivalents"
	survivorsOfGo   = "model/survivors"
)

// runGo measures the Go code of a checkout in place of programs.
func (o *mutating) runGo(ctx context.Context, progress func(string, int, int)) (*mutate.Report, error) {
	opts, err := o.optionsGo(ctx)
	if err != nil {
		return nil, err
	}
	opts.Progress = progress
	report, err := suite.Run(ctx, *opts)
	if errors.Is(err, source.ErrNothing) {
		return nil, usageError(fmt.Errorf("--go: %w", err))
	}
	return report, err
}

func (o *mutating) optionsGo(ctx context.Context) (*suite.Options, error) {
	if len(o.paths) > 0 || len(o.objects) > 0 {
		return nil, usageError(errors.New("--go: errors in Go are judged by the whole library, and by the programs inside the checkout: give neither scenarios nor --object"))
	}
	for _, w := range o.without {
		if err := oneOf("without", w, mutate.ByTest, mutate.ByProg, mutate.ByFuzz); err != nil {
			return nil, err
		}
	}
	root, err := checkout(ctx)
	if err != nil {
		return nil, err
	}
	opts := &suite.Options{
		Dir: ".", Patterns: o.golang, Tests: o.tests, Sample: o.sample, Seed: o.seed, Fuzz: o.fuzz, Without: o.without, Parallel: o.parallel, State: o.state,
	}
	if len(o.only) > 0 {
		opts.Only = func(m *source.Mutant) bool { return o.isOnly(m.ID, m.File, m.Line) }
		opts.Chosen = o.unfit
	}
	if o.changed != "" {
		if opts.Changed, err = changedLines(ctx, o.changed, root, "*.go"); err != nil {
			return nil, err
		}
	}
	if opts.Equivalents, err = readListOfGo(o.list, filepath.Join(root, equivalentsOfGo)); err != nil {
		return nil, err
	}
	opts.Survivors, err = readListOfGo(o.known, filepath.Join(root, survivorsOfGo))
	return opts, err
}

// checkout is the root of Weir's module around the working directory.
func checkout(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", suite.ErrNoGo
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}")
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if err != nil || path != modulePath || dir == "" {
		return "", errors.New("--go: this is no checkout of Weir: run it inside one, whose code it compiles with errors")
	}
	return dir, nil
}

// readListOfGo reads the list that was asked for, or the checkout's if it has one.
func readListOfGo(asked, path string) (*mutate.Excuses, error) {
	if asked != "" {
		path = asked
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && asked == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a list of mutants: %w", err)
	}
	defer f.Close()
	var kinds []mutant.Kind
	for _, k := range source.Kinds() {
		kinds = append(kinds, mutant.Kind(k))
	}
	return mutate.ReadExcuses(filepath.Base(path), f, kinds...)
}
