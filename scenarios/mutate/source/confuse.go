// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"go/ast"
	"go/types"
	"regexp"
	"strings"
)

// pairs are parts of names that are taken for each other.
var pairs = []struct {
	kind Kind
	a, b string
}{
	{Confused, "Src", "Dst"}, {Confused, "src", "dst"}, {Confused, "Sport", "Dport"}, {Confused, "sport", "dport"},
	{Confused, "Source", "Destination"}, {Confused, "source", "destination"}, {Confused, "From", "To"}, {Confused, "from", "to"},
	{Confused, "Ingress", "Egress"}, {Confused, "ingress", "egress"}, {Confused, "client", "server"}, {Confused, "Local", "Remote"},
	{Confused, "local", "remote"}, {Confused, "own", "peer"}, {Confused, "opening", "translated"},
	{Family, "4", "6"}, {Family, "V4", "V6"}, {Family, "v4", "v6"}, {Family, "IPv4", "IPv6"}, {Family, "ipv4", "ipv6"},
}

var word = regexp.MustCompile(`[A-Z]?[a-z]+|[A-Z]+|[0-9]+`)

// others are names that a name could be taken for.
func others(name string) map[string]Kind {
	out := map[string]Kind{}
	for _, at := range word.FindAllStringIndex(name, -1) {
		for _, p := range pairs {
			for _, way := range [][2]string{{p.a, p.b}, {p.b, p.a}} {
				if name[at[0]:at[1]] == way[0] {
					out[name[:at[0]]+way[1]+name[at[1]:]] = p.kind
				}
			}
		}
	}
	return out
}

// twin is a name of the same type that another can be taken for; empty for none.
func (p *planter) twin(e ast.Expr, id *ast.Ident) (string, Kind) {
	info := p.info()
	for name, kind := range others(id.Name) {
		var other types.Object
		switch x := e.(type) {
		case *ast.SelectorExpr:
			if s := info.Selections[x]; s != nil {
				other, _, _ = types.LookupFieldOrMethod(s.Recv(), true, p.pkg.Types, name)
			} else if imported, ok := info.Uses[id]; ok && imported.Pkg() != nil && ast.IsExported(name) {
				other = imported.Pkg().Scope().Lookup(name)
			}
		case *ast.Ident:
			if scope := p.pkg.Types.Scope().Innermost(id.Pos()); scope != nil {
				_, other = scope.LookupParent(name, id.Pos())
			}
		}
		if other != nil && sort(other) == sort(info.Uses[id]) && types.Identical(other.Type(), info.Uses[id].Type()) {
			return name, kind
		}
	}
	return "", ""
}

// sort tells variables, constants and functions from each other.
func sort(o types.Object) string { return fmt.Sprintf("%T", o) }

// confuse plants in a use of a variable or field.
func (p *planter) confuse(e ast.Expr, id *ast.Ident) {
	if _, ok := p.info().Uses[id].(*types.Var); !ok || !p.pure(e) {
		return
	}
	name, kind := p.twin(e, id)
	if name == "" {
		return
	}
	after := p.with(e, id, name)
	m := p.new(kind, e.Pos(), p.text(e), after)
	p.wrap(e, fmt.Sprintf("planted.Pick[%s](%d, ", p.typeName(p.info().TypeOf(e)), m.Number), ", "+after+")", m)
}

// crossed gives two fields of a literal each other's values.
func (p *planter) crossed(lit *ast.CompositeLit) {
	fields := map[string]*ast.KeyValueExpr{}
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key, ok := kv.Key.(*ast.Ident)
		if !ok {
			continue
		}
		for name, kind := range others(key.Name) {
			o := fields[name]
			if o == nil || !p.pure(kv.Value) || !p.pure(o.Value) || !types.Identical(p.info().TypeOf(kv.Value), p.info().TypeOf(o.Value)) || p.text(kv.Value) == p.text(o.Value) {
				continue
			}
			before, after := p.text(o)+", "+p.text(kv), name+": "+p.text(kv.Value)+", "+key.Name+": "+p.text(o.Value)
			p.exchange(p.new(kind, kv.Pos(), before, after), o.Value, kv.Value)
		}
		fields[key.Name] = kv
	}
}

// exchange gives two values each other's place.
func (p *planter) exchange(m *Mutant, a, b ast.Expr) {
	begin := fmt.Sprintf("planted.Pick[%s](%d, ", p.typeName(p.info().TypeOf(a)), m.Number)
	p.wrap(a, begin, ", "+p.text(b)+")", m)
	p.wrap(b, begin, ", "+p.text(a)+")", m)
}

// call plants in a call.
func (p *planter) call(call *ast.CallExpr) {
	if tv := p.info().Types[call.Fun]; tv.IsType() || tv.IsBuiltin() {
		return
	}
	p.swapped(call)
	var id *ast.Ident
	var e ast.Expr
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		id, e = fun, fun
	case *ast.SelectorExpr:
		id, e = fun.Sel, fun
	default:
		return
	}
	if _, ok := p.info().Uses[id].(*types.Func); !ok {
		return
	}
	name, kind := p.twin(e, id)
	if name == "" {
		return
	}
	if _, several := p.info().TypeOf(call).(*types.Tuple); several {
		return
	}
	after := p.with(call, id, name)
	p.choose(call, choice{p.new(kind, id.Pos(), p.text(call), after), after})
}

// swapped exchanges arguments of the same type that stand side by side.
func (p *planter) swapped(call *ast.CallExpr) {
	if call.Ellipsis.IsValid() || p.isMessage(call) {
		return
	}
	for n := 1; n < len(call.Args); n++ {
		a, b := call.Args[n-1], call.Args[n]
		ta, tb := p.info().TypeOf(a), p.info().TypeOf(b)
		if !p.pure(a) || !p.pure(b) || ta == nil || tb == nil || !types.Identical(ta, tb) || p.text(a) == p.text(b) || isUntyped(ta) {
			continue
		}
		before := p.text(call)
		after := p.text(call.Fun) + "("
		var args []string
		for _, arg := range call.Args {
			args = append(args, p.text(arg))
		}
		args[n-1], args[n] = args[n], args[n-1]
		after += strings.Join(args, ", ") + ")"
		p.exchange(p.new(Arguments, a.Pos(), before, after), a, b)
	}
}

func isUntyped(t types.Type) bool {
	b, ok := t.(*types.Basic)
	return ok && b.Info()&types.IsUntyped != 0
}

// pure says whether an expression can be evaluated a second time without anybody
// noticing.
func (p *planter) pure(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name != "_" && x.Name != "nil"
	case *ast.BasicLit:
		return true
	case *ast.SelectorExpr:
		if s := p.info().Selections[x]; s != nil && s.Kind() != types.FieldVal {
			return false
		}
		return p.pure(x.X)
	case *ast.ParenExpr:
		return p.pure(x.X)
	case *ast.StarExpr:
		return p.pure(x.X)
	}
	return false
}
