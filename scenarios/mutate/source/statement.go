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

// statement plants in a statement of a list: of others something may depend.
func (p *planter) statement(s ast.Stmt) {
	switch parent := p.parent(1).(type) {
	case *ast.BlockStmt:
	case *ast.CaseClause:
		if !slices.Contains(parent.Body, s) {
			return
		}
	default:
		return
	}
	switch x := s.(type) {
	case *ast.AssignStmt:
		p.assign(x)
	case *ast.IncDecStmt:
		after := p.text(x.X) + "--"
		if x.Tok == token.DEC {
			after = p.text(x.X) + "++"
		}
		p.replace(x, Operator, after)
		p.leaveOut(x)
	case *ast.ExprStmt:
		if call, ok := x.X.(*ast.CallExpr); ok {
			if id, ok := call.Fun.(*ast.Ident); ok && p.isBuiltin(id) && id.Name == "panic" {
				return
			}
			p.leaveOut(x)
		}
	case *ast.BranchStmt:
		if x.Tok == token.CONTINUE || x.Tok == token.BREAK {
			p.leaveOut(x)
		}
	case *ast.ReturnStmt:
		if len(x.Results) == 0 {
			if p.results[len(p.results)-1].Len() == 0 {
				p.leaveOut(x)
			}
			return
		}
		p.zero(x)
	}
}

func (p *planter) leaveOut(s ast.Stmt) {
	m := p.new(Statement, s.Pos(), p.text(s), "")
	p.wrap(s, fmt.Sprintf("if !planted.On(%d) { ", m.Number), " }", m)
}

func (p *planter) replace(s ast.Stmt, kind Kind, after string) {
	m := p.new(kind, s.Pos(), p.text(s), after)
	p.wrap(s, fmt.Sprintf("if planted.On(%d) { %s } else { ", m.Number, after), " }", m)
}

func (p *planter) assign(x *ast.AssignStmt) {
	if x.Tok == token.DEFINE {
		return
	}
	if id, ok := x.Lhs[0].(*ast.Ident); ok && id.Name == "_" && len(x.Lhs) == 1 {
		return
	}
	if o, ok := assignment[x.Tok]; ok && p.isNumber(x.Lhs[0]) {
		p.replace(x, Operator, p.withToken(x, x.TokPos, x.Tok.String(), o.String()))
	}
	for _, e := range x.Lhs {
		var id *ast.Ident
		switch l := e.(type) {
		case *ast.SelectorExpr:
			id = l.Sel
		case *ast.Ident:
			id = l
		default:
			continue
		}
		if p.info().Uses[id] == nil {
			continue
		}
		if name, kind := p.twin(e, id); name != "" {
			p.replace(x, kind, p.with(x, id, name))
		}
	}
	p.leaveOut(x)
}

// zero returns nothing, as if nothing had been found.
func (p *planter) zero(x *ast.ReturnStmt) {
	results := p.results[len(p.results)-1]
	if results.Len() != len(x.Results) {
		return // the results of a call
	}
	var values []string
	changed, onlyErrors := false, true
	for n, e := range x.Results {
		t := results.At(n).Type()
		if isError(t) {
			values = append(values, p.text(e))
			continue
		}
		onlyErrors = false
		if p.isZero(e) || isBasic(t, types.IsBoolean) && p.value(e) != nil {
			values = append(values, p.text(e))
			continue
		}
		values = append(values, fmt.Sprintf("*new(%s)", p.typeName(t)))
		changed = true
	}
	if !changed {
		for n, e := range x.Results {
			if isError(results.At(n).Type()) && !p.isZero(e) {
				values[n], changed = "nil", true
			}
		}
		if onlyErrors && !changed {
			return
		}
	}
	if !changed {
		return
	}
	after := "return " + strings.Join(values, ", ")
	m := p.new(Zero, x.Pos(), p.text(x), after)
	p.wrap(x, fmt.Sprintf("if planted.On(%d) { %s }; ", m.Number, after), "", m)
}

func isError(t types.Type) bool { return types.Identical(t, types.Universe.Lookup("error").Type()) }

func (p *planter) isZero(e ast.Expr) bool {
	if lit, ok := e.(*ast.CompositeLit); ok {
		_, isStruct := p.info().TypeOf(lit).Underlying().(*types.Struct)
		return isStruct && len(lit.Elts) == 0
	}
	if p.info().Types[e].IsNil() {
		return true
	}
	v := p.value(e)
	if v == nil {
		return false
	}
	switch v.Kind() {
	case constant.Bool:
		return !constant.BoolVal(v)
	case constant.String:
		return constant.StringVal(v) == ""
	case constant.Int, constant.Float:
		return constant.Sign(v) == 0
	}
	return false
}
