// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"cmp"
	"slices"
)

// Score counts the mutants of a file.
type Score struct {
	File                                              string
	Mutants                                           int
	Refused, NotExecuted, Equivalent                  int
	Test, Prog, Fuzz, Netns, Socket, Survived, Undone int
	Known                                             int // of Survived
}

// Counted are those that are executed and no equivalents.
func (s Score) Counted() int { return s.Test + s.Prog + s.Fuzz + s.Netns + s.Socket + s.Survived }

// Percent is how many of the counted were noticed, 0 to 100; NaN for none.
func (s Score) Percent() float64 {
	return 100 * float64(s.Counted()-s.Survived) / float64(s.Counted())
}

// WithoutStacks is how many of the counted scenarios in prog and the fuzzer
// noticed by themselves.
func (s Score) WithoutStacks() float64 {
	return 100 * float64(s.Prog+s.Fuzz) / float64(s.Counted())
}

// By is how many a killer noticed.
func (s Score) By(killer string) int {
	switch killer {
	case ByTest:
		return s.Test
	case ByProg:
		return s.Prog
	case ByFuzz:
		return s.Fuzz
	case ByNetns:
		return s.Netns
	}
	return s.Socket
}

func (s *Score) add(r *Result) {
	s.Mutants++
	switch r.Outcome {
	case Refused:
		s.Refused++
	case NotExecuted:
		s.NotExecuted++
	case Equivalent:
		s.Equivalent++
	case Survived:
		s.Survived++
	case Known:
		s.Survived++
		s.Known++
	case Killed:
		switch r.By {
		case ByTest:
			s.Test++
		case ByProg:
			s.Prog++
		case ByFuzz:
			s.Fuzz++
		case ByNetns:
			s.Netns++
		case BySocket:
			s.Socket++
		}
	default:
		s.Undone++
	}
}

// killers are the columns of the table.
func (r *Report) killers() []string {
	if r.Killers != nil {
		return r.Killers
	}
	return []string{ByProg, ByFuzz, ByNetns, BySocket}
}

// Scores are those of each file, and of all together.
func (r *Report) Scores() (files []Score, all Score) {
	by := map[string]*Score{}
	all.File = "all"
	for i := range r.Results {
		one := &r.Results[i]
		if by[one.File] == nil {
			by[one.File] = &Score{File: one.File}
		}
		by[one.File].add(one)
		all.add(one)
	}
	for _, s := range by {
		files = append(files, *s)
	}
	slices.SortFunc(files, func(a, b Score) int { return cmp.Compare(a.File, b.File) })
	return files, all
}
