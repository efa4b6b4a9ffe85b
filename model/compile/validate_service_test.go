// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func TestValidateRefusesServicesThatTheAPIRefuses(t *testing.T) {
	const ports = "ports: [{port: 80}]}"
	pod := func(rest string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n" + rest
	}
	tests := []struct{ name, text, want string }{
		{"an unknown type", service("{clusterIP: 10.96.0.1, type: Nodeport, " + ports), `spec.type: "Nodeport" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName`},
		{"a node port without an address", service("{clusterIP: None, type: NodePort, " + ports), "spec.clusterIP: is None, which a service of type NodePort cannot be: give it an address"},
		{"a load balancer without an address", service("{clusterIP: None, type: LoadBalancer, " + ports), "spec.clusterIP: is None, which a service of type LoadBalancer cannot be: give it an address"},
		{"a node port of a cluster address", service("{clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}"), "spec.ports[0].nodePort: 30080 has no meaning for type ClusterIP: remove it, or use NodePort"},
		{"a node port out of range", service("{clusterIP: 10.96.0.1, type: NodePort, ports: [{port: 80, nodePort: 65536}]}"), "spec.ports[0].nodePort: 65536 is not in 1–65535"},
		{"a node port twice", service("{clusterIP: 10.96.0.1, type: NodePort, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}]}"), "spec.ports[1].nodePort: 30080/TCP is the node port of spec.ports[0] too: give one of them another"},
		{"a node port that is the health check's", service("{clusterIP: 10.96.0.1, type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080, ports: [{port: 80, nodePort: 30080}]}"), "spec.ports[0].nodePort: 30080 is spec.healthCheckNodePort too: give one of them another"},
		{"families that differ", service(`{ipFamilies: [IPv6], clusterIP: 10.96.0.1, ` + ports), "spec.clusterIPs[0]: 10.96.0.1 is IPv4, and spec.ipFamilies[0] says IPv6: make them agree"},
		{"an unknown family", service(`{ipFamilies: [IPv5], clusterIP: 10.96.0.1, ` + ports), `spec.ipFamilies[0]: "IPv5" is not one of IPv4, IPv6`},
		{"an external address that is loopback", service("{clusterIP: 10.96.0.1, externalIPs: [127.0.0.1], " + ports), "spec.externalIPs[0]: 127.0.0.1 is not the address of a host that others reach: use a unicast address, neither loopback nor link-local"},
		{"an external address that is none", service("{clusterIP: 10.96.0.1, externalIPs: [example.org], " + ports), `spec.externalIPs[0]: "example.org" is not an IP address`},
		{"an unknown mode", service("{clusterIP: 10.96.0.1, type: LoadBalancer, "+ports, "status: {loadBalancer: {ingress: [{ip: 203.0.113.9, ipMode: Vip}]}}"), `status.loadBalancer.ingress[0].ipMode: "Vip" is not one of VIP, Proxy`},
		{"a mode of no address", service("{clusterIP: 10.96.0.1, type: LoadBalancer, "+ports, "status: {loadBalancer: {ingress: [{hostname: a, ipMode: VIP}]}}"), "status.loadBalancer.ingress[0].ipMode: VIP is the mode of no address"},
		{"source ranges of another type", service("{clusterIP: 10.96.0.1, loadBalancerSourceRanges: [192.0.2.0/24], " + ports), "spec.loadBalancerSourceRanges: has a meaning for type LoadBalancer alone: remove it"},
		{"a source range that is none", service("{clusterIP: 10.96.0.1, type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0], " + ports), `spec.loadBalancerSourceRanges[0]: "192.0.2.0" is not an address block`},
		{"a class of another type", service("{clusterIP: 10.96.0.1, loadBalancerClass: a/b, " + ports), "spec.loadBalancerClass: has a meaning for type LoadBalancer alone"},
		{"node ports that another type does not want", service("{clusterIP: 10.96.0.1, allocateLoadBalancerNodePorts: false, " + ports), "spec.allocateLoadBalancerNodePorts: has a meaning for type LoadBalancer alone"},
		{"an external policy of a cluster address", service("{clusterIP: 10.96.0.1, externalTrafficPolicy: Local, " + ports), "spec.externalTrafficPolicy: Local has no meaning for a service that is not reached from outside: remove it, or use type NodePort or LoadBalancer"},
		{"an unknown external policy", service("{clusterIP: 10.96.0.1, type: NodePort, externalTrafficPolicy: local, " + ports), `spec.externalTrafficPolicy: "local" is not one of Cluster, Local`},
		{"an unknown internal policy", service("{clusterIP: 10.96.0.1, internalTrafficPolicy: Node, " + ports), `spec.internalTrafficPolicy: "Node" is not one of Cluster, Local`},
		{"an unknown distribution", service("{clusterIP: 10.96.0.1, trafficDistribution: PreferFar, " + ports), `spec.trafficDistribution: "PreferFar" is not one of PreferClose, PreferSameZone, PreferSameNode`},
		{"a health check of a service of all nodes", service("{clusterIP: 10.96.0.1, type: LoadBalancer, healthCheckNodePort: 30000, " + ports), "spec.healthCheckNodePort: 30000 has a meaning for type LoadBalancer with externalTrafficPolicy Local alone: remove it"},
		{"a health check out of range", service("{clusterIP: 10.96.0.1, type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: -1, " + ports), "spec.healthCheckNodePort: -1 is not in 1–65535"},
		{"an unknown affinity", service("{clusterIP: 10.96.0.1, sessionAffinity: Cookie, " + ports), `spec.sessionAffinity: "Cookie" is not one of None, ClientIP`},
		{"a span of no affinity", service("{clusterIP: 10.96.0.1, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}, " + ports), "spec.sessionAffinityConfig: has a meaning for sessionAffinity ClientIP alone: remove it"},
		{"no span of affinity", service("{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {}, " + ports), "spec.sessionAffinityConfig.clientIP.timeoutSeconds: is missing: give a number in 1–86400, or remove sessionAffinityConfig"},
		{"affinity for less than a second", service("{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, " + ports), "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not in 1–86400"},
		{"affinity for more than a day", service("{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, " + ports), "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not in 1–86400"},
		{"an unknown algorithm", strings.Replace(service("{clusterIP: 10.96.0.1, "+ports), "{name: web}", "{name: web, annotations: {weir.net/algorithm: Maglev}}", 1), `test.yaml:3: document 1: Service default/web: metadata.annotations[weir.net/algorithm]: "Maglev" is not one of random, maglev`},
		{"a weight of nothing", strings.Replace(pod(""), "{name: web}", "{name: web, annotations: {weir.net/weight: '0'}}", 1), `test.yaml:3: document 1: Pod default/web: metadata.annotations[weir.net/weight]: "0" is not a number in 1–256`},
		{"a host port out of range", pod("spec: {containers: [{name: c, ports: [{containerPort: 1, hostPort: 65536}]}]}"), "spec.containers[0].ports[0].hostPort: 65536 is not in 1–65535"},
		{"a host port twice", pod("spec: {containers: [{name: c, ports: [{containerPort: 1, hostPort: 1}]}, {name: d, ports: [{containerPort: 2, hostPort: 1}]}]}"), "spec.containers[1].ports[0].hostPort: 1/TCP is spec.containers[0].ports[0].hostPort too: remove one"},
		{"a host port that the host's network has not", pod("spec: {hostNetwork: true, containers: [{name: c, ports: [{containerPort: 1, hostPort: 2}]}]}"), "spec.containers[0].ports[0].hostPort: 2 is not containerPort 1, and the pod is on the host's network: make them equal"},
		{"pod networks that differ", "apiVersion: v1\nkind: Node\nmetadata: {name: node-c}\nspec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.1.0/24]}\n", "spec.podCIDR: 10.0.0.0/24 is not the first of spec.podCIDRs, 10.0.1.0/24: make them equal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := manifest.Parse("test.yaml", strings.NewReader(tt.text))
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestValidateAllowsWhatTheAPIAllows(t *testing.T) {
	for name, text := range map[string]string{
		"an external policy of an external address":    service("{clusterIP: 10.96.0.1, externalIPs: [192.0.2.1], externalTrafficPolicy: Local, ports: [{port: 80}]}"),
		"a family that is yet to get its address":      service("{ipFamilies: [IPv4, IPv6], clusterIP: 10.96.0.1, ports: [{port: 80}]}"),
		"no address, in the list alone":                service("{clusterIPs: [None], ports: [{port: 80}]}"),
		"a load balancer without node ports":           service("{clusterIP: 10.96.0.1, type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}"),
		"one number for two protocols":                 service("{clusterIP: 10.96.0.1, type: NodePort, ports: [{name: a, port: 53, nodePort: 30053}, {name: b, port: 53, nodePort: 30053, protocol: UDP}]}"),
		"a name for another service":                   "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: ExternalName, externalName: example.org}",
		"addresses of a family that the service lacks": service(`{clusterIP: 10.96.0.1, type: LoadBalancer, externalIPs: ["2001:db8::1"], ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: "2001:db8::2"}]}}`),
		"a source range with host bits and blanks":     service(`{clusterIP: 10.96.0.1, type: LoadBalancer, loadBalancerSourceRanges: [" 192.0.2.1/24 "], ports: [{port: 80}]}`),
		"addresses with zeros before numbers":          service(`{clusterIP: 10.96.0.1, externalIPs: ["192.000.002.001"], ports: [{port: 80}]}`),
		"a host address that is none":                  "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, ports: [{containerPort: 1, hostPort: 1, hostIP: eth0}, {containerPort: 2, hostPort: 1, hostIP: 224.0.0.1}]}]}",
		"a balancer's address that no host has":        service(`{clusterIP: 10.96.0.1, type: LoadBalancer, ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: 169.254.1.1}, {ip: "::1"}]}}`),
		"a pod network with host bits":                 "apiVersion: v1\nkind: Node\nmetadata: {name: node-c}\nspec: {podCIDR: 10.0.0.1/24}\n",
		"a node's address that is a name":              "apiVersion: v1\nkind: Node\nmetadata: {name: node-c}\nstatus: {addresses: [{type: InternalIP, address: node-c.example}]}\n",
		"a load balancer that is not ready yet":        service("{clusterIP: 10.96.0.1, type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]}", "status: {loadBalancer: {}}"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Parse("test.yaml", strings.NewReader(text))
			require.NoError(t, err)
		})
	}
}

func TestOptionsAreValidated(t *testing.T) {
	tests := []struct {
		name    string
		options model.Options
		want    string // "" for none
	}{
		{"nothing chosen", model.Options{}, ""},
		{"everything chosen", model.Options{NodePortAddresses: prefixes("0.0.0.0/0", "::/0"), Masquerade: true, MasqueradeExcluded: prefixes("10.0.0.0/8"), FirstPort: 1, LastPort: 1, Algorithm: model.AlgorithmMaglev, MaglevSize: model.MaxMaglevSize}, ""},
		{"node ports on loopback", model.Options{NodePortAddresses: prefixes("127.0.0.0/8")}, "Options: nodePortAddresses[0]: 127.0.0.0/8 is loopback, where node ports do not answer: name an address that others reach"},
		{"node ports on loopback of IPv6", model.Options{NodePortAddresses: prefixes("10.0.0.0/8", "::1/128")}, "Options: nodePortAddresses[1]: ::1/128 is loopback"},
		{"an address with host bits", model.Options{NodePortAddresses: prefixes("10.0.0.1/8")}, "Options: nodePortAddresses[0]: 10.0.0.1/8 has bits set beyond its length: write 10.0.0.0/8"},
		{"a prefix that is none", model.Options{MasqueradeExcluded: []netip.Prefix{{}}}, "Options: masqueradeExcluded[0]: is not an address block"},
		{"ports that end before they begin", model.Options{FirstPort: 40000, LastPort: 39999}, "Options: firstPort: 40000 is greater than lastPort 39999: swap them"},
		{"ports that end before the usual begin", model.Options{LastPort: 1000}, "Options: firstPort: 32768 is greater than lastPort 1000: swap them"},
		{"an unknown algorithm", model.Options{Algorithm: "ring"}, `Options: algorithm: "ring" is not one of random, maglev`},
		{"external addresses with host bits", model.Options{ExternalIPs: model.Allowed{Only: prefixes("10.0.0.1/8")}}, "Options: externalIPs[0]: 10.0.0.1/8 has bits set beyond its length: write 10.0.0.0/8"},
		{"host ports with host bits", model.Options{HostPorts: model.Allowed{Only: prefixes("10.0.0.1/8")}}, "Options: hostPorts[0]: 10.0.0.1/8 has bits set beyond its length"},
		{"annotations of somebody else", model.Options{AuditAnnotations: "tenants"}, "Options: auditAnnotations: 'tenants' is unknown: use pods, namespaces, policies or off"},
		{"a port that is none", model.Options{ReservedPorts: []uint16{22, 0}}, "Options: reservedPorts[1]: 0 is no port: give 1–65535"},
		{"a size that is no prime", model.Options{MaglevSize: 16384}, "Options: maglevSize: 16384 is not a prime up to 131071: use one like 251, 1021, 4093, 16381, 65537 or 131071"},
		{"a size that is too great", model.Options{MaglevSize: 655373}, "Options: maglevSize: 655373 is not a prime up to 131071"},
		{"a size below nothing", model.Options{MaglevSize: -7}, "Options: maglevSize: -7 is not a prime"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.options.Validate()
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			local := testLocal()
			local.Options = tt.options
			_, _, err = All(overlay(t, clusterYAML), "node-a", local)
			require.ErrorContains(t, err, tt.want, "the compiler asks")
			var field *model.FieldError
			require.ErrorAs(t, err, &field)
		})
	}
}

