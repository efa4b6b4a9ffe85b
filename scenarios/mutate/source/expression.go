// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
)

func (p *planter) expression(e ast.Expr) {
	t := p.info().TypeOf(e)
	if t == nil || p.assigned(e) {
		return
	}
	if call, ok := e.(*ast.CallExpr); ok {
		p.call(call)
	}
	if p.isBool(e) && !p.isCallee(e) {
		p.condition(e)
	}
	switch x := e.(type) {
	case *ast.BinaryExpr:
		if p.value(e) != nil && isInteger(t) { // a constant as a whole
			p.more(e)
		}
		if o, ok := operator[x.Op]; ok && p.isNumber(e) {
			after := p.withToken(x, x.OpPos, x.Op.String(), o.String())
			p.choose(e, choice{p.new(Operator, x.OpPos, p.text(e), after), after})
		}
	case *ast.BasicLit:
		p.literal(x)
	case *ast.Ident:
		p.named(x, x)
		p.confuse(x, x)
	case *ast.SelectorExpr:
		p.named(x, x.Sel)
		p.confuse(x, x.Sel)
	case *ast.CompositeLit:
		p.crossed(x)
	}
}

// assigned says whether an expression stands where a value is put, or where an
// address is taken: nothing can be put around it.
func (p *planter) assigned(e ast.Expr) bool {
	switch parent := p.parent(1).(type) {
	case *ast.AssignStmt:
		return slices.Contains(parent.Lhs, e)
	case *ast.IncDecStmt:
		return true
	case *ast.UnaryExpr:
		return parent.Op == token.AND
	case *ast.RangeStmt:
		return e == parent.Key || e == parent.Value
	case *ast.ValueSpec:
		id, ok := e.(*ast.Ident)
		return ok && slices.Contains(parent.Names, id)
	case *ast.SelectorExpr, *ast.IndexExpr, *ast.SliceExpr, *ast.ParenExpr, *ast.StarExpr:
		// x in x.y = 1, in x[1] = 1 and in &x.y; and x.Method() where the method
		// wants the address.
		return p.isPlace(len(p.parents))
	}
	return false
}

// isPlace says whether the parents from there on lead to a place that is written
// to or whose address is taken.
func (p *planter) isPlace(depth int) bool {
	for n := depth - 1; n > 0; n-- {
		inner := p.parents[n]
		switch x := inner.(type) {
		case *ast.SelectorExpr:
			if s := p.info().Selections[x]; s != nil && s.Kind() == types.MethodVal {
				_, wants := s.Obj().Type().(*types.Signature).Recv().Type().(*types.Pointer)
				_, has := s.Recv().(*types.Pointer)
				return wants && !has
			}
		case *ast.IndexExpr, *ast.ParenExpr, *ast.StarExpr:
		case *ast.SliceExpr:
			return true
		default:
			return false
		}
		switch outer := p.parents[n-1].(type) {
		case *ast.AssignStmt:
			return slices.Contains(outer.Lhs, inner.(ast.Expr))
		case *ast.IncDecStmt:
			return true
		case *ast.UnaryExpr:
			return outer.Op == token.AND
		}
	}
	return false
}

func (p *planter) isCallee(e ast.Expr) bool {
	call, ok := p.parent(1).(*ast.CallExpr)
	return ok && call.Fun == e
}

// label says whether an expression is what a switch compares its tag with.
func (p *planter) label(e ast.Expr) bool {
	clause, ok := p.parent(1).(*ast.CaseClause)
	if !ok || !slices.Contains(clause.List, e) {
		return false
	}
	s, ok := p.parent(3).(*ast.SwitchStmt)
	return ok && s.Tag != nil
}

