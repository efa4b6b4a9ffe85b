// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/mutate/planted"
)

// binary is the tests of a package, built with all errors.
type binary struct {
	pkg, path, dir string
	tests          []*test
}

// test is a test that can be asked alone.
type test struct {
	of      *binary
	name    string
	took    time.Duration
	reached []byte
	kills   atomic.Int64
}

func (t *test) String() string { return t.of.pkg + "." + t.name }

// slow is what a test takes that is asked alone, behind the others.
const slow = 150 * time.Millisecond

// testStage asks the unit tests of the packages.
func (m *measure) testStage(ctx context.Context) error {
	if err := m.buildTests(ctx); err != nil {
		return err
	}
	var all []*test
	for _, b := range m.suites {
		all = append(all, b.tests...)
	}
	var done atomic.Int64
	err := each(ctx, m.Parallel, all, func(_ int, t *test) error {
		defer func() { m.progress("what tests reach", int(done.Add(1)), len(all)) }()
		return m.recordTest(ctx, t)
	})
	if err != nil {
		return err
	}
	var todo []*subject
	for _, s := range m.all {
		for _, t := range all {
			if t.reached[s.number] != 0 {
				s.tests = append(s.tests, t)
				s.Reached[mutate.ByTest]++
				s.Example[mutate.ByTest] = t.name
			}
		}
		if s.Outcome == "" && len(s.tests) > 0 && !m.memory.Recall(&s.Result, mutate.ByTest) {
			todo = append(todo, s)
		}
	}
	done.Store(0)
	return each(ctx, m.Parallel, todo, func(_ int, s *subject) error {
		if err := m.askTests(ctx, s); err != nil {
			return err
		}
		m.progress("unit tests", int(done.Add(1)), len(todo))
		return m.memory.Keep(&s.Result, mutate.ByTest)
	})
}

func (m *measure) buildTests(ctx context.Context) error {
	for _, b := range m.suites {
		pkg := b.pkg
		m.progress("compile the tests of "+pkg, 0, 0)
		if out, err := m.overlay.Go(ctx, "test", "-c", "-vet=off", "-o", b.path, pkg); err != nil {
			return fmt.Errorf("compile the tests of %s: %w: %s", pkg, err, out)
		}
		names, err := b.run(ctx, "", "-test.list", ".").Output()
		if err != nil {
			return fmt.Errorf("list the tests of %s: %w", pkg, err)
		}
		for name := range strings.Lines(string(names)) {
			if name = strings.TrimSpace(name); !strings.HasPrefix(name, "Benchmark") {
				b.tests = append(b.tests, &test{of: b, name: name})
			}
		}
	}
	return nil
}

// findTests finds the packages whose tests judge.
func (m *measure) findTests(ctx context.Context) error {
	patterns := m.Tests
	if len(patterns) == 0 {
		patterns = m.code.Packages
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}`}, patterns...)...)
	cmd.Dir = m.Dir
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return cmp.Or(ctx.Err(), fmt.Errorf("list the packages whose tests judge: %w: %s", err, problem.String()))
	}
	for line := range strings.Lines(string(out)) {
		if pkg, dir, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			m.suites = append(m.suites, &binary{pkg: pkg, dir: dir, path: filepath.Join(m.dir, strings.ReplaceAll(pkg, "/", "_")+".test")})
		}
	}
	return nil
}

func (b *binary) run(ctx context.Context, acting string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.path, args...)
	cmd.Dir = b.dir
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), planted.Variable+"="+acting, "TEST_SEED=1")
	return cmd
}

func only(tests ...*test) string {
	var names []string
	for _, t := range tests {
		names = append(names, regexp.QuoteMeta(t.name))
	}
	return "^(" + strings.Join(names, "|") + ")$"
}

func (m *measure) recordTest(ctx context.Context, t *test) error {
	file, err := os.CreateTemp(m.dir, "reached-")
	if err != nil {
		return fmt.Errorf("record what is reached: %w", err)
	}
	path := file.Name()
	if err := errors.Join(file.Truncate(int64(m.count)), file.Close()); err != nil {
		return fmt.Errorf("record what is reached: %w", err)
	}
	began := time.Now()
	out, err := t.of.run(ctx, "record:"+path, "-test.run", only(t)).CombinedOutput()
	if err != nil {
		return cmp.Or(ctx.Err(), fmt.Errorf("%s: %w: %s", t, ErrUnsound, out))
	}
	t.took = time.Since(began)
	if t.reached, err = os.ReadFile(path); err != nil {
		return fmt.Errorf("record what is reached: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record what is reached: %w", err)
	}
	return nil
}

// askTests asks the tests that reach an error: those first that noticed another
// one in the same function, then the quick ones, then each slow one.
func (m *measure) askTests(ctx context.Context, s *subject) error {
	if last, ok := m.killers.Load(s.Function); ok {
		if t := last.(*test); slices.Contains(s.tests, t) {
			if err := m.ask(ctx, s, []*test{t}); err != nil || s.Outcome != "" {
				return err
			}
		}
	}
	for _, b := range m.suites {
		var quick []*test
		for _, t := range s.tests {
			if t.of == b && t.took < slow {
				quick = append(quick, t)
			}
		}
		if err := m.ask(ctx, s, quick); err != nil || s.Outcome != "" {
			return err
		}
	}
	rest := slices.DeleteFunc(slices.Clone(s.tests), func(t *test) bool { return t.took < slow })
	slices.SortStableFunc(rest, func(a, b *test) int { return cmp.Compare(b.kills.Load(), a.kills.Load()) })
	for _, t := range rest {
		if err := m.ask(ctx, s, []*test{t}); err != nil || s.Outcome != "" {
			return err
		}
	}
	return nil
}

var failed = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

func (m *measure) ask(ctx context.Context, s *subject, tests []*test) error {
	if len(tests) == 0 {
		return nil
	}
	patience := 20 * time.Second
	for _, t := range tests {
		patience += 10 * t.took
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out bytes.Buffer
	cmd := tests[0].of.run(limited, strconv.Itoa(s.number), "-test.failfast", "-test.run", only(tests...))
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return nil
	case limited.Err() == nil && cmd.ProcessState == nil:
		return fmt.Errorf("run the tests of %s: %w", tests[0].of.pkg, err)
	}
	s.Outcome, s.By, s.Why = mutate.Killed, mutate.ByTest, why(out.String())
	if limited.Err() != nil {
		s.Why = "it does not end"
	}
	if len(tests) == 1 {
		s.Killer = tests[0].name
	} else if match := failed.FindStringSubmatch(out.String()); match != nil {
		s.Killer, _, _ = strings.Cut(match[1], "/")
	}
	for _, t := range tests {
		if t.name == s.Killer {
			t.kills.Add(1)
			m.killers.Store(s.Function, t)
		}
	}
	return nil
}

// why is the line of a test's output that says what is wrong.
func why(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "Error:") || strings.HasPrefix(line, "fatal error:") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return "it fails"
}
