// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestNobodyBeyondTheNodeHasAnAddressOfIt(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		loopback, link, none := "127.0.0.1", "169.254.7.7", "0.0.0.0"
		if f.name == "IPv6" {
			loopback, link, none = "::1", "fe80::7", "::"
		}
		var gateway string
		for _, g := range b.oracle.local.Gateways {
			if g.Is4() == (f.name == "IPv4") {
				gateway = g.String()
			}
		}
		ping := func(src, dst string) []byte { return ip(src, dst, f.echo, icmp(f.ping, 0, 1)) }
		for name, tt := range map[string]struct {
			frame  []byte
			reason model.Reason
		}{
			"the node's, to the node":               {ip(f.node, f.node, model.ProtocolTCP, tcp(1, 22, flagSYN)), model.ReasonMartianSource},
			"the node's, to a pod":                  {ping(f.node, f.web0), model.ReasonMartianSource},
			"the gateway's, to a pod":               {ping(gateway, f.web0), model.ReasonMartianSource},
			"a pod's, to the node":                  {ping(f.web1, f.node), model.ReasonSpoofedSource},
			"a pod's, to another":                   {ping(f.web1, f.web0), model.ReasonSpoofedSource},
			"the loopback device's":                 {ping(loopback, f.node), model.ReasonMartianSource},
			"none at all":                           {ping(none, f.web0), model.ReasonMartianSource},
			"a link's, beyond it":                   {ping(link, f.far), model.ReasonMartianSource},
			"the node's, on what cannot be judged":  {ip(f.node, f.web0, model.ProtocolTCP, tcp(1, 80, flagSYN|flagFIN)), model.ReasonMartianSource},
			"the node's, on a fragment":             {part(f.node, f.web0, model.ProtocolUDP, 7, 64, false, make([]byte, 8)), model.ReasonMartianSource},
			"the node's, on an error":               {unreachable(f.node, f.web0, quoting(ip(f.web0, f.outside, model.ProtocolUDP, udp(1, 2, 0)))), model.ReasonMartianSource},
			"the node's, on the packet of a tunnel": {inTunnel(model.Options{}, f.node, f.web1, syn(f.outside, f.other, 5000, 30080)), model.ReasonMartianSource},
		} {
			t.Run(name, func(t *testing.T) {
				e := b.in(tt.frame)
				require.Empty(t, e.Alternatives, e.String())
				requireDrop(t, e, tt.reason)
			})
		}
		for name, frame := range map[string][]byte{
			"a neighbour to the node":           ping(link, f.node),
			"who has no address yet, to all":    ip(none, map[string]string{"IPv4": "255.255.255.255", "IPv6": "ff02::16"}[f.name], model.ProtocolUDP, udp(68, 67, 0)),
			"the link, where a pod is answered": ping(link, f.web0),
			"another node":                      ping(f.other, f.web0),
			"who may be in class E":             ip(map[string]string{"IPv4": "240.0.0.9", "IPv6": f.outside}[f.name], f.web0, f.echo, icmp(f.ping, 0, 1)),
			"a pod of another node":             ping(f.far, f.web0),
		} {
			t.Run(name, func(t *testing.T) { b.requirePassBy(b.in(frame), model.OutHost) })
		}
	})
}

func TestWhatTheNodeOnlyLeadsOnIsNotFromIt(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{})
		at := model.Where{Hook: model.ToContainer, Endpoint: client}
		frame := ip(f.node, f.client, model.ProtocolUDP, udp(5000, 53, 0))
		require.Equal(t, model.Forward, b.oracle.Look(frame, at, b.now).Judge(Untold).Action)
		requireDrop(t, b.oracle.Look(frame, at, b.now).LedOn().Judge(Untold), model.ReasonMartianSource)
		own := ip(f.outside, f.client, model.ProtocolUDP, udp(5000, 53, 0))
		require.Equal(t, model.Forward, b.oracle.Look(own, at, b.now).LedOn().Judge(Untold).Action)
	})
}
