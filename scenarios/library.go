// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirnet/weir/scenarios/syntax"
)

//go:embed library/*.txtar skips differences
var embedded embed.FS

// Library reads the scenarios that are part of the binary.
func Library() ([]*Scenario, error) {
	names, err := fs.Glob(embedded, "library/*"+syntax.Suffix)
	if err != nil {
		return nil, fmt.Errorf("list the library: %w", err)
	}
	return read(names, embedded.ReadFile, Parse)
}

// LibraryNamed returns those of these names, which may have a family behind a
// slash, as ParseRehearsed does.
func LibraryNamed(names []string) ([]*Scenario, error) {
	var files []string
	for _, name := range names {
		name, _, _ = strings.Cut(name, "/")
		if file := "library/" + name + syntax.Suffix; !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	return read(files, embedded.ReadFile, ParseRehearsed)
}

// Load reads scenarios from files, and from folders all that are below them.
func Load(paths ...string) ([]*Scenario, error) {
	var names []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read scenario: %w", err)
		}
		if !info.IsDir() {
			names = append(names, path)
			continue
		}
		err = filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(name, syntax.Suffix) {
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read scenarios in %s: %w", path, err)
		}
	}
	return read(names, readScenario, Parse)
}

// readScenario reads a file as far as one may go, and an octet more, which is told.
func readScenario(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, syntax.MostBytes+1))
}

// read parses files. The error joins the mistakes of all of them.
func read(names []string, readFile func(string) ([]byte, error), parse func(string, []byte) (*Scenario, error)) ([]*Scenario, error) {
	slices.Sort(names)
	var out []*Scenario
	var errs []error
	seen := map[string]string{}
	for _, name := range names {
		data, err := readFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("read scenario: %w", err))
			continue
		}
		sc, err := parse(name, data)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if first, twice := seen[sc.Name]; twice {
			errs = append(errs, fmt.Errorf("%s:1: %s has that name too: results could not be told apart", name, first))
			continue
		}
		seen[sc.Name] = name
		out = append(out, sc)
	}
	return out, errors.Join(errs...)
}
