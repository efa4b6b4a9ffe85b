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
	if addr, ok := plainIPv4(text); ok {
		return addr, nil
	}
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

// plainIPv4 reads what most addresses are, at a third of what it costs to read all that
// an address may be: four numbers with no zeros before them.
func plainIPv4(text string) (addr netip.Addr, ok bool) {
	var octets [4]byte
	part, digits, number := 0, 0, 0
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '0' && c <= '9' && digits < 3 && (digits == 0 || number > 0):
			number, digits = 10*number+int(c-'0'), digits+1
		case c == '.' && digits > 0 && number <= 255 && part < 3:
			octets[part] = byte(number)
			part, digits, number = part+1, 0, 0
		default:
			return addr, false
		}
	}
	if part != 3 || digits == 0 || number > 255 {
		return addr, false
	}
	octets[part] = byte(number)
	return netip.AddrFrom4(octets), true
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
