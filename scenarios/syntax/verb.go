// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

// Verb is what a step does. Each is a file verb_NAME.go, which has all that the
// language knows of it: the words, the parser, and these methods. Nothing else
// tells verbs apart by their types.
type Verb interface {
	// check finds what is wrong with a step as far as it can be told without a
	// network: above all, that what the step names exists.
	check(*checker, *Step)
	// Effect is of what kind it is.
	Effect() Effect
	// Rehearse tries without a network, in one family, what can be tried so.
	Rehearse(context.Context, Player) error
	// Run does it in a world.
	Run(context.Context, Player) error
}

// Effect is what a verb sets off.
type Effect int

// Effects.
const (
	Acts      Effect = iota // it changes something
	Checks                  // nothing: it looks at what came of the step that acted last
	Sends                   // the way of one frame
	Converses               // a whole exchange, whose frames are not named one by one
)

// Player is who plays verbs in a world. It is an interface because this package
// knows no worlds. A verb that can be done by what others do needs no more of it.
type Player interface {
	// LookUp finds the addresses of names.
	LookUp(names ...string) error
	// Describe makes a frame and does not send it.
	Describe(*Send) error
	// Resolve finds what the layers at a host name.
	Resolve(host string, layers []Layer) error
	// Expand finds what a text names.
	Expand(text string) error

	Apply(context.Context, *Apply) error
	Update(context.Context, *Update) error
	Delete(context.Context, *Delete) error
	Label(context.Context, *Label) error
	Terminate(context.Context, *Terminate) error
	Renew(context.Context, *Renew) error
	Give(context.Context, *Give) error
	Take(context.Context, *Take) error
	Lead(context.Context, *Lead) error
	Listen(context.Context, *Listen) error
	Connect(context.Context, *Connect) error
	Say(context.Context, *Say) error
	Close(context.Context, *Close) error
	Ping(context.Context, *Ping) error
	Send(context.Context, *Send) error
	Expect(context.Context, *Expect) error
	Verdict(context.Context, *Verdict) error
	Flow(context.Context, *FlowCheck) error
	Dropped(context.Context, *Dropped) error
	Counter(context.Context, *Counter) error
	Table(context.Context, *TableCheck) error
	Uses(context.Context, *Uses) error
	Advance(context.Context, *Advance) error
	Collect(context.Context, *Collect) error
}