func (p *planter) literal(x *ast.BasicLit) {
	if p.label(x) {
		p.unmatched(x)
		return
	}
	if x.Kind != token.INT || !isInteger(p.info().TypeOf(x)) {
		return
	}
	p.more(x)
	name := p.typeName(p.info().TypeOf(x))
	if other := map[string]string{"32": "128", "128": "32"}[x.Value]; other != "" && fitsInto(p.info().TypeOf(x)) {
		m := p.new(Family, x.Pos(), x.Value, other)
		p.wrap(x, fmt.Sprintf("planted.Pick[%s](%d, ", name, m.Number), ", "+other+")", m)
	}
}

// more plants in a constant number.
func (p *planter) more(e ast.Expr) {
	text := p.text(e)
	m := p.new(Constant, e.Pos(), text, text+" + 1")
	p.wrap(e, fmt.Sprintf("planted.More[%s](%d, ", p.typeName(p.info().TypeOf(e)), m.Number), ")", m)
}

// fitsInto says whether a type has 128.
func fitsInto(t types.Type) bool {
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Kind() != types.Int8
}

// unmatched plants a label that nothing is.
func (p *planter) unmatched(e ast.Expr) {
	t := p.info().TypeOf(e)
	wrong := ""
	switch {
	case isInteger(t):
		wrong = "More"
	case isString(t):
		wrong = "Text"
	default:
		return
	}
	text := p.text(e)
	m := p.new(Never, e.Pos(), "case "+text, "case that is never so")
	p.wrap(e, fmt.Sprintf("planted.%s[%s](%d, ", wrong, p.typeName(t), m.Number), ")", m)
}

func isInteger(t types.Type) bool { return isBasic(t, types.IsInteger) }
func isString(t types.Type) bool  { return isBasic(t, types.IsString) }

func isBasic(t types.Type, info types.BasicInfo) bool {
	if t == nil {
		return false
	}
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&info != 0
}

// named plants in a use of a constant.
func (p *planter) named(e ast.Expr, id *ast.Ident) {
	c, ok := p.info().Uses[id].(*types.Const)
	if !ok {
		return
	}
	t := p.info().TypeOf(e)
	if p.label(e) {
		p.unmatched(e)
		return
	}
	text, name := p.text(e), p.typeName(t)
	if c.Pkg() == nil {
		if other := map[string]string{"true": "false", "false": "true"}[c.Name()]; other != "" {
			m := p.new(Constant, e.Pos(), text, other)
			p.wrap(e, fmt.Sprintf("planted.Pick[%s](%d, ", name, m.Number), ", "+other+")", m)
		}
		return
	}
	if other := sibling(c); other != "" {
		after := p.with(e, id, other)
		m := p.new(Constant, e.Pos(), text, after)
		p.wrap(e, fmt.Sprintf("planted.Pick[%s](%d, ", name, m.Number), ", "+after+")", m)
		return
	}
	switch {
	case isInteger(t):
		p.more(e)
	case isString(t):
		m := p.new(Constant, e.Pos(), text, "another text")
		p.wrap(e, fmt.Sprintf("planted.Text[%s](%d, ", name, m.Number), ")", m)
	}
}

// sibling is the next constant of the same type, as an enumeration has them.
func sibling(c *types.Const) string {
	named, ok := c.Type().(*types.Named)
	if !ok {
		return ""
	}
	var all []*types.Const
	scope := c.Pkg().Scope()
	for _, name := range scope.Names() {
		o, ok := scope.Lookup(name).(*types.Const)
		if ok && types.Identical(o.Type(), named) && (o.Exported() || c.Pkg().Path() != "" && !c.Exported()) {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *types.Const) int {
		return cmp.Or(cmp.Compare(a.Pos(), b.Pos()), cmp.Compare(a.Name(), b.Name()))
	})
	at := slices.Index(all, c)
	if at < 0 {
		return ""
	}
	for n := 1; n < len(all); n++ {
		o := all[(at+n)%len(all)]
		if o.Val().ExactString() != c.Val().ExactString() {
			return o.Name()
		}
	}
	return ""
}
