// SPDX-License-Identifier: Apache-2.0

package report

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/shard"
)

// Folder keeps the results of one run in a directory of its own: results.json as
// they come, outputs.json with the frames of world prog, and for each failure its
// story, page and capture; junit.xml at the end. Summary.txt and index.html say how
// the run ended, and before that that it has not.
type Folder struct {
	path    string
	json    *os.File
	outputs *os.File
	tales   *os.File
	begun   time.Time
	tally   Tally
	parts   int // reports that are merged in it; 0 of a run
}

// latest is a link to the folder of the run that began last.
const latest = "latest"

// NewFolder makes a folder for a run that begins now, in a directory of reports
// that is made if it is not there. The folder's name is the time in UTC, so that
// names sort as runs began.
func NewFolder(reports string) (*Folder, error) {
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return nil, fmt.Errorf("make report folder: %w", err)
	}
	f := &Folder{begun: time.Now().UTC()}
	name, err := f.makeOwn(reports)
	if err != nil {
		return nil, fmt.Errorf("make report folder: %w", err)
	}
	f.path = filepath.Join(reports, name)
	for name, file := range map[string]**os.File{resultsFile: &f.json, outputsFile: &f.outputs, talesFile: &f.tales} {
		if *file, err = os.Create(filepath.Join(f.path, name)); err != nil {
			return nil, fmt.Errorf("write report: %w", err)
		}
	}
	if err := pointTo(reports, name); err != nil {
		return nil, fmt.Errorf("point %s to the report: %w", filepath.Join(reports, latest), err)
	}
	return f, nil
}

// makeOwn makes a directory that no other run has: the second of two that begin in
// one second has a number behind its name.
func (f *Folder) makeOwn(reports string) (name string, err error) {
	at := f.begun.Format("20060102-150405")
	name = at
	for n := 2; ; n++ {
		if err = os.Mkdir(filepath.Join(reports, name), 0o755); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
		name = fmt.Sprintf("%s-%d", at, n)
	}
}

// pointTo makes the link anew in one step, so that it never leads nowhere.
func pointTo(reports, name string) error {
	next := filepath.Join(reports, name, latest)
	if err := os.Symlink(name, next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(reports, latest))
}

// reportIn gives the folder of the report that a path names: of a directory of
// reports the latest, else the path itself.
func reportIn(path string) string {
	if last := filepath.Join(path, latest); isReport(last) {
		if name, err := filepath.EvalSymlinks(last); err == nil && filepath.Base(name) != latest {
			return filepath.Join(path, filepath.Base(name))
		}
		return last
	}
	return path
}

// Path is that of the folder.
func (f *Folder) Path() string { return f.path }

// Describe keeps which part of a whole the report is. It is called before the
// first result, so that what a killed run leaves is known for that.
func (f *Folder) Describe(run *shard.Run) error {
	return errors.Join(f.describe(run), f.index(nil, run, f.ofResults()))
}

func (f *Folder) describe(run *shard.Run) error {
	return errors.Join(
		f.file(runFile, func(out io.Writer) error { return JSONRun(out, run) }),
		f.file(summaryFile, func(out io.Writer) error { return f.summary(out, run) }),
	)
}

// Close writes junit.xml and the page of the run, and keeps how it has ended.
func (f *Folder) Close(results []scenarios.Result, run *shard.Run) error {
	if err := f.closeFiles(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return errors.Join(
		f.file(junitFile, func(out io.Writer) error { return JUnit(out, results, run) }),
		f.describe(run),
		f.index(results, run, f.ofResults()),
	)
}

// closeFiles closes what is written while results come.
func (f *Folder) closeFiles() error {
	return errors.Join(f.json.Close(), f.outputs.Close(), f.tales.Close())
}

// summary tells people what the report is of.
func (f *Folder) summary(out io.Writer, run *shard.Run) error {
	done := f.tally.Passed + f.tally.Same + f.tally.Failed + f.tally.Skipped
	text := fmt.Sprintf("began    %s\n", f.begun.Format(time.DateTime+" UTC"))
	switch {
	case run.Ended:
		text += fmt.Sprintf("ended    %s\n", time.Now().UTC().Format(time.DateTime+" UTC"))
	case len(run.Problems) > 0:
		text += fmt.Sprintf("INTERRUPTED at %s: %d of %d runs were done\n", time.Now().UTC().Format(time.DateTime+" UTC"), done, run.Results)
	default:
		text += fmt.Sprintf("It has NOT ended: %d runs go on, or were killed.\n", run.Results)
	}
	for _, kernel := range run.Kernels {
		text += fmt.Sprintf("kernel   %s\n", kernel)
	}
	for _, problem := range run.Problems {
		text += fmt.Sprintf("problem  %s\n", problem)
	}
	if done > 0 {
		text += f.tally.String() + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
