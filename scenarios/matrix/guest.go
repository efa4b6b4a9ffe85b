// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Serve is the guest's side: it loads what the runs of a world share, says that
// it is ready, reads a job and tells the results. Runs of world netns whose
// reach is counted share nothing.
func Serve(ctx context.Context, world syntax.World, cover bool, in io.Reader, out io.Writer) error {
	// Most of what a guest has is free, and the collector took a tenth of the time.
	debug.SetGCPercent(400)
	if world == syntax.Netns {
		if err := netns.Own(); err != nil {
			return fmt.Errorf("prepare this guest for world %s: %w", world, err)
		}
	}
	var warm *scenarios.Warm
	if !cover || world == syntax.Prog {
		// What cannot be loaded is told by the runs that need it.
		warm, _ = scenarios.NewWarm(ctx, world, cover)
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return fmt.Errorf("tell the host: %w", err)
	}
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	s := &server{out: json.NewEncoder(out), warm: warm}
	if err := s.serve(ctx, &j); err != nil {
		s.tell(message{Problem: err.Error()})
	}
	s.tell(message{Done: true})
	return s.err
}

type server struct {
	mu  sync.Mutex
	out *json.Encoder
	err error // the first

	warm *scenarios.Warm // nil: nothing is loaded
}

func (s *server) tell(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Encode(m); err != nil && s.err == nil {
		s.err = fmt.Errorf("tell the host: %w", err)
	}
}

func (s *server) mark(mark string, r scenarios.Result) {
	if err := writeMark(mark, label(r)); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.err = err
		}
	}
}

func (s *server) serve(ctx context.Context, j *job) error {
	all, err := j.scenarios()
	if err != nil {
		return err
	}
	if j.Costs {
		costs, err := s.costs()
		if err != nil {
			return err
		}
		s.tell(message{Costs: costs})
	}
	// One at a time: what the kernel says is of the one that is on.
	runner := &scenarios.Runner{
		Worlds: []syntax.World{j.World}, Match: anyOf(j.Names), Parallel: 1, Thorough: true, Slowdown: j.Slowdown, Cover: j.Cover, Warm: s.warm, Brief: true,
		Began: func(r scenarios.Result) { s.mark(beginMark, r) },
		Live: func(r scenarios.Result) {
			s.mark(endMark, r)
			s.tell(message{Result: &r, Failure: r.Failure, Outputs: r.Outputs, Reach: r.Reach})
		},
	}
	_, err = runner.Run(ctx, all)
	return err
}

// costs are those of loading what is warm, or of loading for them alone.
func (s *server) costs() ([]datapath.ProgramCost, error) {
	if s.warm != nil && s.warm.Costs() != nil {
		return s.warm.Costs(), nil
	}
	return datapath.Verify(datapath.Options{})
}

// scenarios of the job, which the host has rehearsed.
func (j *job) scenarios() ([]*scenarios.Scenario, error) {
	if len(j.Sources) == 0 {
		return scenarios.LibraryNamed(j.Names)
	}
	var all []*scenarios.Scenario
	for _, source := range j.Sources {
		s, err := scenarios.ParseRehearsed(source.Path, []byte(source.Text))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// anyOf matches exactly these names.
func anyOf(names []string) *regexp.Regexp {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	return regexp.MustCompile("^(" + strings.Join(quoted, "|") + ")$")
}
