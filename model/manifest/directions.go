// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weirnet/weir/model"
)

// DirectionsOf applies the API's default: ingress always, egress where the
// policy has an egress rule.
func DirectionsOf(object *networkingv1.NetworkPolicy) map[model.Direction]bool {
	if len(object.Spec.PolicyTypes) == 0 {
		return map[model.Direction]bool{model.Ingress: true, model.Egress: len(object.Spec.Egress) > 0}
	}
	return map[model.Direction]bool{
		model.Ingress: slices.Contains(object.Spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		model.Egress:  slices.Contains(object.Spec.PolicyTypes, networkingv1.PolicyTypeEgress),
	}
}
