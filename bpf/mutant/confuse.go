// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"regexp"
	"slices"
	"strings"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// confused takes the other one of two members that are a source and a
// destination, where one is loaded, stored or pointed at.
func (p *planter) confused(i int, types registers, all pairs) {
	ins := p.ins[i]
	class := ins.OpCode.Class()
	var base asm.Register
	switch {
	case class == asm.LdXClass && ins.OpCode.Mode() == asm.MemMode:
		base = ins.Src
	case class.IsStore() && ins.OpCode.Mode() == asm.MemMode:
		base = ins.Dst
	case class == asm.ALU64Class && ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource:
		t := types[ins.Dst]
		if by := all[t.in].other(t.at+int(ins.Constant), 0); by != 0 {
			p.plant(i, Confused, withConstant(ins, ins.Constant+int64(by)))
		}
		return
	default:
		return
	}
	if base == asm.R10 {
		return
	}
	size := ins.OpCode.Size().Sizeof()
	t := types[base]
	by := all[t.in].other(t.at+int(ins.Offset), size)
	if t.in == nil {
		by = all.named(p.lines[i].Line(), size)
	}
	if by != 0 {
		ins.Offset += int16(by)
		p.plant(i, Confused, ins)
	}
}

// pair are two members of a struct, by their offsets in octets.
type pair struct{ src, dst, size int }

type members []pair

// pairs are the pairs of members of all structs of an object.
type pairs map[*btf.Struct]members

// other gives how far it is from a member of a pair to the other one. A size of
// 0 asks for the member's very beginning.
func (m members) other(at, size int) int {
	for _, p := range m {
		for _, way := range [2]pair{p, {p.dst, p.src, p.size}} {
			if size == 0 && at == way.src || size > 0 && at >= way.src && at+size <= way.src+p.size {
				return way.dst - way.src
			}
		}
	}
	return 0
}

var member = regexp.MustCompile(`(?:->|\.)(\w+)`)

// named looks for a pair by the name that a source line has for one of it: what
// a packet's octets are read by has no type any more.
func (all pairs) named(line string, size int) int {
	found := 0
	for _, match := range member.FindAllStringSubmatch(line, -1) {
		for s := range all {
			by := between(s, match[1], size)
			if by == 0 {
				continue
			}
			if found != 0 && found != by {
				return 0 // nobody can tell which
			}
			found = by
		}
	}
	return found
}

func between(s *btf.Struct, name string, size int) int {
	i := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == name })
	twin, ok := twinOf(name)
	if i < 0 || !ok {
		return 0
	}
	j := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == twin })
	if j < 0 {
		return 0
	}
	if n, err := btf.Sizeof(s.Members[i].Type); err != nil || n != size {
		return 0
	}
	return int(s.Members[j].Offset.Bytes()) - int(s.Members[i].Offset.Bytes())
}

var twins = [][2]string{
	{"saddr", "daddr"}, {"source", "dest"}, {"sport", "dport"}, {"src", "dst"}, {"local", "remote"},
}

// twinOf is what the other one of a pair is called.
func twinOf(name string) (string, bool) {
	for _, t := range twins {
		if strings.Contains(name, t[0]) {
			return strings.Replace(name, t[0], t[1], 1), true
		}
		if strings.Contains(name, t[1]) {
			return strings.Replace(name, t[1], t[0], 1), true
		}
	}
	return "", false
}

// pairsOf finds the pairs in all structs of an object.
func pairsOf(types *btf.Spec) pairs {
	out := pairs{}
	if types == nil {
		return out
	}
	for t, err := range types.All() {
		if s, ok := t.(*btf.Struct); ok && err == nil {
			if found := pairsIn(s, 0, 0); len(found) > 0 {
				out[s] = found
			}
		}
	}
	return out
}

// deepest is how many structs within structs are looked into.
const deepest = 4

func pairsIn(s *btf.Struct, at, depth int) members {
	var out members
	for _, m := range s.Members {
		offset := at + int(m.Offset.Bytes())
		if inner, ok := btf.UnderlyingType(m.Type).(*btf.Struct); ok && depth < deepest {
			out = append(out, pairsIn(inner, offset, depth+1)...)
		}
		twin, ok := twinOf(m.Name)
		if !ok {
			continue
		}
		j := slices.IndexFunc(s.Members, func(o btf.Member) bool { return o.Name == twin })
		n, err := btf.Sizeof(m.Type)
		if j < 0 || err != nil || s.Members[j].Offset <= m.Offset {
			continue
		}
		out = append(out, pair{offset, at + int(s.Members[j].Offset.Bytes()), n})
	}
	return out
}
