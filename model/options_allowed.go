// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Allowed is a switch: on, off, or on for some addresses. The zero Allowed is on.
// It is written as "on", "off", or blocks with commas between them.
type Allowed struct {
	Off  bool
	Only []netip.Prefix // nil: any; where Off is false
}

// Allows is whether an address is among those for which the switch is on.
func (a *Allowed) Allows(addr netip.Addr) bool {
	return !a.Off && (a.Only == nil || slices.ContainsFunc(a.Only, func(prefix netip.Prefix) bool { return prefix.Contains(addr) }))
}

// IsZero is whether nothing was chosen.
func (a Allowed) IsZero() bool { return !a.Off && a.Only == nil }

// String writes the switch as ParseAllowed reads it.
func (a Allowed) String() string {
	switch {
	case a.Off:
		return "off"
	case a.Only == nil:
		return "on"
	}
	texts := make([]string, len(a.Only))
	for i, prefix := range a.Only {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

// ParseAllowed reads a switch.
func ParseAllowed(text string) (Allowed, error) {
	switch text {
	case "on":
		return Allowed{}, nil
	case "off":
		return Allowed{Off: true}, nil
	}
	var a Allowed
	for _, word := range strings.Split(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(word))
		if err != nil {
			return Allowed{}, fmt.Errorf("read switch %q: %q is neither on, nor off, nor an address block like 10.0.0.0/8 or fd00::/16", text, word)
		}
		a.Only = append(a.Only, prefix)
	}
	return a, nil
}

// MarshalText writes the switch as String does.
func (a Allowed) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads it as ParseAllowed does.
func (a *Allowed) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAllowed(string(text))
	return err
}
