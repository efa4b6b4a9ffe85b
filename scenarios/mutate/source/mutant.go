// SPDX-License-Identifier: Apache-2.0

package source

// Kind is a kind of error.
type Kind string

// The kinds of errors, as they are called in reports and in lists of equivalents.
const (
	Round     Kind = "condition turned round"
	Always    Kind = "condition made always"
	Never     Kind = "condition made never"
	Bound     Kind = "bound off by one"
	Part      Kind = "part of a condition left out"
	Logic     Kind = "and for or"
	Operator  Kind = "operator changed"
	Constant  Kind = "constant changed"
	Statement Kind = "statement left out"
	Zero      Kind = "zero returned"
	Arguments Kind = "arguments swapped"
	Confused  Kind = "source and destination confused"
	Family    Kind = "IPv4 and IPv6 confused"
)

// short is what a kind is called in an ID.
var short = map[Kind]string{
	Round: "round", Always: "always", Never: "never", Bound: "bound", Part: "part", Logic: "logic",
	Operator: "operator", Constant: "constant", Statement: "statement", Zero: "zero",
	Arguments: "arguments", Confused: "confused", Family: "family",
}

// Kinds are all kinds, in the order in which reports name them.
func Kinds() []Kind {
	return []Kind{Round, Always, Never, Bound, Part, Logic, Operator, Constant, Statement, Zero, Arguments, Confused, Family}
}

// Mutant is one error.
type Mutant struct {
	// ID is the same as long as the function is: its name, which of the function's
	// errors it is, and the kind.
	ID       string
	Package  string // import path
	Function string
	Kind     Kind
	// File is from the module's root, with slashes; Line and Text are of the place.
	File string
	Line int
	Text string
	// Before and After are what changes.
	Before, After string
	// Number is what package planted calls it.
	Number int
}
