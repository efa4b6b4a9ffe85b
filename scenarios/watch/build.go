// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/reach"
)

// Errors of a build.
var (
	// ErrCompile is source that the compiler refuses: its words follow.
	ErrCompile = errors.New("the programs do not compile")
	// ErrNoCompiler is that a program is missing that a build needs.
	ErrNoCompiler = errors.New("the programs cannot be built here")
	// ErrLayout is source whose types this binary does not fill or read as it was built.
	ErrLayout = errors.New("types that this binary shares with the programs have changed: run 'make generate build', and start the watch anew")
)

// Build is the programs, as they were built from a source.
type Build struct {
	Source Source
	Files  scenarios.ObjectFiles
	Map    *reach.Map

	specs    []*ebpf.CollectionSpec
	embedded bool // in this binary
}

// Embedded is the build that is part of this binary.
func Embedded() (*Build, error) {
	source := Source{}
	err := fs.WalkDir(bpf.Sources(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(bpf.Sources(), name)
		source[name] = string(text)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the embedded source: %w", err)
	}
	b, err := newBuild(source, scenarios.ObjectFiles{Container: bpf.ContainerObject(), Host: bpf.HostObject(), Socket: bpf.SocketObject()})
	if err != nil {
		return nil, err
	}
	b.embedded = true
	return b, nil
}

func newBuild(source Source, files scenarios.ObjectFiles) (*Build, error) {
	b := &Build{Source: source, Files: files}
	for _, file := range [][]byte{files.Container, files.Host, files.Socket} {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(file))
		if err != nil {
			return nil, fmt.Errorf("read what was built: %w", err)
		}
		b.specs = append(b.specs, spec)
	}
	var err error
	b.Map, err = reach.NewMap(b.specs...)
	return b, err
}

