// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/tools/txtar"
)

// Suffix of scenario files.
const Suffix = ".txtar"

// Error is one mistake in a scenario file.
type Error struct {
	Pos Pos
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Pos, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// MostBytes is how long a scenario's file may be, and mostOfLine a line of it: far
// more than people write, and little enough that what is no scenario is refused at
// once.
const (
	MostBytes  = 8 << 20
	mostOfLine = 64 << 10
)

// unreadable says why data cannot be a scenario, and at which line; empty: it can.
func unreadable(data []byte) (line int, why string) {
	switch {
	case len(data) > MostBytes:
		return 1, fmt.Sprintf("it is longer than %d MiB: that is no scenario", MostBytes>>20)
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return 1, "it begins with a byte order mark: save it as UTF-8 without one"
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return 1, "it is UTF-16: save it as UTF-8"
	}
	for text := range bytes.Lines(data) {
		line++
		switch {
		case len(text) > mostOfLine:
			return line, fmt.Sprintf("the line is %d octets long, and at most %d are read: that is no line of a scenario", len(text), mostOfLine)
		case bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text):
			return line, "it is no text: a scenario is written in UTF-8"
		}
	}
	return 0, ""
}

// Parse reads a scenario. The error joins an *Error for every mistake.
func Parse(path string, data []byte) (*File, error) {
	if line, why := unreadable(data); why != "" {
		return nil, &Error{Pos{path, line}, errors.New(why)}
	}
	archive := txtar.Parse(data)
	p := &parser{file: &File{
		Name:   strings.TrimSuffix(filepath.Base(path), Suffix),
		Path:   path,
		Source: string(data),
		Files:  map[string]Attached{},
		Nodes:  []Node{{Name: FirstNode}},
	}}
	p.attach(archive, string(data))
	p.script(string(archive.Comment))
	if len(p.errs) == 0 {
		p.check()
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.file, nil
}

type parser struct {
	file *File
	errs []error
}

func (p *parser) pos(line int) Pos { return Pos{p.file.Path, line} }

func (p *parser) failf(at Pos, format string, args ...any) {
	p.errs = append(p.errs, &Error{at, fmt.Errorf(format, args...)})
}

// attach takes the files behind the script, and finds at which lines they
// begin, so that a mistake in one has a place too.
func (p *parser) attach(archive *txtar.Archive, source string) {
	lines := strings.Split(source, "\n")
	at := 0
	for _, f := range archive.Files {
		for at < len(lines) && !isMarker(lines[at], f.Name) {
			at++
		}
		at++
		if _, twice := p.file.Files[f.Name]; twice {
			p.failf(p.pos(at), "%s is attached twice: give each file its own name", f.Name)
		}
		p.file.Files[f.Name] = Attached{Line: at + 1, Data: f.Data}
	}
}

func isMarker(line, name string) bool {
	inner, ok := strings.CutPrefix(strings.TrimRight(line, "\r"), "-- ")
	if !ok {
		return false
	}
	inner, ok = strings.CutSuffix(inner, " --")
	return ok && strings.TrimSpace(inner) == name
}

// script parses the lines before the attached files. A line that ends in a
// backslash goes on in the next.
func (p *parser) script(source string) {
	var about []string
	begun := false
	lines := strings.Split(source, "\n")
	for i := 0; i < len(lines); i++ {
		number := i + 1
		whole := strings.TrimRight(lines[i], " \t\r")
		for strings.HasSuffix(whole, `\`) && i+1 < len(lines) {
			i++
			whole = strings.TrimRight(strings.TrimSuffix(whole, `\`), " \t") + " " + strings.TrimSpace(lines[i])
		}
		trimmed := strings.TrimSpace(whole)
		if comment, ok := strings.CutPrefix(trimmed, "#"); ok && !begun {
			about = append(about, strings.TrimSpace(comment))
			continue
		}
		begun = begun || trimmed != "" || len(about) > 0
		if trimmed == "" {
			continue
		}
		p.line(p.pos(number), trimmed)
	}
	p.file.Description = strings.Join(about, " ")
}

func (p *parser) line(at Pos, source string) {
	tokens, err := lex(source)
	if err != nil {
		p.failf(at, "%w", err)
		return
	}
	if len(tokens) == 0 {
		return
	}
	l := &line{tokens: tokens}
	if err := p.statement(at, source, l); err != nil {
		p.failf(at, "%w", err)
	}
}

func (p *parser) statement(at Pos, source string, l *line) error {
	if l.peek().kind != word {
		return fmt.Errorf("expected a verb, found %s\n\tverbs: %s", where(l.peek()), verbNames())
	}
	if head, ok := headers[l.peek().value]; ok {
		l.usage = head.usage
		l.next()
		if len(p.file.Steps) > 0 {
			return fmt.Errorf("'%s' describes the network: expected before the first step, which is at line %d",
				l.tokens[0].value, p.file.Steps[0].Pos.Line)
		}
		if err := head.parse(p, at, l); err != nil {
			return err
		}
		return l.finished()
	}
	step := Step{Pos: at, Text: stripComment(source, l.tokens)}
	for {
		name, err := l.word("a verb")
		if err != nil {
			return err
		}
		switch name {
		case "[ipv4]":
			step.Only = IPv4
			continue
		case "[ipv6]":
			step.Only = IPv6
			continue
		case "eventually":
			step.Eventually = true
			continue
		}
		v, ok := verbs[name]
		if !ok {
			return fmt.Errorf("unknown verb '%s'%s\n\tverbs: %s", name, nearest(name), verbNames())
		}
		l.usage = v.usage
		if step.Verb, err = v.parse(l); err != nil {
			return err
		}
		if err := l.finished(); err != nil {
			return err
		}
		p.file.Steps = append(p.file.Steps, step)
		return nil
	}
}

func (l *line) finished() error {
	if l.done() {
		return nil
	}
	return l.expected("the end of the line", l.peek())
}

// stripComment cuts a comment behind the last token.
func stripComment(source string, tokens []token) string {
	last := tokens[len(tokens)-1]
	if i := strings.Index(source[last.column-1:], " #"); i >= 0 && last.kind != text {
		return strings.TrimSpace(source[:last.column-1+i])
	}
	return strings.TrimSpace(source)
}

// nearest suggests a verb that differs by little.
func nearest(name string) string {
	best, distance := "", 3
	for _, n := range append(sortedKeys(verbs), sortedKeys(headers)...) {
		if d := editDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean '%s'?", best)
}

// editDistance is Levenshtein's, on octets.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
