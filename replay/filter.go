// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Filter says which outcomes are shown. The zero value shows all.
type Filter struct {
	// Drops: only what a program has dropped.
	Drops bool
	// From and To are ends of which one has to be the packet's source, or its
	// destination: an address, a prefix, or a name; as it came, or as it left.
	From, To []End
	// Reasons are those of which the packet's has to be one.
	Reasons []string
}

// End is who a packet may be from or for.
type End struct {
	prefix netip.Prefix
	name   string
}

// ErrEnd is an end that nobody can be.
var ErrEnd = errors.New("nobody has it")

// ReadEnd reads an address, a prefix, or the name of a pod, a service or a node of
// a Replay's objects: namespace/name, or the name alone of one in "default".
func (r *Replay) ReadEnd(text string) (End, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return End{prefix: netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())}, nil
	}
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return End{prefix: prefix.Masked()}, nil
	}
	if r.called == nil {
		return End{}, fmt.Errorf("%q: %w: it is no address and no prefix, and names need --state", text, ErrEnd)
	}
	for _, name := range r.called {
		if isCalled(name, text) {
			return End{name: text}, nil
		}
	}
	return End{}, fmt.Errorf("%q: %w: it is no address and no prefix, and no pod, service or node of the objects has the name", text, ErrEnd)
}

// isCalled is whether a name means one of namesOf.
func isCalled(name, meant string) bool {
	_, bare, kind := strings.Cut(name, " ")
	if !kind {
		bare = name
	}
	return name == meant || bare == meant || bare == "default/"+meant
}

func (e *End) is(addr netip.Addr, name string) bool {
	if e.name != "" {
		return name != "" && isCalled(name, e.name)
	}
	return e.prefix.Contains(addr)
}

// Match is whether an outcome is shown.
func (f *Filter) Match(o *Outcome) bool {
	left := o.Translated
	if left == nil {
		left = &o.Header
	}
	return (!f.Drops || o.Verdict == Drop && !o.CutHeaders) &&
		(f.Reasons == nil || slices.Contains(f.Reasons, o.Reason)) &&
		matchEnd(f.From, o.Header.Src, o.SrcName, left.Src, "") && matchEnd(f.To, o.Header.Dst, o.DstName, left.Dst, o.To)
}

// matchEnd is whether one of the ends is an address, as it came or as it left.
func matchEnd(ends []End, came netip.Addr, cameName string, left netip.Addr, leftName string) bool {
	return len(ends) == 0 || slices.ContainsFunc(ends, func(e End) bool {
		return e.is(came, cameName) || e.is(left, leftName)
	})
}
