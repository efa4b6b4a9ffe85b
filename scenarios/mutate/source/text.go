// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/scanner"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// insert is text that is put into a file. Nothing of the file is taken out, so
// lines stay where they are.
type insert struct {
	at    int // offset
	end   bool
	order int // of the node that it wraps: outer ones have lower orders
	text  string
	of    []*Mutant
}

// wrap puts text around a node.
func (f *file) wrap(n ast.Node, prefix, suffix string, of ...*Mutant) {
	f.order++
	f.inserts = append(f.inserts,
		insert{f.offset(n.Pos()), false, f.order, prefix, of},
		insert{f.offset(n.End()), true, f.order, suffix, of})
}

func (f *file) offset(p token.Pos) int {
	return int(p - f.syntax.FileStart)
}

// text is a node's source on one line.
func (f *file) text(n ast.Node) string { return oneLine(f.src[f.offset(n.Pos()):f.offset(n.End())]) }

// with is a node's source on one line with a part of it replaced.
func (f *file) with(n, part ast.Node, text string) string {
	from, to := f.offset(n.Pos()), f.offset(n.End())
	at, end := f.offset(part.Pos()), f.offset(part.End())
	return oneLine(slices.Concat(f.src[from:at], []byte(text), f.src[end:to]))
}

// withToken is the same for a token.
func (f *file) withToken(n ast.Node, pos token.Pos, old, text string) string {
	from, to, at := f.offset(n.Pos()), f.offset(n.End()), f.offset(pos)
	return oneLine(slices.Concat(f.src[from:at], []byte(text), f.src[at+len(old):to]))
}

// oneLine leaves comments out, and writes the semicolons that line ends stand
// for.
func oneLine(src []byte) string {
	if !strings.Contains(string(src), "\n") {
		return string(src)
	}
	var out strings.Builder
	var s scanner.Scanner
	fset := token.NewFileSet()
	s.Init(fset.AddFile("", -1, len(src)), src, nil, 0)
	previous := token.ILLEGAL
	for {
		_, tok, lit := s.Scan()
		if previous == token.SEMICOLON && tok != token.EOF && tok != token.RBRACE && tok != token.RPAREN {
			out.WriteByte(';')
		}
		if tok == token.EOF {
			return out.String()
		}
		if spaced(previous, tok) {
			out.WriteByte(' ')
		}
		previous = tok
		if tok == token.SEMICOLON {
			continue // written if anything follows it
		}
		if lit == "" || tok.IsOperator() {
			lit = tok.String()
		}
		out.WriteString(lit)
	}
}

// spaced says whether a space is written between two tokens.
func spaced(a, b token.Token) bool {
	switch {
	case a == token.ILLEGAL || b == token.SEMICOLON:
		return false
	case a == token.SEMICOLON || a == token.COMMA && b != token.RPAREN && b != token.RBRACE:
		return true
	case a == token.LBRACE || b == token.LBRACE || b == token.RBRACE:
		return true
	}
	return wordy(a) && wordy(b) || binary(a) || binary(b) || a.IsOperator() && b.IsOperator() && a.Precedence() == b.Precedence() && a == b
}

func wordy(t token.Token) bool { return t.IsLiteral() || t.IsKeyword() }

func binary(t token.Token) bool { return t.Precedence() > token.LowestPrec || t == token.ASSIGN }

// typeName writes a type as the file would. The types of packages that the file
// does not import are imported by it.
func (f *file) typeName(t types.Type) string {
	if b, ok := t.(*types.Basic); ok && b.Info()&types.IsUntyped != 0 {
		t = types.Default(t)
	}
	return types.TypeString(t, func(p *types.Package) string {
		if p == f.pkg.Types {
			return ""
		}
		name, ok := f.imports[p.Path()]
		if !ok {
			name = "planted_" + strconv.Itoa(len(f.imports)) + "_" + p.Name()
			f.imports[p.Path()] = name
		}
		return name
	})
}

// render is the file with what was put into it.
func (f *file) render(module string, dropped map[*Mutant]bool) string {
	inserts := slices.DeleteFunc(slices.Clone(f.inserts), func(i insert) bool {
		return slices.ContainsFunc(i.of, func(m *Mutant) bool { return dropped[m] })
	})
	slices.SortStableFunc(inserts, func(a, b insert) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		switch {
		case a.end && b.end:
			return cmp.Compare(b.order, a.order)
		case a.end:
			return -1
		case b.end:
			return 1
		}
		return cmp.Compare(a.order, b.order)
	})
	var body strings.Builder
	head := f.offset(f.syntax.Name.End())
	at := head
	for _, i := range inserts {
		body.Write(f.src[at:i.at])
		body.WriteString(i.text)
		at = i.at
	}
	body.Write(f.src[at:])
	imports := fmt.Sprintf("; import planted %q", module+plantedPath)
	for _, path := range slices.Sorted(maps.Keys(f.imports)) {
		if name := f.imports[path]; strings.Contains(body.String(), name+".") {
			imports += fmt.Sprintf("; import %s %q", name, path)
		}
	}
	return string(f.src[:head]) + imports + body.String()
}

// plantedPath is where package planted is in a module.
const plantedPath = "/scenarios/mutate/planted"
