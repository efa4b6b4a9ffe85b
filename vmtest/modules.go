// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"compress/gzip"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"
)

// module is a loadable part of a kernel, as it describes itself. Packages ship
// no modules.dep, so that the order of loading comes from here.
type module struct {
	Name    string   // with underscores, as in /proc/modules
	Path    string   // below the directory of the index
	Depends []string `json:",omitempty"`
	Aliases []string `json:",omitempty"`
	Before  []string `json:",omitempty"` // soft dependencies: loaded first where they exist
}

// moduleIndex finds the modules of one kernel.
type moduleIndex struct {
	dir     string
	modules []module
	byName  map[string]*module
	builtIn map[string]bool // names of what needs no loading
}

// moduleName is how a module is written in /proc/modules; file names and
// people also use dashes.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

var moduleEndings = []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}

func moduleEnding(name string) string {
	for _, e := range moduleEndings {
		if strings.HasSuffix(name, e) {
			return e
		}
	}
	return ""
}

// indexModules reads every module below dir.
func indexModules(dir string) ([]module, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && moduleEnding(p) != "" {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find modules: %w", err)
	}
	modules := make([]module, len(paths))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range paths {
		group.Go(func() error {
			image, err := readModule(p)
			if err != nil {
				return err
			}
			m, err := describeModule(image)
			if err != nil {
				return fmt.Errorf("read module %s: %w", p, err)
			}
			if m.Name == "" {
				m.Name = strings.TrimSuffix(filepath.Base(p), moduleEnding(p))
			}
			m.Name = moduleName(m.Name)
			m.Path, err = filepath.Rel(dir, p)
			modules[i] = m
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	sort.Slice(modules, func(i, j int) bool { return modules[i].Path < modules[j].Path })
	return modules, nil
}

// readModule returns a module as the kernel wants it, unpacked.
func readModule(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	var r io.Reader
	switch moduleEnding(file) {
	case ".ko.xz":
		r, err = xz.NewReader(bytes.NewReader(data))
	case ".ko.zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(data)); err == nil {
			defer z.Close()
			r = z
		}
	case ".ko.gz":
		r, err = gzip.NewReader(bytes.NewReader(data))
	default:
		return data, nil
	}
	if err == nil {
		data, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack module %s: %w", file, err)
	}
	return data, nil
}

// describeModule reads the section .modinfo: strings of the form key=value.
func describeModule(image []byte) (module, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return module{}, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return module{}, errors.New("it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return module{}, err
	}
	var m module
	for entry := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "name":
			m.Name = value
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					m.Depends = append(m.Depends, moduleName(name))
				}
			}
		case "softdep":
			m.Before = append(m.Before, softBefore(value)...)
		}
	}
	return m, nil
}

// softBefore reads "pre: a b post: c", of which a and b are wanted.
func softBefore(value string) []string {
	var names []string
	before := false
	for _, word := range strings.Fields(value) {
		switch {
		case word == "pre:":
			before = true
		case strings.HasSuffix(word, ":"):
			before = false
		case before:
			names = append(names, word)
		}
	}
	return names
}

// moduleIndexFile is where a fetched kernel keeps its index.
const moduleIndexFile = "modules.json"

func writeModuleIndex(dir string, modules []module) error {
	data, err := json.Marshal(modules)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, moduleIndexFile), data, 0o644)
}

func readModuleIndex(dir string) (*moduleIndex, error) {
	data, err := os.ReadFile(filepath.Join(dir, moduleIndexFile))
	if err != nil {
		return nil, err
	}
	var modules []module
	if err := json.Unmarshal(data, &modules); err != nil {
		return nil, fmt.Errorf("read index of modules in %s: %w", dir, err)
	}
	x := newModuleIndex(dir, modules)
	builtIn, err := os.ReadFile(filepath.Join(dir, builtInFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for file := range strings.FieldsSeq(string(builtIn)) {
		x.builtIn[moduleName(strings.TrimSuffix(path.Base(file), ".ko"))] = true
	}
	return x, nil
}

// builtInFile lists the modules that were built into the kernel itself.
const builtInFile = "modules.builtin"

func newModuleIndex(dir string, modules []module) *moduleIndex {
	x := &moduleIndex{dir: dir, modules: modules, byName: make(map[string]*module, len(modules)), builtIn: make(map[string]bool)}
	for i := range modules {
		x.byName[modules[i].Name] = &modules[i]
	}
	return x
}

// find returns the modules that a name or an alias stands for: several may
// claim one alias.
func (x *moduleIndex) find(wanted string) []*module {
	if m := x.byName[moduleName(wanted)]; m != nil {
		return []*module{m}
	}
	var found []*module
	for i := range x.modules {
		for _, alias := range x.modules[i].Aliases {
			// The kernel's own patterns are shell patterns. The dash of
			// "net-pf-16" stays a dash here, and so does the alias's.
			ok, err := path.Match(strings.ReplaceAll(alias, "/", "\x01"), strings.ReplaceAll(wanted, "/", "\x01"))
			if err == nil && ok || moduleName(alias) == moduleName(wanted) {
				found = append(found, &x.modules[i])
				break
			}
		}
	}
	return found
}

// order returns the modules for what is wanted, those they need first.
func (x *moduleIndex) order(wanted ...string) (ordered []*module, missing []string) {
	seen := make(map[string]bool)
	var visit func(m *module)
	visit = func(m *module) {
		if seen[m.Name] {
			return
		}
		seen[m.Name] = true
		for _, name := range m.Before {
			for _, dep := range x.find(name) {
				visit(dep)
			}
		}
		for _, name := range m.Depends {
			if dep := x.byName[name]; dep != nil {
				visit(dep)
			}
		}
		ordered = append(ordered, m)
	}
	for _, w := range wanted {
		found := x.find(w)
		if len(found) == 0 {
			missing = append(missing, w)
		}
		for _, m := range found {
			visit(m)
		}
	}
	return ordered, missing
}

func (x *moduleIndex) read(m *module) ([]byte, error) {
	return readModule(filepath.Join(x.dir, m.Path))
}
