// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// Families of ICMP, as Cilium's policies call them.
const (
	familyIPv4 = "IPv4"
	FamilyIPv6 = "IPv6"
)

// maxCiliumICMPs is how many fields the API takes in a list.
const maxCiliumICMPs = 40

// icmpTypes are the names that Cilium's API has for types of ICMP messages
// (https://www.iana.org/assignments/icmp-parameters), by family.
func icmpTypes(family string) map[string]uint8 {
	if family == FamilyIPv6 {
		return map[string]uint8{
			"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128, "EchoReply": 129,
			"MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132, "RouterSolicitation": 133,
			"RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136, "RedirectMessage": 137, "RouterRenumbering": 138,
			"ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140, "InverseNeighborDiscoverySolicitation": 141,
			"InverseNeighborDiscoveryAdvertisement": 142, "HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145,
			"MobilePrefixSolicitation": 146, "MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157,
			"DuplicateAddressConfirmationCodeSuffix": 158, "ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
		}
	}
	return map[string]uint8{
		"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8, "RouterAdvertisement": 9, "RouterSelection": 10,
		"TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13, "TimestampReply": 14, "Photuris": 40,
		"ExtendedEcho Request": 42, "ExtendedEcho Reply": 43, "ExtendedEchoRequest": 42, "ExtendedEchoReply": 43,
	}
}

// ICMPType reads a type by number or by name.
func ICMPType(family string, text *intstr.IntOrString) (uint8, bool) {
	if number, err := strconv.ParseUint(text.String(), 10, 8); err == nil {
		return uint8(number), true
	}
	number, known := icmpTypes(family)[text.String()]
	return number, known
}

func (v *validator) ciliumICMPs(field string, lists []CiliumICMPRule, ports bool) {
	if len(lists) > 0 && ports {
		v.fail(field+".icmps", "cannot stand beside toPorts: make an entry of each")
	}
	for i := range lists {
		at, fields := fmt.Sprintf("%s.icmps[%d].fields", field, i), lists[i].Fields
		switch {
		case len(fields) == 0:
			v.fail(at, "is empty: list types, or remove icmps for any packet")
		case len(fields) > maxCiliumICMPs:
			v.fail(at, "has %d types, and the API takes %d: use a second list", len(fields), maxCiliumICMPs)
		}
		for j, f := range fields {
			v.ciliumICMP(fmt.Sprintf("%s[%d]", at, j), f)
		}
	}
}

func (v *validator) ciliumICMP(field string, f CiliumICMP) {
	if f.Family != "" && f.Family != familyIPv4 && f.Family != FamilyIPv6 {
		v.fail(field+".family", "%q is not one of %s, %s", f.Family, familyIPv4, FamilyIPv6)
		return
	}
	if f.Type == nil {
		v.fail(field+".type", "is missing: give a number in 0–255, or a name as EchoRequest")
		return
	}
	text := f.Type.String()
	if _, known := ICMPType(f.Family, f.Type); known {
		return
	}
	if strings.Trim(text, "-0123456789") == "" {
		v.fail(field+".type", "%s is not in 0–255", text)
		return
	}
	v.fail(field+".type", "%q is no type of ICMP messages for %s: give a number in 0–255, or one of %s", text, FamilyOr(f.Family), strings.Join(slices.Sorted(maps.Keys(icmpTypes(f.Family))), ", "))
}

// FamilyOr gives the family of an ICMP field that names none: IPv4.
func FamilyOr(family string) string {
	if family == "" {
		return familyIPv4
	}
	return family
}
