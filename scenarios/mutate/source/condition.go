// SPDX-License-Identifier: Apache-2.0

package source

import (
	"go/ast"
	"go/token"
	"go/types"
)

var (
	opposite = map[token.Token]token.Token{
		token.EQL: token.NEQ, token.NEQ: token.EQL, token.LSS: token.GEQ, token.GEQ: token.LSS, token.GTR: token.LEQ, token.LEQ: token.GTR,
	}
	bound = map[token.Token]token.Token{
		token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	}
	logic    = map[token.Token]token.Token{token.LAND: token.LOR, token.LOR: token.LAND}
	operator = map[token.Token]token.Token{
		token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
		token.AND: token.OR, token.OR: token.AND, token.XOR: token.AND, token.AND_NOT: token.AND, token.SHL: token.SHR, token.SHR: token.SHL,
	}
	assignment = map[token.Token]token.Token{
		token.ADD_ASSIGN: token.SUB_ASSIGN, token.SUB_ASSIGN: token.ADD_ASSIGN, token.MUL_ASSIGN: token.QUO_ASSIGN,
		token.AND_ASSIGN: token.OR_ASSIGN, token.OR_ASSIGN: token.AND_ASSIGN, token.XOR_ASSIGN: token.OR_ASSIGN,
		token.SHL_ASSIGN: token.SHR_ASSIGN, token.SHR_ASSIGN: token.SHL_ASSIGN,
	}
)

func (p *planter) isBool(e ast.Expr) bool {
	b, ok := p.info().TypeOf(e).Underlying().(*types.Basic)
	return ok && b.Info()&types.IsBoolean != 0 && p.value(e) == nil
}

func (p *planter) isNumber(e ast.Expr) bool {
	t := p.info().TypeOf(e)
	if t == nil {
		return false
	}
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&types.IsNumeric != 0 && p.value(e) == nil
}

// condition plants in what is true or false.
func (p *planter) condition(e ast.Expr) {
	text := p.text(e)
	use := func(kind Kind, after string) { p.choose(e, choice{p.new(kind, e.Pos(), text, after), after}) }
	switch x := e.(type) {
	case *ast.BinaryExpr:
		if o, ok := opposite[x.Op]; ok {
			use(Round, p.withToken(x, x.OpPos, x.Op.String(), o.String()))
		}
		if o, ok := bound[x.Op]; ok {
			use(Bound, p.withToken(x, x.OpPos, x.Op.String(), o.String()))
		}
		if o, ok := logic[x.Op]; ok {
			use(Logic, p.withToken(x, x.OpPos, x.Op.String(), o.String()))
		}
	case *ast.UnaryExpr:
		if x.Op == token.NOT {
			use(Round, p.text(x.X))
		}
	case *ast.Ident, *ast.SelectorExpr, *ast.CallExpr, *ast.IndexExpr:
		if p.decides(e) {
			use(Round, "!"+text)
		}
	}
	switch parent := p.parent(1).(type) {
	case *ast.IfStmt:
		use(Always, "true")
		use(Never, "false")
	case *ast.ForStmt:
		use(Never, "false")
	case *ast.CaseClause:
		if s, ok := p.parent(3).(*ast.SwitchStmt); ok && s.Tag == nil {
			use(Always, "true")
			use(Never, "false")
		}
	case *ast.BinaryExpr:
		inner, same := e.(*ast.BinaryExpr)
		same = same && inner.Op == parent.Op
		switch {
		case same:
		case parent.Op == token.LAND:
			use(Part, "true")
		case parent.Op == token.LOR:
			use(Part, "false")
		}
	}
}

// decides says whether a bool is used to decide, and not as a value.
func (p *planter) decides(e ast.Expr) bool {
	switch parent := p.parent(1).(type) {
	case *ast.IfStmt, *ast.ForStmt, *ast.ReturnStmt:
		return true
	case *ast.BinaryExpr:
		return logic[parent.Op] != 0
	case *ast.CaseClause:
		s, ok := p.parent(3).(*ast.SwitchStmt)
		return ok && s.Tag == nil
	}
	return false
}
