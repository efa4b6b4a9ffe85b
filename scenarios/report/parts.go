// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weirnet/weir/lab/junit"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/report/page"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

// ErrNoPart is what has results, and does not say of which part of a run.
var ErrNoPart = errors.New("it does not say which part of a run it is")

// Part is what one run left: a report, or what it printed.
type Part struct {
	Name string
	Run  *shard.Run
	contents
	starts  []matrix.Start
	given   string               // the path by which it was found
	dir     string               // of a report, for stories and captures; or empty
	stories map[resultKey]string // that came with results
	tales   map[resultKey]*page.Failure
}

// resultKey is what no two results of a run share.
type resultKey struct {
	kernel, scenario string
	world            syntax.World
}

func keyOf(r scenarios.Result) resultKey { return resultKey{r.Kernel, r.Scenario, r.World} }

// ReadParts reads what runs left at each path: the directory of a report, one that
// holds several, or a file that a run with --shard printed by -o json or -o junit.
// ErrNoReport, ErrNoPart.
func ReadParts(paths ...string) ([]*Part, error) {
	var parts []*Part
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read report: %w", err)
		}
		found := []string{path}
		if info.IsDir() {
			if found, err = reportsIn(path); err != nil {
				return nil, err
			}
		}
		for _, name := range found {
			part, err := readPart(name)
			if err != nil {
				return nil, fmt.Errorf("read report %s: %w", name, err)
			}
			part.given = path
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// reportsIn gives the directory itself, if it is a report or has a latest one, or
// those right below it.
func reportsIn(dir string) ([]string, error) {
	if own := reportIn(dir); isReport(own) {
		return []string{own}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	var found []string
	for _, e := range entries {
		if sub := reportIn(filepath.Join(dir, e.Name())); isReport(sub) {
			found = append(found, sub)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("read report %s: %w", dir, ErrNoReport)
	}
	return found, nil
}

func isReport(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, resultsFile))
	return err == nil
}

func readPart(path string) (*Part, error) {
	p := &Part{Name: path, stories: map[resultKey]string{}, tales: map[resultKey]*page.Failure{}}
	var err error
	switch {
	case filepath.Base(path) == resultsFile:
		p.dir = filepath.Dir(path)
		err = p.readFolder()
	case isReport(path):
		p.dir = path
		err = p.readFolder()
	case strings.HasSuffix(path, ".xml"):
		err = p.readJUnit(path)
	default:
		err = p.readPrinted(path)
	}
	if err == nil && p.Run == nil {
		err = fmt.Errorf("%w: make it by 'weir scenario run --shard I/N'", ErrNoPart)
	}
	return p, err
}

func (p *Part) readFolder() error {
	var lines []runLine
	var tales []*page.Failure
	err := errors.Join(
		p.read(p.dir),
		readLines(filepath.Join(p.dir, talesFile), &tales),
		readLines(filepath.Join(p.dir, runFile), &lines),
		readLines(filepath.Join(p.dir, startsFile), &p.starts),
	)
	if err != nil {
		return err
	}
	if len(lines) > 0 {
		p.Run = lines[0].Run
	}
	for _, t := range tales {
		p.tales[taleKey(t)] = t
	}
	for _, r := range p.results {
		story, err := os.ReadFile((&Folder{path: p.dir}).name(r) + ".txt")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read story: %w", err)
		}
		if r.Failed() && err == nil {
			p.stories[keyOf(r)] = string(story)
		}
	}
	return nil
}

// readPrinted reads what `-o json` printed: results, and the run.
func (p *Part) readPrinted(path string) error {
	var lines []struct {
		scenarios.Result
		runLine
	}
	if err := readLines(path, &lines); err != nil {
		return fmt.Errorf("%w: %w", ErrNoReport, err)
	}
	for _, l := range lines {
		switch {
		case l.Run != nil:
			p.Run = l.Run
		case l.Scenario != "":
			p.results = append(p.results, l.Result)
		}
	}
	return nil
}

// readJUnit reads what JUnit wrote.
func (p *Part) readJUnit(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc junit.Suites
	if err := xml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%w: %w", ErrNoReport, err)
	}
	for _, s := range doc.Suites {
		if s.Name == wholeSuite {
			continue // the run says it too
		}
		properties := map[string]string{}
		for _, property := range s.Properties {
			properties[property.Name] = property.Value
		}
		if run := properties[runProperty]; run != "" {
			if err := json.Unmarshal([]byte(run), &p.Run); err != nil {
				return fmt.Errorf("%w: property %s: %w", ErrNoReport, runProperty, err)
			}
		}
		for _, c := range s.Cases {
			r, story := resultOf(&c)
			r.Kernel, r.World = properties["kernel"], syntax.World(properties["world"])
			p.results = append(p.results, r)
			if story != "" {
				p.stories[keyOf(r)] = story
			}
		}
	}
	return nil
}

// resultOf is what a case says, but for what its suite does.
func resultOf(c *junit.Case) (r scenarios.Result, story string) {
	_, family, _ := strings.Cut(c.Name, "/")
	seconds, _ := strconv.ParseFloat(c.Seconds, 64) // of what is no number: none
	r = scenarios.Result{Scenario: c.Name, Family: syntax.Family(family), Outcome: scenarios.Pass, Seconds: seconds}
	for outcome, problem := range map[scenarios.Outcome]*junit.Problem{
		scenarios.Fail: c.Failure, scenarios.Broken: c.Error, scenarios.Skipped: c.Skipped,
	} {
		if problem != nil {
			r.Outcome, r.Reason, story = outcome, problem.Message, problem.Text
			if r.Failed() {
				r.Cause = problem.Type
			}
			if problem.Type == string(scenarios.Same) {
				r.Outcome = scenarios.Same
			}
		}
	}
	return r, story
}
