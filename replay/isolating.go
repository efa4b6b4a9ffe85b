// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// isolations knows whom which policies isolate: a packet that no rule allows is
// dropped by none of them in particular, and the program names none.
type isolations struct {
	objects   *manifest.Objects
	explainer *oracle.Explainer              // made when it is first asked
	behind    map[netip.Addr][]netip.Addr    // a service's backends, by its addresses
	known     map[isolated][]model.PolicyRef // what was asked before
}

type isolated struct {
	who       netip.Addr
	direction model.Direction
}

// blame fills in who isolates a packet's end, where that is why it is dropped.
func (i *isolations) blame(o *Outcome) {
	if i.objects == nil || !o.Origin.Policy.IsZero() || !o.Header.IP {
		return
	}
	switch model.Reason(o.Reason) {
	case model.ReasonPolicyIngress:
		o.Isolating = i.of(isolated{o.Header.Dst, model.Ingress})
	case model.ReasonPolicyEgress:
		o.Isolating = i.of(isolated{o.Header.Src, model.Egress})
	}
	if len(o.Isolating) > 0 {
		o.Origin = model.Origin{Policy: o.Isolating[0], Rule: model.RuleNone}
	}
}

// of asks for an end; behind a service, for all of its backends, who must agree.
func (i *isolations) of(end isolated) []model.PolicyRef {
	if names, asked := i.known[end]; asked {
		return names
	}
	if i.explainer == nil {
		i.explainer = oracle.NewExplainer(i.objects)
		i.behind, i.known = behindServices(i.objects), map[isolated][]model.PolicyRef{}
	}
	names := i.explainer.Isolating(end.who, end.direction)
	for n, backend := range i.behind[end.who] {
		those := i.explainer.Isolating(backend, end.direction)
		if n > 0 && !slices.Equal(names, those) {
			names = nil
			break
		}
		names = those
	}
	i.known[end] = names
	return names
}

// behindServices are the addresses behind those of services.
func behindServices(objects *manifest.Objects) map[netip.Addr][]netip.Addr {
	behind := map[netip.Addr][]netip.Addr{}
	for _, slice := range manifest.DeriveEndpointSlices(objects).EndpointSlices {
		service := objects.Services[manifest.ServiceOf(slice)]
		if service == nil {
			continue
		}
		for _, text := range slices.Concat(service.Spec.ClusterIPs, []string{service.Spec.ClusterIP}, service.Spec.ExternalIPs) {
			frontend, err := netip.ParseAddr(text)
			if err != nil {
				continue // None, or empty
			}
			for i := range slice.Endpoints {
				for _, address := range slice.Endpoints[i].Addresses {
					if backend, err := netip.ParseAddr(address); err == nil && backend.Is4() == frontend.Is4() {
						behind[frontend] = append(behind[frontend], backend)
					}
				}
			}
		}
	}
	return behind
}

// appendOrigin appends who decided.
func appendOrigin(b []byte, origin model.Origin, isolating []model.PolicyRef) []byte {
	switch {
	case origin.Policy.IsZero():
		return b
	case len(isolating) < 2:
		return append(append(b, "  by "...), origin.String()...)
	}
	names := make([]string, len(isolating))
	for i, policy := range isolating {
		names[i] = policy.String()
	}
	return append(append(append(b, "  by "...), strings.Join(names, " and ")...), ", no rule of which matches"...)
}
