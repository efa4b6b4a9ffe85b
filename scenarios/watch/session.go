// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/weirnet/weir/scenarios"
)

// Session knows what the files said last, and which runs are due since. It is for one
// goroutine.
type Session struct {
	compiler *Compiler // nil: there is no source tree
	planned  func([]*scenarios.Scenario) []scenarios.Result
	seen     Snapshot
	files    map[string]*file
	build    *Build // nil: there was none yet
	unbuilt  error  // why seen.Source is not that of build
	memory   Memory
}

// file is one of scenarios.
type file struct {
	scenario *scenarios.Scenario
	problem  error // it cannot be read
}

// News is what a look at the files has brought.
type News struct {
	Changed  []string // lines for a person
	Problems []error  // new ones: a file or the programs cannot be read or built
}

// NewSession makes a session. The compiler may be nil, without a source tree. Planned
// gives the runs of scenarios.
func NewSession(compiler *Compiler, planned func([]*scenarios.Scenario) []scenarios.Result) *Session {
	return &Session{compiler: compiler, planned: planned, files: map[string]*file{}}
}

// Differs says whether a snapshot has something that was not taken yet.
func (s *Session) Differs(now *Snapshot) bool {
	return !maps.Equal(s.seen.Scenarios, now.Scenarios) || !maps.Equal(s.seen.Source, now.Source)
}

// Take takes a snapshot in: it parses the scenarios that differ, builds the programs if
// they do, and makes those runs due that this touches. The error is that of
// ctx, or of the binary itself.
func (s *Session) Take(ctx context.Context, now *Snapshot) (*News, error) {
	news := &News{}
	names := s.takeScenarios(now.Scenarios, news)
	s.plan(names)
	if s.seen.Scenarios == nil || !maps.Equal(s.seen.Source, now.Source) {
		if err := s.takeSource(ctx, now.Source, news); err != nil {
			return news, err
		}
	}
	s.seen = *now
	return news, nil
}

// takeScenarios gives the names of those that changed.
func (s *Session) takeScenarios(now map[string]string, news *News) (names []string) {
	first := s.seen.Scenarios == nil
	var changed []string
	for _, path := range slices.Sorted(maps.Keys(now)) {
		if before, was := s.seen.Scenarios[path]; was && before == now[path] {
			continue
		}
		changed = append(changed, path)
		f := &file{}
		f.scenario, f.problem = scenarios.Parse(path, []byte(now[path]))
		s.files[path] = f
		if f.problem != nil {
			news.Problems = append(news.Problems, f.problem)
			continue
		}
		if other := s.other(path); other != "" {
			news.Problems = append(news.Problems, fmt.Errorf("%s:1: %s has that name too: one of them is not run", path, other))
		}
		names = append(names, f.scenario.Name)
	}
	var gone []string
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		if _, is := now[path]; !is {
			gone = append(gone, path)
			delete(s.files, path)
		}
	}
	if !first {
		news.tell("changed", changed)
		news.tell("gone", gone)
	}
	return names
}

// other is another file whose scenario has the name of one's, or empty.
func (s *Session) other(path string) string {
	for other, f := range s.files {
		if other != path && f.scenario != nil && f.scenario.Name == s.files[path].scenario.Name {
			return other
		}
	}
	return ""
}

// tell names files, the first few of many.
func (n *News) tell(what string, paths []string) {
	const few = 3
	switch {
	case len(paths) == 0:
	case len(paths) <= few:
		n.Changed = append(n.Changed, fmt.Sprintf("%s: %s", what, strings.Join(paths, ", ")))
	default:
		n.Changed = append(n.Changed, fmt.Sprintf("%s: %s and %d more", what, strings.Join(paths[:few], ", "), len(paths)-few))
	}
}

// plan makes the runs known that there are, and those of some scenarios due.
func (s *Session) plan(names []string) {
	var runs []Run
	for _, r := range s.planned(s.Scenarios()) {
		if one := RunOf(r); !slices.Contains(runs[max(0, len(runs)-1):], one) { // one of several times
			runs = append(runs, one)
		}
	}
	s.memory.Plan(runs)
	s.memory.touch(func(r Run, _ *known) bool { return slices.Contains(names, path.Dir(r.Scenario)) })
}

// Scenarios are those that can be read, by path. Of two with one name it is the first.
func (s *Session) Scenarios() (all []*scenarios.Scenario) {
	have := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		if sc := s.files[path].scenario; sc != nil && !have[sc.Name] {
			have[sc.Name] = true
			all = append(all, sc)
		}
	}
	return all
}

// takeSource builds the programs, where their code differs from what was built last.
func (s *Session) takeSource(ctx context.Context, now Source, news *News) error {
	if s.build == nil {
		return s.firstBuild(ctx, now, news)
	}
	changed := "changed: " + s.namesOf(editsOf(s.seen.Source, now))
	if !slices.ContainsFunc(editsOf(s.build.Source, now), edit.hasCode) {
		s.unbuilt = nil
		news.Changed = append(news.Changed, changed, "no code differs from what was built last: nothing to run")
		return nil
	}
	built, err := s.compile(ctx, now, news)
	if built == nil {
		news.Changed = append(news.Changed, changed)
		return err
	}
	news.Changed = append(news.Changed, s.memory.Touch(s.build, built).tell(s.compiler.shown)...)
	s.build = built
	return nil
}

// firstBuild is what this binary has, if that is of this source.
func (s *Session) firstBuild(ctx context.Context, now Source, news *News) error {
	embedded, err := Embedded()
	if err != nil {
		return err
	}
	if s.compiler == nil || maps.Equal(embedded.Source, now) {
		s.build, s.unbuilt = embedded, nil
		return nil
	}
	s.build, err = s.compile(ctx, now, news)
	return err
}

// compile gives nothing where the source cannot be built, which is news.
func (s *Session) compile(ctx context.Context, now Source, news *News) (*Build, error) {
	built, err := s.compiler.Build(ctx, now)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s.unbuilt = err; err != nil {
		news.Problems = append(news.Problems, err)
		return nil, nil
	}
	return built, nil
}

// namesOf names files of the source.
func (s *Session) namesOf(edits []edit) string {
	var names []string
	for _, e := range edits {
		names = append(names, path.Join(s.compiler.shown, e.file))
	}
	return strings.Join(names, ", ")
}

// Build is what is to be run; nil: the source could not be built yet.
func (s *Session) Build() *Build { return s.build }

// Rebuilt says whether that is not what this binary has.
func (s *Session) Rebuilt() bool { return s.build != nil && !s.build.embedded }

// Broken says whether the files are such that not all can be run: one cannot be read, or
// the source cannot be built.
func (s *Session) Broken() bool {
	for _, f := range s.files {
		if f.problem != nil {
			return true
		}
	}
	return s.unbuilt != nil
}

// Note takes in the result of a run of the build. Results come one at a time, and not
// while another method is called.
func (s *Session) Note(r scenarios.Result) error {
	reached, err := s.build.Map.Read(r.Reach)
	if err != nil {
		return fmt.Errorf("scenario %s: %w", r.Scenario, err)
	}
	s.memory.Note(r, reached)
	return nil
}

// Due says whether the run of a result is due.
func (s *Session) Due(r scenarios.Result) bool { return s.memory.Due(RunOf(r)) }

// Order is Memory's, of results.
func (s *Session) Order(a, b scenarios.Result) int { return s.memory.Order(RunOf(a), RunOf(b)) }

// Count is Memory's.
func (s *Session) Count() (all, due, failed int) { return s.memory.Count() }
