// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"slices"
	"strings"
)

// codeLine is a line that has more than comments and blanks.
type codeLine struct {
	number int // from 1
	text   string
}

// codeOf gives the lines of C that have code, without what changes nothing.
func codeOf(text string) []codeLine {
	var out []codeLine
	for i, line := range strings.Split(withoutComments(text), "\n") {
		if words := strings.Fields(line); len(words) > 0 {
			out = append(out, codeLine{i + 1, strings.Join(words, " ")})
		}
	}
	return out
}

// withoutComments blanks comments of C out, and keeps the lines.
func withoutComments(text string) string {
	var out strings.Builder
	for len(text) > 0 {
		n := 1
		switch {
		case strings.HasPrefix(text, "//"):
			n = upTo(text, "\n", 0)
			text = text[n:]
			continue
		case strings.HasPrefix(text, "/*"):
			n = upTo(text, "*/", 2)
			out.WriteString(" " + strings.Repeat("\n", strings.Count(text[:n], "\n")))
			text = text[n:]
			continue
		case text[0] == '"' || text[0] == '\'':
			n = quoted(text)
		}
		out.WriteString(text[:n])
		text = text[n:]
	}
	return out.String()
}

// upTo is the length of text up to where what begins with it ends; more is of the end
// itself.
func upTo(text, end string, more int) int {
	if at := strings.Index(text[more:], end); at >= 0 {
		return more + at + more
	}
	return len(text)
}

// quoted is the length of a string or character with its quotes.
func quoted(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[0], '\n':
			return i + 1
		}
	}
	return len(text)
}

// hunk is a run of lines of code in place of another.
type hunk struct {
	old   []codeLine
	after int // the line of code before it in the old text; 0: there is none
	first int // of it in the new text, and last: the first line of code behind, if there is none
	last  int
}

// compare gives what differs between two texts, and the numbers of the lines that
// stayed: in the new text by those in the old.
func compare(before, now string) (hunks []hunk, stayed map[int]int) {
	a, b := codeOf(before), codeOf(now)
	stayed = map[int]int{}
	i, j := 0, 0
	for _, m := range append(matches(a, b), [2]int{len(a), len(b)}) {
		if m[0] > i || m[1] > j {
			hunks = append(hunks, newHunk(a, b, [2]int{i, m[0]}, [2]int{j, m[1]}))
		}
		if m[0] < len(a) {
			stayed[a[m[0]].number] = b[m[1]].number
		}
		i, j = m[0]+1, m[1]+1
	}
	return hunks, stayed
}

func newHunk(a, b []codeLine, old, now [2]int) hunk {
	h := hunk{old: a[old[0]:old[1]]}
	if old[0] > 0 {
		h.after = a[old[0]-1].number
	}
	switch {
	case now[1] > now[0]:
		h.first, h.last = b[now[0]].number, b[now[1]-1].number
	case now[0] > 0: // lines are gone behind this one
		h.first, h.last = b[now[0]-1].number, b[now[0]-1].number
	default:
		h.first, h.last = 1, 1
	}
	return h
}

// matches are the indexes of a longest sequence of lines that both have.
func matches(a, b []codeLine) [][2]int {
	var head, tail [][2]int
	for len(head) < min(len(a), len(b)) && a[len(head)].text == b[len(head)].text {
		head = append(head, [2]int{len(head), len(head)})
	}
	i, j := len(a), len(b)
	for i > len(head) && j > len(head) && a[i-1].text == b[j-1].text {
		i, j = i-1, j-1
		tail = append(tail, [2]int{i, j})
	}
	slices.Reverse(tail)
	from := len(head)
	for _, m := range longest(a[from:i], b[from:j]) {
		head = append(head, [2]int{from + m[0], from + m[1]})
	}
	return append(head, tail...)
}

// longest is the longest common subsequence, by its table.
func longest(a, b []codeLine) (out [][2]int) {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			table[i][j] = max(table[i+1][j], table[i][j+1])
			if a[i].text == b[j].text {
				table[i][j] = table[i+1][j+1] + 1
			}
		}
	}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].text == b[j].text:
			out = append(out, [2]int{i, j})
			i, j = i+1, j+1
		case table[i+1][j] >= table[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// span is from the line of a function's opening brace to that of its closing one.
type span struct{ first, last int }

// bodies are those of the functions of a text that is formatted as bpf/ is: both braces
// stand alone at the beginning of a line.
func bodies(text string) (out []span) {
	open := 0
	for i, line := range strings.Split(withoutComments(text), "\n") {
		switch strings.TrimRight(line, " \t\r") {
		case "{":
			open = i + 1
		case "}":
			if open > 0 {
				out = append(out, span{open, i + 1})
			}
			open = 0
		}
	}
	return out
}

// bodyAt is the body that what stands behind a line is in.
func bodyAt(all []span, line int) (span, bool) {
	at := slices.IndexFunc(all, func(s span) bool { return s.first <= line && line < s.last })
	if at < 0 {
		return span{}, false
	}
	return all[at], true
}
