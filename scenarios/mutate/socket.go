// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/mutant"
)

// SocketTests are tests of Go that run the programs of sockets in a cgroup, and the
// collector's while packets pass: those of package datapath, compiled. They are told by the environment what to plant
// and where to tell what they reach: see datapath/planted_test.go.
type SocketTests struct {
	Binary string
	Names  []string // of the tests
}

// longestTest is how long a test of sockets may take.
const longestTest = time.Minute

func (s *SocketTests) run(ctx context.Context, name, variable, value string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, longestTest)
	defer cancel()
	cmd := exec.CommandContext(limited, s.Binary, "-test.run", "^"+name+"$", "-test.count", "1")
	cmd.Env = append(os.Environ(), variable+"="+value)
	cmd.Dir = os.TempDir()
	// It makes a mount that is to go: it is given time to end by itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	said, err := cmd.CombinedOutput()
	return string(said), err
}

// socketStage asks the tests that reach a mutant of the programs of sockets.
func (m *measure) socketStage(ctx context.Context) error {
	var todo []*subject
	for _, s := range m.all {
		if s.Outcome == "" && m.ofSockets(s) {
			todo = append(todo, s)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	reached, err := m.recordSockets(ctx)
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(m.Sockets.Binary)
	if err != nil {
		return fmt.Errorf("read the tests of sockets: %w", err)
	}
	sum := sha256.Sum256(binary)
	lab := hex.EncodeToString(sum[:8])
	var left []*subject
	for _, s := range todo {
		for _, r := range reached {
			if r.any(s.blocks) {
				s.Reached[BySocket]++
				s.Example[BySocket] = r.test
			}
		}
		if s.Reached[BySocket] > 0 && !m.known(s, BySocket, lab, nil) {
			left = append(left, s)
		}
	}
	var done atomic.Int64
	return each(ctx, m.Parallel, left, func(_ int, s *subject) error {
		if err := m.askSockets(ctx, s, reached); err != nil || ctx.Err() != nil {
			return err
		}
		m.progress("tests of sockets", int(done.Add(1)), len(left))
		return m.keep(s, BySocket, lab)
	})
}

// ofSockets says whether the tests know the program that a mutant is in.
func (m *measure) ofSockets(s *subject) bool {
	collector := slices.Equal(s.Programs, []string{bpf.ContainerProgMarkExpired})
	return s.object.use != nil && (collector || s.object.programs[bpf.SocketProgConnect4] != nil)
}

// socketReach is what a test reaches, how long that takes, and how many mutants it
// has killed.
type socketReach struct {
	reach
	test  string
	took  time.Duration
	kills atomic.Int64
}

// likeliest sorts tests by how many mutants each has killed in a second.
func likeliest(tests []*socketReach) []*socketReach {
	rate := map[*socketReach]float64{}
	for _, r := range tests {
		rate[r] = (float64(r.kills.Load()) + 1) / r.took.Seconds()
	}
	return slices.SortedStableFunc(slices.Values(tests), func(a, b *socketReach) int { return cmp.Compare(rate[b], rate[a]) })
}

// recordSockets finds out what each test reaches.
func (m *measure) recordSockets(ctx context.Context) ([]*socketReach, error) {
	out := make([]*socketReach, len(m.Sockets.Names))
	var done atomic.Int64
	err := each(ctx, m.Parallel, numbers(len(out)), func(_, n int) (err error) {
		dir, err := os.MkdirTemp("", "weir-reach-")
		if err != nil {
			return fmt.Errorf("make a directory for what tests reach: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		name, begin := m.Sockets.Names[n], time.Now()
		if said, err := m.Sockets.run(ctx, name, "WEIR_TEST_REACH", dir); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%w: %s: %w\n%s", ErrUnsound, name, err, said)
		}
		out[n] = &socketReach{test: name, took: time.Since(begin)}
		out[n].reach, err = m.readReach(dir)
		m.progress("what tests of sockets reach", int(done.Add(1)), len(out))
		return err
	})
	return out, err
}

func (m *measure) readReach(dir string) (reach, error) {
	r := make(reach, (m.places.size+63)/64)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list what a test reached: %w", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read what a test reached: %w", err)
		}
		entered := map[string][]int{}
		if err := json.Unmarshal(text, &entered); err != nil {
			return nil, fmt.Errorf("read what a test reached: %w", err)
		}
		for program, blocks := range entered {
			first, known := m.places.first[program]
			for _, n := range blocks {
				if known {
					r.add(first + n)
				}
			}
		}
	}
	return r, nil
}

func (m *measure) askSockets(ctx context.Context, s *subject, reached []*socketReach) error {
	refusal, err := refusedAlone(s)
	if err != nil {
		return err
	}
	if refusal != "" {
		s.Outcome, s.Why = Refused, refusal
		return nil
	}
	for _, r := range likeliest(reached) {
		if !r.any(s.blocks) {
			continue
		}
		name := r.test
		said, err := m.Sockets.run(ctx, name, "WEIR_TEST_MUTANT", s.ID)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			r.kills.Add(1)
			s.Outcome, s.By, s.Killer, s.Why = Killed, BySocket, name, failure(said)
			return nil
		}
	}
	return nil
}

// failure is the line of a failed test that says most. A test that runs again in a
// child fails twice: with what the child met, and around it with how the child ended.
func failure(said string) string {
	const unexpected = "Received unexpected error:"
	lines := strings.Split(said, "\n")
	around := ""
	for n, line := range lines {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "Error:")
		if !ok {
			continue
		}
		text = strings.TrimSpace(text)
		if text == unexpected && n+1 < len(lines) {
			text = strings.TrimSpace(lines[n+1])
		}
		if !strings.HasPrefix(text, "exit status ") {
			return text
		}
		around = cmp.Or(around, text)
	}
	return cmp.Or(around, firstLine(said))
}

// refusedAlone loads the programs with an error, over maps that have no room,
// and gives what the verifier says.
func refusedAlone(s *subject) (string, error) {
	spec := s.object.spec.Copy()
	for name, p := range spec.Programs {
		if !slices.Contains(s.Programs, name) {
			delete(spec.Programs, name)
			continue
		}
		if _, err := mutant.Apply(p, s.Mutant); err != nil {
			return "", err
		}
	}
	for _, mapped := range spec.Maps {
		if mapped.Type == ebpf.Hash || mapped.Type == ebpf.LRUHash || mapped.Type == ebpf.LPMTrie {
			mapped.MaxEntries = 1
		}
	}
	loaded, err := ebpf.NewCollection(spec)
	var refusal *ebpf.VerifierError
	if errors.As(err, &refusal) {
		return firstLine(err.Error()), nil
	}
	if err != nil {
		return "", fmt.Errorf("load %s: %w", s.ID, err)
	}
	loaded.Close()
	return "", nil
}
