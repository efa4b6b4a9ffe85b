// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// entry is a line of a state file: what became of a mutant at one stage. What a
// scenario killed is true as long as that scenario is what it was; that one has
// survived, as long as all of a stage are.
type entry struct {
	Object  string  `json:"object"` // digest
	ID      string  `json:"id"`
	Stage   string  `json:"stage"`
	Outcome Outcome `json:"outcome"`
	Killer  string  `json:"killer,omitempty"`
	Why     string  `json:"why,omitempty"`
	Lab     string  `json:"lab"` // digest: the killer's, or the stage's
}

type stateKey struct{ object, id, stage string }

// state remembers across runs.
type state struct {
	mu   sync.Mutex
	file *os.File // nil: nothing is kept
	know map[stateKey]entry
}

func openState(path string) (*state, error) {
	s := &state{know: map[stateKey]entry{}}
	if path == "" {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what earlier runs found: %w", err)
	}
	whole := s.read(data)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("keep what is found: %w", err)
	}
	if s.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, fmt.Errorf("keep what is found: %w", err)
	}
	// A run that was killed leaves half a line.
	if err := s.file.Truncate(int64(whole)); err != nil {
		return nil, errors.Join(fmt.Errorf("keep what is found in %s: %w", path, err), s.file.Close())
	}
	if _, err := s.file.Seek(int64(whole), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("keep what is found in %s: %w", path, err), s.file.Close())
	}
	return s, nil
}

// read takes whole lines, and says how many octets those are.
func (s *state) read(data []byte) int {
	whole := 0
	for {
		n := indexByte(data[whole:], '\n')
		if n < 0 {
			return whole
		}
		var e entry
		if json.Unmarshal(data[whole:whole+n], &e) != nil {
			return whole
		}
		s.know[stateKey{e.Object, e.ID, e.Stage}] = e
		whole += n + 1
	}
}

func indexByte(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return -1
}

func (s *state) get(object, id, stage string) (entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.know[stateKey{object, id, stage}]
	return e, ok
}

func (s *state) put(e entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.know[stateKey{e.Object, e.ID, e.Stage}] = e
	if s.file == nil {
		return nil
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = s.file.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep what was found: %w", err)
	}
	return nil
}

func (s *state) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
