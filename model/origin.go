// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"fmt"
)

// Origin says where a rule comes from, for people.
type Origin struct {
	Policy PolicyRef // zero: no policy decides
	Rule   int       // index in the policy's list of that direction, from 0; or RuleNone
	// List is the list's path where it is not spec.ingress or spec.egress:
	// ingressDeny, specs[1].egress.
	List string `json:",omitempty"`
}

// RuleNone stands in an Origin for what no rule of a policy allows.
const RuleNone = -1

func (o Origin) String() string {
	if o.Policy.IsZero() {
		return "no policy"
	}
	if o.Rule == RuleNone {
		return o.Policy.String() + ", no rule of which matches"
	}
	if o.List != "" {
		return fmt.Sprintf("%s %s rule %d", o.Policy, o.List, o.Rule)
	}
	return fmt.Sprintf("%s rule %d", o.Policy, o.Rule)
}

// Compare orders by policy, list and index.
func (o Origin) Compare(other Origin) int {
	return cmp.Or(o.Policy.Compare(other.Policy), cmp.Compare(o.List, other.List), cmp.Compare(o.Rule, other.Rule))
}
