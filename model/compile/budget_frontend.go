// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/weirnet/weir/model"
)

// lists are what frontends share: those that are equal are in the tables once.
type lists struct {
	slots, sources, maglev map[string]bool
	counted                map[*model.Backend]counted // by a list's first, since most frontends of a port have the same list
}

// counted is what a list of backends takes, by whether it is weighted.
type counted struct {
	backends int
	slots    [2]string // content
	entries  [2]int    // slots
	eligible int
}

func newLists() *lists {
	return &lists{slots: map[string]bool{}, sources: map[string]bool{}, maglev: map[string]bool{}, counted: map[*model.Backend]counted{}}
}

// of goes through what a frontend has.
func (l *lists) of(s *model.Service, each func(use)) {
	each(use{table: model.TableServices, entries: 1, frontend: s})
	first := func(seen map[string]bool, table model.Table, content string, entries int) {
		if entries > 0 && !seen[content] {
			seen[content] = true
			each(use{table: table, entries: entries, frontend: s})
		}
	}
	if len(s.Sources) > 0 {
		first(l.sources, model.TableSources, contentOfSources(s.Sources), len(s.Sources))
	}
	if len(s.Backends) == 0 {
		return
	}
	rows := len(s.Backends)
	if s.DSR { // known without its port too
		rows *= 2
	}
	each(use{table: model.TableBackends, entries: rows, frontend: s})
	c := l.count(s.Backends)
	weighted := boolToInt(s.MaglevSize == 0)
	first(l.slots, model.TableSlotRows, c.slots[weighted], slotRows(c.entries[weighted]))
	if s.MaglevSize > 0 && c.eligible > 0 {
		var size [8]byte
		binary.NativeEndian.PutUint64(size[:], uint64(s.MaglevSize))
		content := string(size[:])
		if c.eligible > 1 { // the table of one has nobody else in it, whoever that is
			content += c.slots[1]
		}
		first(l.maglev, model.TableMaglev, content, s.MaglevSize)
	}
}

func (l *lists) count(backends []model.Backend) counted {
	if c, found := l.counted[&backends[0]]; found && c.backends == len(backends) {
		return c
	}
	c := counted{backends: len(backends)}
	common := 0
	for i := range backends {
		if !backends[i].Terminating {
			common = gcd(shareOf(&backends[i]), common)
		}
	}
	var content [2]strings.Builder
	for i := range backends {
		b := &backends[i]
		if b.Terminating {
			continue
		}
		c.eligible++
		for weighted, times := range [2]int{1, shareOf(b) / common} {
			c.entries[weighted] += times
			addr, number := b.Address.As16(), [4]byte{}
			binary.NativeEndian.PutUint16(number[:2], b.Port)
			binary.NativeEndian.PutUint16(number[2:], uint16(times))
			content[weighted].Write(addr[:])
			content[weighted].Write(number[:])
		}
	}
	c.slots = [2]string{content[0].String(), content[1].String()}
	// Where all weights are equal, the two lists are one.
	l.counted[&backends[0]] = c
	return c
}

func shareOf(b *model.Backend) int { return max(int(b.Weight), 1) }

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func contentOfSources(sources []netip.Prefix) string {
	var b strings.Builder
	for _, prefix := range sources {
		addr := prefix.Addr().As16()
		b.Write(addr[:])
		b.WriteByte(byte(prefix.Bits()))
		b.WriteByte(byte(boolToInt(prefix.Addr().Is4())))
	}
	return b.String()
}
