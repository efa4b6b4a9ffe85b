// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"cmp"
	"slices"
)

// Report is what was reached, by source file.
type Report struct {
	Files []*File // by name
	// Apart are objects none of whose programs has run: what is theirs alone is
	// not in Files.
	Apart   []string
	Runs    int
	Kernels []string
	// ByKernel is what was reached on each, where there are several.
	ByKernel []KernelShares
	// Alone are the lines that one scenario alone reaches, by its name.
	Alone map[string][]Place
	// Stale are entries of the list of what no frame reaches that are not right
	// any more, each with the reason.
	Stale []string
}

// KernelShares are those of one kernel, of what can be reached there.
type KernelShares struct {
	Kernel          string
	Lines, Branches Share
}

// Place is a line of a file.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// File is a source file that programs have code of.
type File struct {
	Name      string // lib/packet.h
	Lines     map[int]*Line
	Functions []Function
}

// State is what came of a line.
type State string

// States.
const (
	Reached State = "reached"
	// Missed is a line that could have run, and never did.
	Missed State = "never reached"
	// Dead is a line whose code the verifier took out: with the constants that
	// the programs were loaded with it cannot run.
	Dead State = "unreachable by the verifier's constants"
	// Excused is a line that no frame can reach, as the list says.
	Excused State = "not reachable by a frame"
)

// Line is a line with code.
type Line struct {
	State State
	// Count is how often it ran, at least.
	Count    uint64
	Branches []Branch
	// Scenarios is how many reached it; One of them, if it is alone.
	Scenarios int
	One       string
	// Why it is Excused.
	Why string
}

// Branch is a decision, and how often each of its ways was gone.
type Branch struct{ Ways [2]Way }

// Way is one outcome of a Branch.
type Way struct {
	Count uint64
	Dead  bool // the verifier took it out
}

// Function is one that is called, or that a program begins with. What the
// compiler put into its callers is none.
type Function struct {
	Name  string
	Line  int
	Count uint64
}

// Share is a number out of another.
type Share struct{ Reached, Of int }

func (s Share) add(more Share) Share { return Share{s.Reached + more.Reached, s.Of + more.Of} }

// Percent is rounded down: only all of them are 100.
func (s Share) Percent() float64 {
	if s.Of == 0 {
		return 100
	}
	return float64(s.Reached*1000/s.Of) / 10
}

// LineShare counts lines that are reached, of those that can be.
func (f *File) LineShare() Share {
	var s Share
	for _, l := range f.Lines {
		switch l.State {
		case Reached:
			s = s.add(Share{1, 1})
		case Missed:
			s.Of++
		}
	}
	return s
}

// BranchShare counts ways of branches that were gone, of those that can be: of
// lines that can be reached, without what the verifier took out.
func (f *File) BranchShare() Share {
	var s Share
	for _, l := range f.Lines {
		if l.State == Excused {
			continue
		}
		for _, b := range l.Branches {
			for _, w := range b.Ways {
				switch {
				case w.Count > 0:
					s = s.add(Share{1, 1})
				case !w.Dead:
					s.Of++
				}
			}
		}
	}
	return s
}

// In counts the lines of a state.
func (f *File) In(state State) int {
	n := 0
	for _, l := range f.Lines {
		if l.State == state {
			n++
		}
	}
	return n
}

// Lines are those of all files.
func (r *Report) Lines() Share {
	var s Share
	for _, f := range r.Files {
		s = s.add(f.LineShare())
	}
	return s
}

// Branches are those of all files.
func (r *Report) Branches() Share {
	var s Share
	for _, f := range r.Files {
		s = s.add(f.BranchShare())
	}
	return s
}

// file gives a file, and makes it.
func (r *Report) file(name string) *File {
	at, found := r.find(name)
	if !found {
		r.Files = slices.Insert(r.Files, at, &File{Name: name, Lines: map[int]*Line{}})
	}
	return r.Files[at]
}

// line gives a line, or nil.
func (r *Report) line(file string, line int) *Line {
	if at, found := r.find(file); found {
		return r.Files[at].Lines[line]
	}
	return nil
}

func (r *Report) find(name string) (int, bool) {
	return slices.BinarySearchFunc(r.Files, name, func(f *File, name string) int { return cmp.Compare(f.Name, name) })
}
