// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
)

// reasons are those that a script may name.
var reasons = []model.Reason{
	model.ReasonTruncated, model.ReasonUnknownEthertype, model.ReasonVLAN, model.ReasonBadIPHeader,
	model.ReasonBadIPLength, model.ReasonBadTCPHeader, model.ReasonBadTCPFlags, model.ReasonBadUDPLength,
	model.ReasonBadUDPChecksum, model.ReasonExtensionLimit, model.ReasonRoutingHeader, model.ReasonFragment,
	model.ReasonSourceRoute, model.ReasonBadIPOptions, model.ReasonStraySYN, model.ReasonOutOfWindow,
	model.ReasonMartianSource, model.ReasonMartianDestination, model.ReasonSpoofedSource, model.ReasonSameAddress,
	model.ReasonNotForEndpoint, model.ReasonTTLExceeded, model.ReasonBadARP, model.ReasonBadNDP,
	model.ReasonICMPType, model.ReasonICMPNoFlow, model.ReasonAuditEgress, model.ReasonAuditIngress, model.ReasonNoEndpoint, model.ReasonPolicyEgress,
	model.ReasonPolicyIngress, model.ReasonNoBackend, model.ReasonNoFrontend, model.ReasonNoRoute, model.ReasonFlowTableFull,
	model.ReasonNoSourcePort, model.ReasonRewriteFailed, model.ReasonSourceRange, model.ReasonNoLocalBackend,
	model.ReasonICMPMTU, model.ReasonBadTunnel, model.ReasonTooBig, model.ReasonARPAnswered, model.ReasonNDPAnswered,
}

// Reasons are all for which a frame may be dropped or answered, by the order in
// which they are numbered.
func Reasons() []model.Reason { return slices.Clone(reasons) }

func knownReason(r model.Reason) bool { return slices.Contains(reasons, r) }

func unknownReason(name string) error {
	all := make([]string, len(reasons))
	for i, r := range reasons {
		all[i] = string(r)
	}
	return fmt.Errorf("unknown reason '%s': expected one of %s", name, strings.Join(all, ", "))
}