func TestTheSizesThatErrorsNameArePrimes(t *testing.T) {
	for _, size := range []int{251, 1021, 4093, model.DefaultMaglevSize, 65537, model.MaxMaglevSize} {
		require.True(t, model.IsPrime(size), size)
	}
	for _, size := range []int{-1, 0, 1, 4, 9, 16383, 65536, 131069} {
		require.False(t, model.IsPrime(size), size)
	}
}

// What parses and compiles has every frontend once, and nobody reaches
// anything but a port of an address of its own family.
func FuzzServices(f *testing.F) {
	f.Add(service(`{type: NodePort, clusterIPs: [10.96.0.10, "fd96::10"], selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}`))
	f.Add(service(`{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, loadBalancerSourceRanges: [192.0.2.0/24], externalIPs: [203.0.113.9], clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9, ipMode: VIP}]}}`))
	f.Add(service(`{sessionAffinity: ClientIP, trafficDistribution: PreferSameNode, clusterIP: 10.96.0.10, ports: [{port: 80}]}`) + "\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.0.0.2], hints: {forNodes: [{name: node-a}]}}]")
	f.Add("apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {weir.net/weight: '9'}}\nspec: {nodeName: node-a, containers: [{name: c, ports: [{containerPort: 1, hostPort: 1, hostIP: '::'}]}]}\nstatus: {podIPs: [{ip: 'fd00::77'}]}")
	local := withUplink()
	local.Options = model.Options{Masquerade: true, Algorithm: model.AlgorithmMaglev, MaglevSize: 251}
	f.Fuzz(func(t *testing.T, text string) {
		objs, err := manifest.Parse("fuzz.yaml", strings.NewReader(text))
		if err != nil {
			return
		}
		all := overlay(t, frontsYAML)
		all.Merge(objs)
		state, _, err := All(manifest.DeriveEndpointSlices(all), "node-a", local)
		if err != nil {
			return
		}
		type place struct {
			at       netip.AddrPort
			protocol model.Protocol
			scope    model.Scope
		}
		seen := map[place]bool{}
		for s := range state.Services.All() {
			at := place{netip.AddrPortFrom(s.Address, s.Port), s.Protocol, s.Scope}
			require.False(t, seen[at], "%v is there twice", at)
			seen[at] = true
			require.NotZero(t, s.Port)
			for _, b := range s.Backends {
				require.NotZero(t, b.Port)
				require.Equal(t, s.Address.Is4(), b.Address.Is4())
				require.LessOrEqual(t, b.Weight, uint16(model.MaxWeight))
			}
		}
	})
}
