// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// digest stands for all that judges: what was found is true as long as nothing of
// that has changed.
func (m *measure) digest() (string, error) {
	h := sha256.New()
	root := m.code.Root
	tested := map[string]bool{}
	for _, b := range m.suites {
		name, err := filepath.Rel(root, b.dir)
		if err != nil {
			return "", fmt.Errorf("read the tree: %w", err)
		}
		tested[name] = true
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if !slices.Contains([]string{".go", ".o", ".txtar", ".mod"}, filepath.Ext(path)) {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(filepath.ToSlash(name), "cmd/") || strings.HasSuffix(name, "_test.go") && !tested[filepath.Dir(name)] {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(text))
		h.Write(text)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the tree: %w", err)
	}
	fmt.Fprint(h, m.Patterns, m.fuzzTime())
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
