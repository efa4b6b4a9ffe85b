// SPDX-License-Identifier: Apache-2.0

package mutate

// Memory is a state file of errors that are not in programs. What it knows of
// them is true of one state of the code and of what judges it, the lab.
type Memory struct {
	state *state
	lab   string
}

// OpenMemory opens a state file; an empty path remembers nothing.
func OpenMemory(path, lab string) (*Memory, error) {
	s, err := openState(path)
	if err != nil {
		return nil, err
	}
	return &Memory{s, lab}, nil
}

// Recall fills in what became of an error when a stage was asked, and says
// whether it is known.
func (m *Memory) Recall(r *Result, stage string) bool {
	e, ok := m.state.get(r.Object, r.ID, stage)
	if !ok || e.Lab != m.lab {
		return false
	}
	if e.Outcome == Killed {
		r.Outcome, r.By, r.Killer, r.Why = Killed, stage, e.Killer, e.Why
	}
	return true
}

// Keep remembers what became of an error when a stage was asked.
func (m *Memory) Keep(r *Result, stage string) error {
	outcome := r.Outcome
	if outcome == "" {
		outcome = Survived
	}
	return m.state.put(entry{r.Object, r.ID, stage, outcome, r.Killer, r.Why, m.lab})
}

// Close closes the file.
func (m *Memory) Close() error { return m.state.close() }
