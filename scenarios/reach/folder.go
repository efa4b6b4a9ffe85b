// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Write keeps the report in a directory, which it makes: cover.lcov, index.html
// with a page for each source file, and alone.json.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep what was reached: %w", err)
	}
	for name, write := range map[string]func(io.Writer) error{
		"cover.lcov": r.LCOV, "alone.json": r.writeAlone, "index.html": r.index,
	} {
		if err := writeFile(filepath.Join(dir, name), write); err != nil {
			return err
		}
	}
	for _, f := range r.Files {
		if err := writeFile(filepath.Join(dir, pageOf(f.Name)), func(to io.Writer) error { return r.page(to, f) }); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep what was reached: %w", err)
	}
	return errors.Join(write(f), f.Close())
}

// writeAlone writes what each scenario alone reaches, one object a line.
func (r *Report) writeAlone(to io.Writer) error {
	out := json.NewEncoder(to)
	for _, name := range slices.Sorted(maps.Keys(r.Alone)) {
		if err := out.Encode(struct {
			Scenario string  `json:"scenario"`
			Lines    []Place `json:"lines"`
		}{name, r.Alone[name]}); err != nil {
			return fmt.Errorf("write what scenarios alone reach: %w", err)
		}
	}
	return nil
}
