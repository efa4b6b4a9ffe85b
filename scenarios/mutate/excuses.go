// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weirnet/weir/bpf/mutant"
)

// Excuse is an entry of a list: of mutants that are no errors, with which the
// programs do the same, or of errors that are known to survive.
type Excuse struct {
	Place string // in the list, for messages
	// File and Text are of the source line: a line that has changed is another
	// one. Kind, Before and After may have * in them; empty fits all.
	File, Text, Kind, Before, After string
	// Functions are those in which the line is meant: hooks have it in common, and
	// what one of them never meets another does. PROGRAM/FUNCTION is that of an object
	// which has the program, where another object has it too. None: all.
	Functions []string
	Reason    string

	used, near  bool // a mutant fits it, or is of its file
	fit, closed int  // how many fit it, and how many of these did not survive
}

// Excuses is a list: the equivalent mutants, or the known survivors.
type Excuses struct{ entries []*Excuse }

// ReadExcuses reads a list. A paragraph is a reason, in lines that begin with
// #, and the entries that it is the reason of:
//
//	# Why these are no errors.
//	lib/packet.h: if (len < ihl) | bound off by one
//	lib/packet.h: if (len < ihl) | condition * | if w2 > * => *
//	lib/packet.h in from_device, to_device: if (len < ihl) | condition *
//	lib/icmp_error.h in from_device/related: if (len < ihl) | condition *
//
// Kinds of errors besides those of programs may be in it if they are given.
func ReadExcuses(name string, r io.Reader, more ...mutant.Kind) (*Excuses, error) {
	e := &Excuses{}
	var errs []error
	reason, inReason := "", false
	scan := bufio.NewScanner(r)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		place := fmt.Sprintf("%s:%d", name, n)
		if text, ok := strings.CutPrefix(line, "#"); ok {
			if !inReason {
				reason = ""
			}
			reason, inReason = strings.TrimSpace(reason+" "+strings.TrimSpace(text)), true
			continue
		}
		inReason = false
		if line == "" {
			reason = ""
			continue
		}
		entry, err := parseExcuse(line, slices.Concat(mutant.Kinds(), more))
		if err == nil && reason == "" {
			err = errors.New("no reason stands above it")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", place, err))
			continue
		}
		entry.Place, entry.Reason = place, reason
		e.entries = append(e.entries, entry)
	}
	if err := scan.Err(); err != nil {
		errs = append(errs, fmt.Errorf("read %s: %w", name, err))
	}
	return e, errors.Join(errs...)
}

// separator stands between the parts of an entry. C has it only between flags,
// and there parts are taken from the right.
const separator = " | "

func parseExcuse(line string, kinds []mutant.Kind) (*Excuse, error) {
	file, rest, ok := strings.Cut(line, ": ")
	if !ok {
		return nil, errors.New("expected FILE [in FUNCTION, FUNCTION]: TEXT OF THE LINE | KIND [| BEFORE => AFTER]")
	}
	e := &Excuse{File: file}
	if file, functions, ok := strings.Cut(file, " in "); ok {
		e.File, e.Functions = file, strings.Split(functions, ", ")
	}
	if at := strings.LastIndex(rest, separator); at >= 0 {
		if before, after, ok := strings.Cut(rest[at+len(separator):], " => "); ok {
			e.Before, e.After = before, after
			rest = rest[:at]
		}
	}
	at := strings.LastIndex(rest, separator)
	if at < 0 {
		return nil, errors.New("expected a kind behind the text of the line")
	}
	e.Text, e.Kind = rest[:at], rest[at+len(separator):]
	for _, k := range kinds {
		if fits(e.Kind, string(k)) {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%q is no kind", e.Kind)
}

// Find gives the entry that a mutant is listed by; nil for none.
func (e *Excuses) Find(m *mutant.Mutant) *Excuse {
	if e == nil {
		return nil
	}
	for _, entry := range e.entries {
		entry.near = entry.near || entry.File == m.File
		if entry.File == m.File && entry.Text == m.Text && fits(entry.Kind, string(m.Kind)) &&
			entry.means(m) &&
			(entry.Before == "" || fits(entry.Before, m.Before)) && (entry.After == "" || fits(entry.After, m.After)) {
			entry.used = true
			entry.fit++
			return entry
		}
	}
	return nil
}

// means says whether it is for the function that a mutant is in.
func (x *Excuse) means(m *mutant.Mutant) bool {
	return x.Functions == nil || slices.ContainsFunc(x.Functions, func(name string) bool {
		if program, function, ok := strings.Cut(name, "/"); ok {
			return function == m.Function && slices.Contains(m.Programs, program)
		}
		return name == m.Function
	})
}

// Unused are entries that no mutant fits, of files that mutants are of: an object
// of other files says nothing about them.
func (e *Excuses) Unused() []*Excuse {
	var out []*Excuse
	if e != nil {
		for _, entry := range e.entries {
			if !entry.used && entry.near {
				out = append(out, entry)
			}
		}
	}
	return out
}

// Close tells the entry that a mutant of it was killed or refused.
func (x *Excuse) Close() { x.closed++ }

// Closed are entries whose mutants were all asked for, and killed or refused: they
// excuse nothing any more.
func (e *Excuses) Closed() []*Excuse {
	var out []*Excuse
	if e != nil {
		for _, entry := range e.entries {
			if entry.used && entry.closed == entry.fit {
				out = append(out, entry)
			}
		}
	}
	return out
}

// fits compares with a pattern in which * stands for any text.
func fits(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		at := strings.Index(text, p)
		if at < 0 {
			return false
		}
		text = text[at+len(p):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}
