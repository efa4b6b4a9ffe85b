// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// LeaveRefused does with a cluster's objects that cannot be kept what the agents
// do: it leaves them out, and isolates the pods of policies. What was given by
// the caller stays, for him to be told; what is wrong yet, he meets.
func LeaveRefused(live, given *manifest.Objects) []compile.Refusal {
	stays := given.Refs()
	left := compile.LeaveUnread(live, nil)
	_ = left.Until(func(ref model.Ref) bool { return slices.Contains(stays, ref) }, func() error {
		_, err := Doubts(live)
		return err
	})
	return left.Refusals()
}