// Changed are the programs, by name, that are not what they were in another build.
func (b *Build) Changed(before *Build) (names []string) {
	for i, spec := range b.specs {
		old := before.specs[i]
		tables := !maps.EqualFunc(old.Maps, spec.Maps, sameTable)
		for name, p := range spec.Programs {
			was := old.Programs[name]
			if tables || was == nil || !slices.EqualFunc(was.Instructions, p.Instructions, sameInstruction) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func sameInstruction(a, b asm.Instruction) bool {
	return a.OpCode == b.OpCode && a.Dst == b.Dst && a.Src == b.Src && a.Offset == b.Offset && a.Constant == b.Constant && a.Reference() == b.Reference()
}

func sameTable(a, b *ebpf.MapSpec) bool {
	return a.Type == b.Type && a.KeySize == b.KeySize && a.ValueSize == b.ValueSize && a.MaxEntries == b.MaxEntries && a.Flags == b.Flags &&
		slices.EqualFunc(a.Contents, b.Contents, func(a, b ebpf.MapKV) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
}

// Compiler builds the programs as 'make generate' does, by the lines of bpf/bpf.go.
type Compiler struct {
	tree  string // the root of the source tree
	shown string // bpf/ as a person calls it
}

// NewCompiler makes one for a source tree. Shown is what its bpf/ is called in errors.
func NewCompiler(tree, shown string) *Compiler { return &Compiler{tree, shown} }

// Build builds a source. ErrCompile, ErrNoCompiler, or ErrLayout.
func (c *Compiler) Build(ctx context.Context, source Source) (*Build, error) {
	recipes, err := readRecipes(filepath.Join(c.tree, "bpf", "bpf.go"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "weir-watch-")
	if err != nil {
		return nil, fmt.Errorf("build the programs: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := source.write(dir); err != nil {
		return nil, err
	}
	built := make([][]byte, len(recipes))
	failed := make([]error, len(recipes))
	var all sync.WaitGroup
	for i, r := range recipes {
		all.Go(func() { built[i], failed[i] = r.run(ctx, dir) })
	}
	all.Wait()
	for _, err := range failed { // they share headers: the others say the same, mostly
		if err != nil {
			return nil, c.plain(err, dir)
		}
	}
	b, err := newBuild(source, scenarios.ObjectFiles{Container: built[0], Host: built[1], Socket: built[2]})
	if err != nil {
		return nil, err
	}
	return b, b.fits(recipes[0].types)
}

// write writes the source into a folder, so that what is saved meanwhile is not half of
// what is built.
func (s Source) write(dir string) error {
	for name, text := range s {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("copy the source: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("copy the source: %w", err)
		}
	}
	return nil
}

// plain names the files of the copy as those of the tree.
func (c *Compiler) plain(err error, dir string) error {
	said, is := errors.AsType[*compileError](err)
	if !is {
		return err
	}
	return &compileError{strings.ReplaceAll(said.said, dir, c.shown)}
}

// compileError is what the compiler says.
type compileError struct{ said string }

func (e *compileError) Error() string        { return fmt.Sprintf("%v:\n%s", ErrCompile, e.said) }
func (e *compileError) Is(target error) bool { return target == ErrCompile }

// recipe is how an object is built.
type recipe struct {
	cc, strip, source string
	flags, types      []string
}

// objectNames are the objects that scenarios run, in the order of ObjectFiles.
var objectNames = []string{"Container", "Host", "Socket"}

// readRecipes reads the go:generate lines of bpf.go.
func readRecipes(path string) ([]recipe, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read how the programs are built: %w", err)
	}
	found := map[string]recipe{}
	for line := range strings.Lines(string(text)) {
		if rest, is := strings.CutPrefix(line, "//go:generate go tool bpf2go "); is {
			name, r, err := parseRecipe(strings.Fields(rest))
			if err != nil {
				return nil, fmt.Errorf("read how the programs are built: %s: %w", path, err)
			}
			found[name] = r
		}
	}
	var out []recipe
	for _, name := range objectNames {
		r, has := found[name]
		if !has {
			return nil, fmt.Errorf("read how the programs are built: %s has no go:generate line for %s", path, name)
		}
		out = append(out, r)
	}
	return out, nil
}

// parseRecipe parses the arguments of bpf2go: each option has a value, and the object's
// name and its source file are followed by -- and the compiler's flags.
func parseRecipe(words []string) (name string, r recipe, err error) {
	for len(words) > 1 && strings.HasPrefix(words[0], "-") {
		switch value := words[1]; words[0] {
		case "-cc":
			r.cc = value
		case "-strip":
			r.strip = value
		case "-type":
			r.types = append(r.types, value)
		case "-go-package":
		case "-target":
			if value != "bpfel" {
				return "", r, fmt.Errorf("-target %s is not known here", value)
			}
		default:
			return "", r, fmt.Errorf("option %s of bpf2go is not known here", words[0])
		}
		words = words[2:]
	}
	if len(words) < 3 || words[2] != "--" || r.cc == "" || r.strip == "" {
		return "", r, errors.New("a go:generate line lacks -cc, -strip, or NAME SOURCE -- FLAGS")
	}
	r.source, r.flags = words[1], words[3:]
	return words[0], r, nil
}

// run builds the object in a folder. What is added to the flags is what bpf2go adds
// (cmd/bpf2go/gen/compile.go of github.com/cilium/ebpf): a test compares the outcome.
func (r recipe) run(ctx context.Context, dir string) ([]byte, error) {
	source := filepath.Join(dir, r.source)
	object := strings.TrimSuffix(source, ".c") + ".o"
	args := slices.Concat([]string{"-O2", "-mcpu=v1"}, r.flags, []string{
		"-Wunused-command-line-argument", "-target", "bpfel", "-c", source, "-o", object, "-fno-ident",
		"-fdebug-prefix-map=" + dir + "=.", "-fdebug-compilation-dir", ".", "-g",
	})
	if err := tool(ctx, dir, r.cc, args...); err != nil {
		return nil, err
	}
	if err := tool(ctx, dir, r.strip, "-g", object); err != nil {
		return nil, err
	}
	return os.ReadFile(object)
}

func tool(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	said, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: there is no %s: install it, as 'make deps' does", ErrNoCompiler, name)
	case err != nil && len(said) == 0:
		return fmt.Errorf("run %s: %w", name, err)
	case err != nil:
		return &compileError{strings.TrimSpace(string(said))}
	}
	return nil
}

// fits says whether this binary fills and reads the programs' tables as they are: their
// sizes, and the types that bpf2go mirrors into Go.
func (b *Build) fits(types []string) error {
	if err := datapath.CheckObjects(b.Files.Options()); err != nil {
		return fmt.Errorf("%w: %w", ErrLayout, err)
	}
	embedded, err := bpf.LoadContainer()
	if err != nil {
		return fmt.Errorf("read the embedded objects: %w", err)
	}
	for _, name := range types {
		want, err := declaration(embedded, name)
		if err != nil {
			return fmt.Errorf("%w: this binary does not know %s", ErrLayout, name)
		}
		if got, err := declaration(b.specs[0], name); err != nil || got != want {
			return fmt.Errorf("%w: %s is another", ErrLayout, name)
		}
	}
	return nil
}

// declaration is a type as it is in Go.
func declaration(spec *ebpf.CollectionSpec, name string) (string, error) {
	all, err := spec.Types.AnyTypesByName(name)
	if err != nil {
		return "", fmt.Errorf("find type %s: %w", name, err)
	}
	var out strings.Builder
	for _, one := range all {
		text, err := new(btf.GoFormatter).TypeDeclaration(name, one)
		if err != nil {
			return "", fmt.Errorf("declare type %s: %w", name, err)
		}
		out.WriteString(text + "\n")
	}
	return out.String(), nil
}
