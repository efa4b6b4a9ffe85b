// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Refusal is an object that is left out, and what follows from that.
type Refusal struct {
	Object, Field, Problem string
	Follows                string // "": nothing
}

func (r Refusal) String() string {
	problem := r.Problem
	if r.Field != "" {
		problem = r.Field + ": " + problem
	}
	if r.Follows != "" {
		problem += " (" + r.Follows + ")"
	}
	return r.Object + ": " + problem
}

// LeaveRefused does with a cluster's objects that cannot be kept what the agents
// do: it leaves them out, and isolates the pods of policies. What was given by
// the caller stays, for him to be told.
func LeaveRefused(live, given *manifest.Objects) []Refusal {
	var refusals []Refusal
	stays := given.Titles()
	for {
		_, err := Doubts(live)
		left := 0
		for _, refused := range model.FieldErrors(err) {
			if slices.Contains(stays, refused.Object) {
				continue
			}
			stays = append(stays, refused.Object) // what is in its place now
			if told, found := live.LeaveOut(refused.Object); found {
				left++
				refusals = append(refusals, Refusal{refused.Object, refused.Field, refused.Problem, told})
			}
		}
		if left == 0 {
			return refusals // what is wrong yet, the caller meets
		}
	}
}
