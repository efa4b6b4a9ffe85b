// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Cut is a recorded flow that was allowed and would not be any more.
type Cut struct {
	From     netip.AddrPort `json:"from"`
	To       netip.AddrPort `json:"to"`
	Backend  netip.AddrPort `json:"backend,omitzero"` // where To is a service's
	Protocol string         `json:"protocol"`
	Because  string         `json:"because"`
}

func (c Cut) String() string {
	to := c.To.String()
	if c.Backend.IsValid() {
		to += " by backend " + c.Backend.String()
	}
	return fmt.Sprintf("cut: %s %s to %s: %s", c.Protocol, c.From, to, c.Because)
}

// CutFlows gives those of recorded flows that a change would cut. A flow to a
// service is asked of each backend.
func CutFlows(before, after *Side, flows []model.Tuple) ([]Cut, error) {
	frontends := frontendsOf(before.objs)
	var cut []Cut
	for _, t := range flows {
		targets := frontends[frontendAt{netip.AddrPortFrom(t.Dst, t.Dport), t.Protocol}]
		throughService := len(targets) > 0
		if !throughService {
			targets = []netip.AddrPort{netip.AddrPortFrom(t.Dst, t.Dport)}
		}
		for _, target := range targets {
			was, err := before.explainer.Explain(t.Src.String(), target.Addr().String(), target.Port(), t.Protocol)
			if err != nil {
				return nil, err
			}
			is, err := after.explainer.Explain(t.Src.String(), target.Addr().String(), target.Port(), t.Protocol)
			if err != nil {
				return nil, err
			}
			if !was.Allowed || is.Allowed {
				continue
			}
			c := Cut{From: netip.AddrPortFrom(t.Src, t.Sport), To: netip.AddrPortFrom(t.Dst, t.Dport), Protocol: t.Protocol.String(), Because: because(&was, &is)}
			if throughService {
				c.Backend = target
			}
			cut = append(cut, c)
		}
	}
	return cut, nil
}

type frontendAt struct {
	netip.AddrPort
	protocol model.Protocol
}

// frontendsOf are the addresses of services, with their backends.
func frontendsOf(objs *manifest.Objects) map[frontendAt][]netip.AddrPort {
	found := map[frontendAt][]netip.AddrPort{}
	_, state, err := onOneNode(manifest.DeriveEndpointSlices(objs))
	if err != nil {
		return found // services say nothing where they are wrong; policies were right
	}
	for svc := range state.Services.All() {
		at := frontendAt{netip.AddrPortFrom(svc.Address, svc.Port), svc.Protocol}
		for _, b := range svc.Backends {
			found[at] = append(found[at], netip.AddrPortFrom(b.Address, b.Port))
		}
	}
	addNodePorts(found, objs)
	return found
}

// addNodePorts adds the nodes' addresses with the ports of services, which lead where
// the services' own addresses do.
func addNodePorts(found map[frontendAt][]netip.AddrPort, objs *manifest.Objects) {
	for _, svc := range manifest.InOrder(objs.Services) {
		for _, port := range svc.Spec.Ports {
			if port.NodePort == 0 {
				continue
			}
			protocol := protocols[strings.ToLower(string(manifest.ProtocolOr(port.Protocol)))]
			for _, node := range manifest.InOrder(objs.Nodes) {
				for _, addr := range AddressesOf(objs, node.Name) {
					for _, own := range svc.Spec.ClusterIPs {
						ip, err := netip.ParseAddr(own)
						if err == nil && ip.Is4() == addr.Is4() {
							found[frontendAt{netip.AddrPortFrom(addr, uint16(port.NodePort)), protocol}] = found[frontendAt{netip.AddrPortFrom(ip, uint16(port.Port)), protocol}]
						}
					}
				}
			}
		}
	}
}

// ReadFlows gives every flow of a file once, as it was opened: see ReadRecord. Flows
// that were denied are among them.
func ReadFlows(ctx context.Context, path string) ([]model.Tuple, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read flows: %w", err)
	}
	defer file.Close()
	record, err := ReadRecord(ctx, path, file)
	if err != nil {
		return nil, err
	}
	var flows []model.Tuple
	for _, o := range slices.Concat(record.Openings, record.Headless) {
		if o.Backend.IsValid() {
			o.Dst, o.Dport = o.Backend.Addr(), o.Backend.Port()
		}
		flows = append(flows, o.Tuple)
	}
	return flows, nil
}
