// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"strconv"
	"strings"
)

type tokenKind uint8

const (
	end   tokenKind = iota
	word            // anything without blanks and punctuation
	text            // "quoted"
	punct           // one of ( ) =
)

type token struct {
	kind   tokenKind
	value  string
	column int // from 1
}

func (t token) String() string {
	switch t.kind {
	case end:
		return "the end of the line"
	case text:
		return strconv.Quote(t.value)
	}
	return "'" + t.value + "'"
}

// lex splits a line. Everything behind a # that begins a word is a comment.
func lex(line string) ([]token, error) {
	var out []token
	for i := 0; i < len(line); {
		switch c := line[i]; {
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			return out, nil
		case c == '(' || c == ')' || c == '=':
			out = append(out, token{punct, string(c), i + 1})
			i++
		case c == '"':
			quoted, err := strconv.QuotedPrefix(line[i:])
			if err != nil {
				return nil, fmt.Errorf("column %d: the text that begins here has no closing quote on this line, or a wrong escape", i+1)
			}
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, fmt.Errorf("column %d: %s is not a quoted text: %w", i+1, quoted, err)
			}
			out = append(out, token{text, value, i + 1})
			i += len(quoted)
		default:
			n := strings.IndexAny(line[i:], " \t\r()=\"")
			if n < 0 {
				n = len(line) - i
			}
			n += balancer(line[i:], n)
			out = append(out, token{word, line[i : i+n], i + 1})
			i += n
		}
	}
	return out, nil
}

// balancer is the length of the rest of a word whose first n octets stand
// before a bracket that belongs to it: of lb(SERVICE.NAMESPACE).
func balancer(from string, n int) int {
	before, rest := from[:n], from[n:]
	if before != "lb" && !strings.HasSuffix(before, "/lb") || !strings.HasPrefix(rest, "(") {
		return 0
	}
	closing := strings.IndexByte(rest, ')')
	if closing < 0 {
		return 0
	}
	if more := strings.IndexAny(rest[closing+1:], " \t\r()=\""); more >= 0 {
		return closing + 1 + more
	}
	return len(rest)
}

// line is a cursor over the tokens of one line.
type line struct {
	tokens []token
	at     int
	usage  string
}

func (l *line) peek() token {
	if l.at < len(l.tokens) {
		return l.tokens[l.at]
	}
	return token{kind: end}
}

func (l *line) next() token {
	t := l.peek()
	if l.at < len(l.tokens) {
		l.at++
	}
	return t
}

func (l *line) done() bool { return l.at >= len(l.tokens) }

// accept takes a word if it is the next.
func (l *line) accept(value string) bool {
	t := l.peek()
	if t.kind == text || t.kind == end || t.value != value {
		return false
	}
	l.at++
	return true
}

// assigned says that the next tokens are name=.
func (l *line) assigned() bool {
	return l.at+1 < len(l.tokens) && l.tokens[l.at].kind == word && l.tokens[l.at+1].kind == punct && l.tokens[l.at+1].value == "="
}

func (l *line) expected(what string, got token) error {
	return fmt.Errorf("expected %s, found %s\n\tusage: %s", what, where(got), l.usage)
}

func where(t token) string {
	if t.kind == end {
		return t.String()
	}
	return fmt.Sprintf("%s at column %d", t, t.column)
}

func (l *line) word(what string) (string, error) {
	t := l.next()
	if t.kind != word {
		return "", l.expected(what, t)
	}
	return t.value, nil
}

func (l *line) text(what string) (string, error) {
	t := l.next()
	if t.kind != text {
		return "", l.expected(what+` as "quoted text"`, t)
	}
	return t.value, nil
}

func (l *line) must(value string) error {
	if l.accept(value) {
		return nil
	}
	return l.expected("'"+value+"'", l.peek())
}

// words takes words up to the end of the line, at least one.
func (l *line) words(what string) ([]string, error) {
	var out []string
	for !l.done() {
		w, err := l.word(what)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	if len(out) == 0 {
		return nil, l.expected(what, l.peek())
	}
	return out, nil
}

// assignment takes name=value. The value may be a quoted text.
func (l *line) assignment(what string) (Assignment, error) {
	name, err := l.word(what)
	if err != nil {
		return Assignment{}, err
	}
	if err := l.must("="); err != nil {
		return Assignment{}, err
	}
	t := l.next()
	if t.kind != word && t.kind != text {
		return Assignment{}, l.expected("a value for "+name, t)
	}
	return Assignment{name, t.value}, nil
}
