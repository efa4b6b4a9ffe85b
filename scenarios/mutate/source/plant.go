// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// Plant puts errors into the code, and lists them by file and line.
func (c *Code) Plant() []*Mutant {
	var all []*Mutant
	for _, f := range c.files {
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				p := &planter{file: f, next: len(all) + len(f.mutants), function: functionName(f, fn), count: map[Kind]int{}}
				p.results = append(p.results, f.pkg.TypesInfo.Defs[fn.Name].Type().(*types.Signature).Results())
				p.visit(fn.Body)
			}
		}
		slices.SortStableFunc(f.mutants, func(a, b *Mutant) int { return a.Line - b.Line })
		all = append(all, f.mutants...)
	}
	return all
}

func functionName(f *file, fn *ast.FuncDecl) string {
	name := fn.Name.Name
	if fn.Recv != nil && len(fn.Recv.List) == 1 {
		name = strings.TrimLeft(f.text(fn.Recv.List[0].Type), "*") + "." + name
	}
	return f.pkg.Types.Name() + "." + name
}

// planter plants errors in one function.
type planter struct {
	*file
	function string
	next     int
	count    map[Kind]int
	parents  []ast.Node
	results  []*types.Tuple // of the functions around, the innermost last
}

func (p *planter) info() *types.Info { return p.pkg.TypesInfo }

// new lists an error at a place.
func (p *planter) new(kind Kind, at token.Pos, before, after string) *Mutant {
	line := p.pkg.Fset.PositionFor(at, false).Line
	p.count[kind]++
	m := &Mutant{
		ID:      fmt.Sprintf("%s+%d:%s", p.function, p.count[kind], short[kind]),
		Package: p.pkg.PkgPath, Function: p.function, Kind: kind, File: p.name, Line: line,
		Text: strings.TrimSpace(p.lines[line-1]), Before: before, After: after, Number: p.next,
	}
	p.next++
	p.mutants = append(p.mutants, m)
	return m
}

func (p *planter) parent(up int) ast.Node {
	if len(p.parents) < up {
		return nil
	}
	return p.parents[len(p.parents)-up]
}

// visit plants in a node and then in those in it: those outside are put around
// first.
func (p *planter) visit(n ast.Node) {
	if n == nil {
		return
	}
	switch n := n.(type) {
	case *ast.FuncType, *ast.ArrayType, *ast.StructType, *ast.InterfaceType, *ast.MapType, *ast.ChanType:
		return
	case *ast.GenDecl:
		if n.Tok != token.VAR {
			return
		}
	}
	if fn, ok := n.(*ast.FuncLit); ok {
		p.results = append(p.results, p.info().Types[fn].Type.(*types.Signature).Results())
		defer func() { p.results = p.results[:len(p.results)-1] }()
	}
	if e, ok := n.(ast.Expr); ok {
		if p.info().Types[e].IsType() {
			return
		}
		p.expression(e)
	}
	if s, ok := n.(ast.Stmt); ok {
		p.statement(s)
	}
	p.parents = append(p.parents, n)
	for _, child := range children(n) {
		if !p.fixed(n, child) {
			p.visit(child)
		}
	}
	p.parents = p.parents[:len(p.parents)-1]
}

func children(n ast.Node) []ast.Node {
	var out []ast.Node
	ast.Inspect(n, func(c ast.Node) bool {
		if c == n {
			return true
		}
		if c != nil {
			out = append(out, c)
		}
		return false
	})
	return out
}

// fixed says whether a child cannot have errors, or whether none of them would
// be one.
func (p *planter) fixed(n, child ast.Node) bool {
	switch n := n.(type) {
	case *ast.KeyValueExpr:
		if child != n.Key {
			return false
		}
		lit, ok := p.parent(2).(*ast.CompositeLit) // n itself is the last of the parents
		if !ok {
			return true
		}
		_, isMap := p.info().TypeOf(lit).Underlying().(*types.Map)
		return !isMap
	case *ast.SelectorExpr:
		return child == n.Sel
	case *ast.BinaryExpr:
		return p.value(n) != nil
	case *ast.CallExpr:
		if child != n.Fun && p.isMessage(n) {
			return true
		}
		// Capacities and sizes are hints.
		if id, ok := n.Fun.(*ast.Ident); ok && p.isBuiltin(id) && id.Name == "make" {
			_, isSlice := p.info().TypeOf(n.Args[0]).Underlying().(*types.Slice)
			return !isSlice || len(n.Args) > 2 && child == n.Args[2]
		}
	case *ast.BranchStmt, *ast.LabeledStmt:
		_, isLabel := child.(*ast.Ident)
		return isLabel
	case *ast.TypeSwitchStmt:
		return child == n.Assign
	case *ast.TypeAssertExpr:
		return child == n.Type
	}
	return false
}

// isMessage says whether a call makes a text for people, as Printf does: what it
// says decides nothing. That it is called may.
func (p *planter) isMessage(call *ast.CallExpr) bool {
	s, ok := p.info().TypeOf(call.Fun).(*types.Signature)
	if !ok || !s.Variadic() || s.Params().Len() < 2 {
		return false
	}
	last := s.Params().At(s.Params().Len() - 1).Type().(*types.Slice).Elem()
	any, ok := last.Underlying().(*types.Interface)
	return ok && any.Empty() && isString(s.Params().At(s.Params().Len()-2).Type())
}

func (p *planter) isBuiltin(id *ast.Ident) bool {
	_, ok := p.info().Uses[id].(*types.Builtin)
	return ok
}

// choice puts an expression where another is used when an error acts.
type choice struct {
	mutant *Mutant
	text   string
}

// choose wraps an expression: its value is one of others while an error acts.
func (p *planter) choose(e ast.Expr, choices ...choice) {
	t := p.info().TypeOf(e)
	for _, c := range choices {
		p.wrap(e, fmt.Sprintf("(func() %s { if planted.On(%d) { return %s }; return (", p.typeName(t), c.mutant.Number, c.text), ") }())", c.mutant)
	}
}

func (p *planter) value(e ast.Expr) constant.Value { return p.info().Types[e].Value }
