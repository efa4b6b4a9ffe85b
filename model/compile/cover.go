// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// cover finds what of many prefixes overlaps another one, whose lengths are
// known before: it looks each of them up instead of all prefixes.
type cover struct {
	lengths map[int][]int              // by the bits of an address
	exact   map[netip.Prefix]model.Ref // who has it
	inside  map[netip.Prefix][]inner   // by each prefix of those lengths around it
}

type inner struct {
	prefix netip.Prefix
	owner  model.Ref
}

// newCover makes a cover that is asked for prefixes as long as these, and for
// addresses.
func newCover(asked []netip.Prefix) *cover {
	c := &cover{lengths: map[int][]int{}, exact: map[netip.Prefix]model.Ref{}, inside: map[netip.Prefix][]inner{}}
	for _, prefix := range asked {
		family := prefix.Addr().BitLen()
		if !slices.Contains(c.lengths[family], prefix.Bits()) {
			c.lengths[family] = append(c.lengths[family], prefix.Bits())
		}
	}
	return c
}

func (c *cover) add(prefix netip.Prefix, owner model.Ref) {
	if _, twice := c.exact[prefix]; !twice {
		c.exact[prefix] = owner
	}
	for _, bits := range c.lengths[prefix.Addr().BitLen()] {
		if bits < prefix.Bits() {
			around := netip.PrefixFrom(prefix.Addr(), bits).Masked()
			c.inside[around] = append(c.inside[around], inner{prefix, owner})
		}
	}
}

// overlaps gives a prefix that overlaps another one, and who has it; zero where
// nobody but self has one.
func (c *cover) overlaps(prefix netip.Prefix, self model.Ref) (netip.Prefix, model.Ref) {
	for _, bits := range append(slices.Clone(c.lengths[prefix.Addr().BitLen()]), prefix.Bits()) {
		if bits > prefix.Bits() {
			continue
		}
		around := netip.PrefixFrom(prefix.Addr(), bits).Masked()
		if owner, found := c.exact[around]; found && owner != self {
			return around, owner
		}
	}
	for _, in := range c.inside[prefix] {
		if in.owner != self {
			return in.prefix, in.owner
		}
	}
	return netip.Prefix{}, model.Ref{}
}

// asks is whether a cover may be asked for prefixes as long as these.
func (c *cover) asks(prefixes []netip.Prefix) bool {
	return !slices.ContainsFunc(prefixes, func(prefix netip.Prefix) bool {
		return !slices.Contains(c.lengths[prefix.Addr().BitLen()], prefix.Bits())
	})
}

// remove takes out a prefix that nobody else has.
func (c *cover) remove(prefix netip.Prefix, owner model.Ref) {
	if c.exact[prefix] == owner {
		delete(c.exact, prefix)
	}
	for _, bits := range c.lengths[prefix.Addr().BitLen()] {
		if bits >= prefix.Bits() {
			continue
		}
		around := netip.PrefixFrom(prefix.Addr(), bits).Masked()
		c.inside[around] = slices.DeleteFunc(c.inside[around], func(in inner) bool { return in == inner{prefix, owner} })
		if len(c.inside[around]) == 0 {
			delete(c.inside, around)
		}
	}
}
