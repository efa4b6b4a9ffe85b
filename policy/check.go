// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// Answer is what policies say of a flow in one family.
type Answer struct {
	Family string // "": all that the two ends have in common
	oracle.Decision
}

// Allowed is whether all answers are that the flow is.
func Allowed(all []Answer) bool {
	return !slices.ContainsFunc(all, func(d Answer) bool { return !d.Allowed })
}

// Check asks whether a flow is allowed, in all families that the two ends have in common, and tells
// once what is the same in both.
func Check(objs *manifest.Objects, from, to string, port Port) ([]Answer, error) {
	explainer := oracle.NewExplainer(objs)
	src, dst := AddressesOf(objs, from), AddressesOf(objs, to)
	if len(src) == 0 || len(dst) == 0 {
		d, err := explainer.Explain(from, to, port.Number, port.Protocol)
		return []Answer{{"", d}}, err
	}
	a, b := &Pod{Name: from, Addresses: src}, &Pod{Name: to, Addresses: dst}
	var all []Answer
	for _, family := range []string{IPv4, IPv6} {
		at, by, ok := meeting(a.of(family), b.of(family))
		if !ok {
			continue
		}
		d, err := explainer.Explain(at.String(), by.String(), port.Number, port.Protocol)
		if err != nil {
			return nil, err
		}
		all = append(all, Answer{family, d})
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("from %s to %s there is no flow: they have no address of one family: name one by its other address", from, to)
	case len(all) == 1 || sameReasons(&all[0].Decision, &all[1].Decision):
		all = all[:1]
		all[0].Family = ""
	}
	return all, nil
}

// sameReasons is whether two decisions are alike but for the addresses.
func sameReasons(a, b *oracle.Decision) bool {
	return a.Allowed == b.Allowed && slices.EqualFunc(a.Rulings, b.Rulings, func(r, s oracle.Ruling) bool {
		return r.Direction == s.Direction && r.Subject == s.Subject && r.Action == s.Action && r.Passed == s.Passed && r.Reason() == s.Reason()
	})
}
