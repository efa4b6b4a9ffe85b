// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Source is the C that the programs are built from, by the names that their line info
// has: lib/packet.h.
type Source map[string]string

// edit is what differs of a file between two sources.
type edit struct {
	file   string
	hunks  []hunk
	stayed map[int]int // see compare
	bodies []span      // of the old text
}

// hasCode says whether more differs than comments and blanks.
func (e edit) hasCode() bool { return len(e.hunks) > 0 }

// editsOf gives the files that differ.
func editsOf(before, now Source) (edits []edit) {
	names := maps.Clone(before)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] == now[name] {
			continue
		}
		hunks, stayed := compare(before[name], now[name])
		edits = append(edits, edit{name, hunks, stayed, bodies(before[name])})
	}
	return edits
}

// String names the lines as they are in the new text: lib/nat.h:120-124,130.
func (e edit) String() string {
	var places []string
	for _, h := range e.hunks {
		place := fmt.Sprint(h.first)
		if h.last > h.first {
			place = fmt.Sprintf("%d-%d", h.first, h.last)
		}
		places = append(places, place)
	}
	const few = 4
	if len(places) > few {
		places = append(places[:few], fmt.Sprintf("and %d places more", len(places)-few))
	}
	return e.file + ":" + strings.Join(places, ",")
}

// lines are those of the old text whose runs the edit touches: what has changed, or the
// whole function where what has changed has no instructions of its own, or is new.
// Beyond says that some of it is in no function, or in none with instructions.
func (e edit) lines(hasCode func(file string, line int) bool) (lines map[int]bool, beyond bool) {
	lines = map[int]bool{}
	for _, h := range e.hunks {
		of, known := e.linesOf(h, hasCode)
		for _, l := range of {
			lines[l] = true
		}
		beyond = beyond || !known
	}
	return lines, beyond
}

func (e edit) linesOf(h hunk, hasCode func(file string, line int) bool) (lines []int, known bool) {
	vague := []int{} // lines of code without instructions
	for _, l := range h.old {
		switch {
		case hasCode(e.file, l.number):
			lines = append(lines, l.number)
		case strings.Trim(l.text, "{};") != "":
			vague = append(vague, l.number)
		}
	}
	if len(lines)+len(vague) == 0 {
		vague = append(vague, h.after)
	}
	for _, l := range vague {
		whole := e.function(l, hasCode)
		if len(whole) == 0 {
			return lines, false
		}
		lines = append(lines, whole...)
	}
	return lines, true
}

// function gives the lines with instructions of the function that a line is in.
func (e edit) function(line int, hasCode func(file string, line int) bool) (lines []int) {
	body, is := bodyAt(e.bodies, line)
	for l := body.first; is && l <= body.last; l++ {
		if hasCode(e.file, l) {
			lines = append(lines, l)
		}
	}
	return lines
}
