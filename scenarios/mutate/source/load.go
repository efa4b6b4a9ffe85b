// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// ErrNothing is a pattern that names no code to plant errors in.
var ErrNothing = errors.New("no Go code that errors could be planted in")

// Code is Go source that errors are planted in.
type Code struct {
	Root     string   // of the module
	Module   string   // its path
	Packages []string // import paths
	files    []*file
	fset     *token.FileSet
}

// file is a file of source, and what is to be put into it.
type file struct {
	pkg     *packages.Package
	syntax  *ast.File
	name    string // from the root
	path    string
	src     []byte
	lines   []string
	inserts []insert
	order   int
	imports map[string]string // path to the name that it is imported by
	mutants []*Mutant
}

// Load reads the packages that patterns name, of the module in dir. Tests and
// generated files are left out.
func Load(ctx context.Context, dir string, patterns []string) (*Code, error) {
	c := &Code{fset: token.NewFileSet()}
	all, err := packages.Load(&packages.Config{
		Context: ctx, Dir: dir, Fset: c.fset,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedTypes |
			packages.NeedTypesInfo | packages.NeedTypesSizes | packages.NeedSyntax | packages.NeedModule,
	}, patterns...)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", strings.Join(patterns, " "), err)
	}
	for _, p := range all {
		for _, e := range p.Errors {
			if e.Kind == packages.ListError {
				return nil, fmt.Errorf("%w: %s", ErrNothing, e.Msg)
			}
			return nil, fmt.Errorf("load %s: %w", p.PkgPath, e)
		}
		if err := c.add(p); err != nil {
			return nil, err
		}
	}
	if len(c.files) == 0 {
		return nil, fmt.Errorf("%s: %w", strings.Join(patterns, " "), ErrNothing)
	}
	slices.SortFunc(c.files, func(a, b *file) int { return strings.Compare(a.name, b.name) })
	return c, nil
}

func (c *Code) add(p *packages.Package) error {
	if p.Module == nil || !p.Module.Main {
		return fmt.Errorf("plant errors in %s: it is not of this module", p.PkgPath)
	}
	c.Root, c.Module = p.Module.Dir, p.Module.Path
	for n, syntax := range p.Syntax {
		path := p.CompiledGoFiles[n]
		if ast.IsGenerated(syntax) || !strings.HasSuffix(path, ".go") {
			continue
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read source: %w", err)
		}
		name, err := filepath.Rel(c.Root, path)
		if err != nil {
			return fmt.Errorf("name source: %w", err)
		}
		c.files = append(c.files, &file{pkg: p, syntax: syntax, name: filepath.ToSlash(name), path: path, src: src,
			lines: strings.Split(string(src), "\n"), imports: map[string]string{}})
	}
	if len(p.Syntax) > 0 {
		c.Packages = append(c.Packages, p.PkgPath)
	}
	return nil
}
