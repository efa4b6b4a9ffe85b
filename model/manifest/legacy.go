// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseLegacyBlock reads a block as the API reads those of a NetworkPolicy: what
// is beyond the length does not count, numbers may begin with zeros and are
// decimal all the same, and IPv4 may be written as IPv6 (::ffff:10.0.0.0/104).
func ParseLegacyBlock(text string) (netip.Prefix, error) {
	address, bits, _ := strings.Cut(text, "/")
	colon := strings.LastIndexByte(address, ':') + 1
	parts := strings.Split(address[colon:], ".")
	if len(parts) == 4 {
		for i, part := range parts {
			parts[i] = withoutZeros(part)
		}
	}
	prefix, err := netip.ParsePrefix(address[:colon] + strings.Join(parts, ".") + "/" + withoutZeros(bits))
	if err != nil {
		return prefix, fmt.Errorf("read address block %q: %w", text, err)
	}
	const mapped = 96 // the bits before an IPv4 address in IPv6
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < mapped {
			return prefix, fmt.Errorf("read address block %q: it is neither IPv4 nor IPv6", text)
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	return prefix.Masked(), nil
}

// ParseLegacyAddr reads an address as the API reads those of objects: numbers may
// begin with zeros and are decimal all the same, and IPv4 may be written as IPv6.
func ParseLegacyAddr(text string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return addr.Unmap(), nil
	}
	bits := "/128"
	if !strings.Contains(text, ":") {
		bits = "/32"
	}
	prefix, err := ParseLegacyBlock(text + bits)
	if err != nil || strings.ContainsAny(text, "/%") {
		return netip.Addr{}, fmt.Errorf("read address %q: it is none", text)
	}
	return prefix.Addr(), nil
}

// withoutZeros takes zeros from before a number, but for the last digit.
func withoutZeros(number string) string {
	if trimmed := strings.TrimLeft(number, "0"); trimmed != "" || number == "" {
		return trimmed
	}
	return "0"
}

// Within is whether a block lies in another one.
func Within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}
