// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// frontsYAML is a service of all kinds on two nodes in two zones, of which
// node-a has web-0 and web-1, and node-b has far.
var frontsYAML = clusterYAML + `
---
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: ExternalIP, address: 203.0.113.2}, {type: InternalIP, address: "fd18::2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {topology.kubernetes.io/zone: west}}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: web}}
spec: {nodeName: node-b}
status: {podIPs: [{ip: 10.0.1.1}, {ip: "fd00:1::1"}]}
`

// overlay parses documents of which later ones take the place of earlier ones.
func overlay(t testing.TB, text string) *manifest.Objects {
	t.Helper()
	objs := manifest.NewObjects()
	for _, document := range strings.Split(text, "\n---\n") {
		objs.Merge(mustParse(t, document))
	}
	return objs
}

func withUplink() model.Local {
	local := testLocal()
	local.Uplinks = []model.Uplink{{Name: "eth0", Ifindex: 2}}
	return local
}

// frontsOf compiles frontsYAML with a service web of this spec, and writes its
// frontends short: scope, kind, address, whom it leads to, what it is besides.
func frontsOf(t *testing.T, local model.Local, texts ...string) []string {
	t.Helper()
	objs := overlay(t, frontsYAML+"\n---\n"+strings.Join(texts, "\n---\n"))
	delete(objs.Services, "default/nobody")
	state, _, err := All(manifest.DeriveEndpointSlices(objs), "node-a", local)
	require.NoError(t, err)
	var lines []string
	for s := range state.Services.All() {
		line := fmt.Sprintf("%s %s %s %s →", s.Scope, s.Kind, netip.AddrPortFrom(s.Address, s.Port), s.Protocol)
		for _, b := range s.Backends {
			line += " " + netip.AddrPortFrom(b.Address, b.Port).String()
			if b.Weight != 0 {
				line += fmt.Sprintf("*%d", b.Weight)
			}
			if b.Terminating {
				line += "(old)"
			}
		}
		if s.Local {
			line += " local"
		}
		if s.Affinity != 0 {
			line += " affinity=" + s.Affinity.String()
		}
		if s.Sources != nil {
			line += fmt.Sprint(" from=", s.Sources)
		}
		if s.MaglevSize != 0 {
			line += fmt.Sprint(" maglev=", s.MaglevSize)
		}
		lines = append(lines, line)
	}
	return lines
}

func service(spec string, rest ...string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: " + spec + "\n" + strings.Join(rest, "\n")
}

func TestFrontendsOfEveryKind(t *testing.T) {
	const all = "10.0.0.2:8080 10.0.0.3:8080 10.0.1.1:8080"
	tests := []struct {
		name    string
		service string
		want    []string
	}{
		{"a cluster address is for those inside", service(`{clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
		}},
		{"a node port is at every address of the node, in the service's families", service(`{type: NodePort, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
			"inside NodePort 172.18.0.2:30080 tcp → " + all,
			"outside NodePort 172.18.0.2:30080 tcp → " + all,
			"inside NodePort 203.0.113.2:30080 tcp → " + all,
			"outside NodePort 203.0.113.2:30080 tcp → " + all,
		}},
		{"who comes from outside stays on the node, who comes from inside does not", service(`{type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
			"inside LoadBalancer 203.0.113.9:80 tcp → " + all,
			"outside LoadBalancer 203.0.113.9:80 tcp → 10.0.0.2:8080 10.0.0.3:8080 10.0.1.1:8080(old) local",
		}},
		{"who comes from inside stays on the node for the cluster's address alone", service(`{type: LoadBalancer, internalTrafficPolicy: Local, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9, ipMode: VIP}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → 10.0.0.2:8080 10.0.0.3:8080 10.0.1.1:8080(old) local",
			"inside LoadBalancer 203.0.113.9:80 tcp → " + all,
			"outside LoadBalancer 203.0.113.9:80 tcp → " + all,
		}},
		{"a proxy's address is left to the proxy", service(`{type: LoadBalancer, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9, ipMode: Proxy}, {hostname: lb.example}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
		}},
		{"sources are those of the address's family, or everybody", service(`{type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24, 192.0.2.0/24, 192.0.2.0/24], clusterIPs: [10.96.0.10, "fd96::10"], selector: {app: nobody}, ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9}, {ip: "2001:db8::9"}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp →",
			"inside LoadBalancer 203.0.113.9:80 tcp → from=[192.0.2.0/24 198.51.100.0/24]",
			"outside LoadBalancer 203.0.113.9:80 tcp → from=[192.0.2.0/24 198.51.100.0/24]",
			"inside LoadBalancer [2001:db8::9]:80 tcp →",
			"outside LoadBalancer [2001:db8::9]:80 tcp →",
			"inside ClusterIP [fd96::10]:80 tcp →",
		}},
		{"an external address stays on the node, where it is asked to", service(`{externalIPs: [203.0.113.3], externalTrafficPolicy: Local, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
			"inside ExternalIP 203.0.113.3:80 tcp → " + all,
			"outside ExternalIP 203.0.113.3:80 tcp → 10.0.0.2:8080 10.0.0.3:8080 10.0.1.1:8080(old) local",
		}},
		{"an external address is none of a node's", service(`{externalIPs: [172.18.0.3, 172.18.0.2], clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
		}},
		{"a load balancer's may be a node's, but for the node's own ports", service(`{type: LoadBalancer, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 10250, targetPort: 8080}]}`, `status: {loadBalancer: {ingress: [{ip: 172.18.0.3}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all,
			"inside ClusterIP 10.96.0.10:10250 tcp → " + all,
			"inside LoadBalancer 172.18.0.3:80 tcp → " + all,
			"outside LoadBalancer 172.18.0.3:80 tcp → " + all,
		}},
		{"what the API takes is read as it is meant", service(`{type: LoadBalancer, loadBalancerSourceRanges: [" 192.000.2.7/24"], externalIPs: ["203.000.113.8", "2001:db8::9"], clusterIP: 10.96.0.10, selector: {app: nobody}, ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: "::ffff:203.0.113.9"}, {ip: "2001:db8::9"}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp →",
			"inside ExternalIP 203.0.113.8:80 tcp →",
			"outside ExternalIP 203.0.113.8:80 tcp →",
			"inside LoadBalancer 203.0.113.9:80 tcp → from=[192.0.2.0/24]",
			"outside LoadBalancer 203.0.113.9:80 tcp → from=[192.0.2.0/24]",
		}},
		{"a service of another proxy", strings.Replace(service(`{type: NodePort, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}`), "{name: web}", "{name: web, labels: {service.kubernetes.io/service-proxy-name: other}}", 1), nil},
		{"a service of none", strings.Replace(service(`{clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}`), "{name: web}", `{name: web, labels: {service.kubernetes.io/headless: ""}}`, 1), nil},
		{"an address that is there twice is restricted", service(`{type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24], externalIPs: [203.0.113.9], clusterIP: 10.96.0.10, selector: {app: nobody}, ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp →",
			"inside LoadBalancer 203.0.113.9:80 tcp → from=[192.0.2.0/24]",
			"outside LoadBalancer 203.0.113.9:80 tcp → from=[192.0.2.0/24]",
		}},
		{"affinity lasts three hours unless it says", service(`{sessionAffinity: ClientIP, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all + " affinity=3h0m0s",
		}},
		{"affinity lasts as long as it says", service(`{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all + " affinity=1s",
		}},
		{"SCTP keeps its port", service(`{type: NodePort, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 30080, nodePort: 30080, protocol: SCTP}]}`), []string{
			"inside ClusterIP 10.96.0.10:30080 sctp → 10.0.0.2:30080 10.0.0.3:30080 10.0.1.1:30080",
			"inside NodePort 172.18.0.2:30080 sctp → 10.0.0.2:30080 10.0.0.3:30080 10.0.1.1:30080",
			"outside NodePort 172.18.0.2:30080 sctp → 10.0.0.2:30080 10.0.0.3:30080 10.0.1.1:30080",
			"inside NodePort 203.0.113.2:30080 sctp → 10.0.0.2:30080 10.0.0.3:30080 10.0.1.1:30080",
			"outside NodePort 203.0.113.2:30080 sctp → 10.0.0.2:30080 10.0.0.3:30080 10.0.1.1:30080",
		}},
		{"the nearest zone is preferred", service(`{trafficDistribution: PreferClose, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → 10.0.0.2:8080 10.0.0.3:8080 10.0.1.1:8080(old)",
		}},
		{"an annotation chooses Maglev", strings.Replace(service(`{clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`), "{name: web}", "{name: web, annotations: {weir.net/algorithm: maglev}}", 1), []string{
			"inside ClusterIP 10.96.0.10:80 tcp → " + all + " maglev=16381",
		}},
		{"a headless service is for DNS", service(`{clusterIP: None, externalIPs: [192.0.2.1], selector: {app: web}, ports: [{port: 80}]}`), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, frontsOf(t, withUplink(), tt.service))
			var inside []string
			for _, line := range tt.want {
				if strings.HasPrefix(line, "inside ") {
					inside = append(inside, line)
				}
			}
			require.Equal(t, inside, frontsOf(t, testLocal(), tt.service), "without an uplink nobody comes from outside")
		})
	}
}

func TestWhoGetsNewFlows(t *testing.T) {
	const web = `{clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}], `
	pod := func(name, metadata, status string) string {
		node, ip := "node-a", map[string]string{"web-0": "10.0.0.2", "web-1": "10.0.0.3", "far": "10.0.1.1"}[name]
		if name == "far" {
			node = "node-b"
		}
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: web}%s}\nspec: {nodeName: %s}\nstatus: {podIPs: [{ip: %s}]%s}", name, metadata, node, ip, status)
	}
	const ends, unready = `, deletionTimestamp: "2030-01-01T00:00:00Z"`, `, conditions: [{type: Ready, status: "False"}]`
	slice := func(endpoints string) string {
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-x, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 8080}]\nendpoints: [" + endpoints + "]"
	}
	tests := []struct {
		name string
		text []string
		want string
	}{
		{"who is not ready keeps what it has", []string{service(web + "}"), pod("web-0", "", unready)}, "10.0.0.2:8080(old) 10.0.0.3:8080 10.0.1.1:8080"},
		{"who is terminating keeps what it has", []string{service(web + "}"), pod("web-0", ends, "")}, "10.0.0.2:8080(old) 10.0.0.3:8080 10.0.1.1:8080"},
		{"nobody ready: who serves to the end", []string{service(web + "}"), pod("web-0", ends, ""), pod("web-1", ends, unready), pod("far", "", unready)}, "10.0.0.2:8080 10.0.0.3:8080(old) 10.0.1.1:8080(old)"},
		{"nobody here ready: who serves here to the end", []string{service(web + "internalTrafficPolicy: Local}"), pod("web-0", ends, ""), pod("web-1", "", unready)}, "10.0.0.2:8080 10.0.0.3:8080(old) 10.0.1.1:8080(old) local"},
		{"nobody here", []string{service(web + "internalTrafficPolicy: Local}"), slice("{addresses: [10.0.1.1], nodeName: node-b}, {addresses: [10.0.0.2]}")}, "10.0.0.2:8080(old) 10.0.1.1:8080(old) local"},
		{"unready ones that are published", []string{service(web + "publishNotReadyAddresses: true}"), pod("web-0", ends, ""), pod("web-1", "", unready)}, "10.0.0.2:8080 10.0.0.3:8080 10.0.1.1:8080"},
		{"weights of pods", []string{service(web + "}"), pod("web-0", ", annotations: {weir.net/weight: \"256\"}", ""), pod("far", ", annotations: {weir.net/weight: \"1\"}", "")}, "10.0.0.2:8080*256 10.0.0.3:8080 10.0.1.1:8080*1"},
		{"a pod that a slice names by its address alone", []string{service(web + "}"), pod("web-0", ", annotations: {weir.net/weight: \"7\"}", ""), slice("{addresses: [10.0.0.2]}")}, "10.0.0.2:8080*7"},
		{"the same node is preferred to its zone", []string{service(web + "trafficDistribution: PreferSameNode}"), slice(
			"{addresses: [10.0.0.2], hints: {forNodes: [{name: node-a}], forZones: [{name: east}]}}, {addresses: [10.0.0.9], hints: {forNodes: [{name: node-c}], forZones: [{name: east}]}}")}, "10.0.0.2:8080 10.0.0.9:8080(old)"},
		{"its zone where the node has nobody", []string{service(web + "trafficDistribution: PreferSameNode}"), slice(
			"{addresses: [10.0.0.2], hints: {forNodes: [{name: node-b}], forZones: [{name: west}]}}, {addresses: [10.0.0.9], hints: {forNodes: [{name: node-c}], forZones: [{name: east}]}}")}, "10.0.0.2:8080(old) 10.0.0.9:8080"},
		{"hints by node whether the service asks for them or not", []string{service(web + "}"), slice(
			"{addresses: [10.0.0.2], hints: {forNodes: [{name: node-a}]}}, {addresses: [10.0.0.9], hints: {forNodes: [{name: node-c}]}}")}, "10.0.0.2:8080 10.0.0.9:8080(old)"},
		{"hints that somebody lacks", []string{service(web + "}"), slice("{addresses: [10.0.0.2], hints: {forZones: [{name: east}]}}, {addresses: [10.0.0.9]}")}, "10.0.0.2:8080 10.0.0.9:8080"},
		{"hints that fit nobody", []string{service(web + "}"), slice("{addresses: [10.0.0.2], hints: {forZones: [{name: west}]}}, {addresses: [10.0.0.9], hints: {forZones: [{name: north}]}}")}, "10.0.0.2:8080 10.0.0.9:8080"},
		{"hints are for those who are ready", []string{service(web + "}"), slice("{addresses: [10.0.0.2], hints: {forZones: [{name: east}]}}, {addresses: [10.0.0.9], conditions: {ready: false}}")}, "10.0.0.2:8080 10.0.0.9:8080(old)"},
		{"hints do not count for who must stay here", []string{service(web + "internalTrafficPolicy: Local}"), slice("{addresses: [10.0.0.2], nodeName: node-a, hints: {forZones: [{name: west}]}}, {addresses: [10.0.0.3], nodeName: node-a, hints: {forZones: [{name: east}]}}")}, "10.0.0.2:8080 10.0.0.3:8080 local"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fronts := frontsOf(t, testLocal(), tt.text...)
			require.Equal(t, []string{"inside ClusterIP 10.96.0.10:80 tcp → " + tt.want}, fronts)
		})
	}
}

func TestANodeWithoutANameForItsPodsHasThemAll(t *testing.T) {
	objs := mustParse(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, labels: {app: web}}\nstatus: {podIP: 10.0.0.2}\n---\n"+service(`{clusterIP: 10.96.0.10, internalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80}]}`))
	state, _, err := All(manifest.DeriveEndpointSlices(objs), "node-a", testLocal())
	require.NoError(t, err)
	require.Equal(t, []model.Backend{{Address: netip.MustParseAddr("10.0.0.2"), Port: 80}}, state.Services.At(0).Backends)
}

func TestHostPortsOfTheNodesOwnSockets(t *testing.T) {
	pod := func(name, addrs, ports string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: x}}\nspec: {nodeName: node-a, containers: [{name: c, ports: [" + ports + "]}]}\nstatus: {podIPs: [" + addrs + "]}"
	}
	both, one := `{ip: 10.0.0.2}, {ip: "fd00::2"}`, `{ip: 10.0.0.9}`
	for _, tt := range []struct {
		name string
		pods []string
		want []string
	}{
		{"at all addresses is at loopback too", []string{pod("a", both, "{containerPort: 8080, hostPort: 80}")}, []string{"127.0.0.1:80 tcp → 10.0.0.2:8080", "[::1]:80 tcp → [fd00::2]:8080"}},
		{"of a family", []string{pod("a", both, `{containerPort: 8080, hostPort: 80, hostIP: "::"}`)}, []string{"[::1]:80 tcp → [fd00::2]:8080"}},
		{"at loopback alone, beside one at another address", []string{
			pod("a", both, "{containerPort: 8080, hostPort: 80, hostIP: 127.0.0.1}"), pod("b", one, "{containerPort: 8081, hostPort: 80, hostIP: 172.18.0.2}")}, []string{"127.0.0.1:80 tcp → 10.0.0.2:8080"}},
		{"SCTP has none", []string{pod("a", both, "{containerPort: 80, hostPort: 80, protocol: SCTP}")}, nil},
		{"at an address of the node's is not", []string{pod("a", both, "{containerPort: 8080, hostPort: 80, hostIP: 172.18.0.2}")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state, _, err := All(mustParse(t, oneNodeYAML+strings.Join(tt.pods, "\n---\n")), "node-a", withUplink())
			require.NoError(t, err)
			var found []string
			for _, s := range state.Loopback {
				require.Equal(t, model.KindHostPort, s.Kind)
				found = append(found, fmt.Sprintf("%s %s → %s", netip.AddrPortFrom(s.Address, s.Port), s.Protocol, netip.AddrPortFrom(s.Backends[0].Address, s.Backends[0].Port)))
			}
			require.Equal(t, tt.want, found)
		})
	}
	_, warnings, err := All(mustParse(t, oneNodeYAML+pod("a", both, "{containerPort: 1, hostPort: 80, hostIP: 127.0.0.1}")+"\n---\n"+pod("b", one, "{containerPort: 1, hostPort: 80, hostIP: 127.0.0.1}")), "node-a", withUplink())
	require.NoError(t, err)
	require.Contains(t, strings.Join(texts(warnings), "\n"), "Pod default/b: spec.containers[0].ports[0].hostPort: 127.0.0.1:80 (tcp) is claimed by Pod default/a")
}

const oneNodeYAML = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: InternalIP, address: "fd18::2"}]}
---
`

func TestHostPorts(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, labels: {app: x}}\nspec: {nodeName: node-a, " + spec + "}\nstatus: {podIPs: [{ip: 10.0.0.2}], phase: Pending}"
	}
	none := strings.ReplaceAll(service(`{clusterIP: None, ports: []}`), "{name: web}", "{name: web}")
	tests := []struct {
		name, spec string
		want       []string
	}{
		{"at all addresses of the node, ready or not", `containers: [{name: c, ports: [{name: http, containerPort: 8080, hostPort: 80}]}]`, []string{
			"inside HostPort 172.18.0.2:80 tcp → 10.0.0.2:8080", "outside HostPort 172.18.0.2:80 tcp → 10.0.0.2:8080",
			"inside HostPort 203.0.113.2:80 tcp → 10.0.0.2:8080", "outside HostPort 203.0.113.2:80 tcp → 10.0.0.2:8080"}},
		{"at the address that it names", `containers: [{name: c, ports: [{containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 203.0.113.2}]}]`, []string{
			"inside HostPort 203.0.113.2:53 udp → 10.0.0.2:53", "outside HostPort 203.0.113.2:53 udp → 10.0.0.2:53"}},
		{"none at a stranger's address", `containers: [{name: c, ports: [{containerPort: 53, hostPort: 53, hostIP: 192.0.2.77}]}]`, nil},
		{"none at another node's", `containers: [{name: c, ports: [{containerPort: 53, hostPort: 53, hostIP: 172.18.0.3}]}]`, nil},
		{"none of the node's own ports", `containers: [{name: c, ports: [{containerPort: 10250, hostPort: 10250}]}]`, nil},
		{"none of SCTP that would change", `containers: [{name: c, ports: [{containerPort: 1, hostPort: 80, protocol: SCTP}]}]`, nil},
		{"none in a family that the pod has not", `containers: [{name: c, ports: [{containerPort: 53, hostPort: 53, hostIP: "::"}]}]`, nil},
		{"all of a family", `containers: [{name: c, ports: [{containerPort: 53, hostPort: 53, hostIP: 0.0.0.0, protocol: SCTP}]}]`, []string{
			"inside HostPort 172.18.0.2:53 sctp → 10.0.0.2:53", "outside HostPort 172.18.0.2:53 sctp → 10.0.0.2:53",
			"inside HostPort 203.0.113.2:53 sctp → 10.0.0.2:53", "outside HostPort 203.0.113.2:53 sctp → 10.0.0.2:53"}},
		{"of sidecars, not of what runs before", `containers: [], initContainers: [{name: a, ports: [{containerPort: 1, hostPort: 1}]}, {name: b, restartPolicy: Always, ports: [{containerPort: 2, hostPort: 2, hostIP: 172.18.0.2}]}]`, []string{
			"inside HostPort 172.18.0.2:2 tcp → 10.0.0.2:2", "outside HostPort 172.18.0.2:2 tcp → 10.0.0.2:2"}},
		{"at loopback for sockets alone", `containers: [{name: c, ports: [{containerPort: 53, hostPort: 53, hostIP: 127.0.0.1}]}]`, nil},
		{"a pod of the host's network has its ports already", `hostNetwork: true, containers: [{name: c, ports: [{containerPort: 53, hostPort: 53}]}]`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, frontsOf(t, withUplink(), none, pod(tt.spec)))
		})
	}
	far := strings.NewReplacer("node-a", "node-b", "10.0.0.2", "10.0.1.7").Replace(pod(`containers: [{name: c, ports: [{containerPort: 8080, hostPort: 80}]}]`))
	require.Empty(t, frontsOf(t, withUplink(), none, far), "another node's")
}

func TestOptionsChooseAddressesAndAlgorithm(t *testing.T) {
	local := testLocal()
	local.Options = model.Options{NodePortAddresses: prefixes("172.18.0.0/16"), Algorithm: model.AlgorithmMaglev, MaglevSize: 251}
	nodePort := service(`{type: NodePort, clusterIPs: [10.96.0.10, "fd96::10"], selector: {app: nobody}, ports: [{port: 80, nodePort: 30080}]}`)
	require.Equal(t, []string{
		"inside ClusterIP 10.96.0.10:80 tcp → maglev=251",
		"inside NodePort 172.18.0.2:30080 tcp → maglev=251",
		"inside ClusterIP [fd96::10]:80 tcp → maglev=251",
	}, frontsOf(t, local, nodePort))
	random := strings.Replace(nodePort, "{name: web}", "{name: web, annotations: {weir.net/algorithm: random}}", 1)
	require.NotContains(t, strings.Join(frontsOf(t, local, random), "\n"), "maglev")
}

func TestMasquerading(t *testing.T) {
	local := withUplink()
	local.Options = model.Options{Masquerade: true, MasqueradeExcluded: prefixes("198.51.100.0/24", "192.0.2.0/24", "::/0"), LastPort: 50000}
	policy := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: 198.51.100.128/25}}, {ipBlock: {cidr: 192.0.0.0/8}}]}]}"
	objs := overlay(t, frontsYAML+"\n---\n"+policy)
	objs.Nodes["node-b"].Spec.PodCIDRs = []string{"10.0.1.0/24"}
	objs.Nodes["node-a"].Spec.PodCIDRs = []string{"10.0.0.0/24"}
	state, _, err := All(objs, "node-a", local)
	require.NoError(t, err)
	require.Equal(t, &model.Masquerade{IPv4: netip.MustParseAddr("172.18.0.2"), IPv6: netip.MustParseAddr("fd18::2"), FirstPort: 32768, LastPort: 50000, NodePorts: 2154}, state.Node.Masquerade)
	require.Equal(t, local.Uplinks, state.Node.Uplinks)

	known := map[string]model.Address{}
	for a := range state.Addresses.All() {
		known[a.Prefix.String()] = *a
		if a.Prefix.IsSingleIP() {
			require.True(t, a.Native, "%s is a pod's or a node's", a.Prefix)
		}
	}
	native := func(prefix string) bool {
		require.Contains(t, known, prefix)
		return known[prefix].Native
	}
	require.True(t, native("10.0.1.0/24"), "the pods of another node")
	require.NotContains(t, known, "10.0.0.0/24", "its own pods are known")
	require.True(t, native("198.51.100.0/24"), "excluded")
	require.Equal(t, model.IdentityWorld, known["198.51.100.0/24"].Identity)
	require.True(t, native("198.51.100.128/25"), "a policy's block inherits what is excluded")
	require.False(t, native("192.0.0.0/8"), "a policy's block alone")
	require.Equal(t, known["192.0.0.0/8"].Identity, known["192.0.2.0/24"].Identity, "what is excluded inherits a policy's block")
	require.False(t, native("0.0.0.0/0"), "::/0 never stands for IPv4")

	local.Options.Masquerade = false
	plain, _, err := All(objs, "node-a", local)
	require.NoError(t, err)
	require.Equal(t, state.Node.Masquerade, plain.Node.Masquerade, "flows to node ports are lent an address all the same")
	for a := range plain.Addresses.All() {
		require.True(t, a.Native, "pods keep their source towards %s", a.Prefix)
	}
	require.Contains(t, plain.Addresses.Slice(), model.Address{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Identity: model.IdentityWorld, Native: true})

	local.Options.Masquerade, local.Uplinks = true, nil
	without, warnings, err := All(objs, "node-a", local)
	require.NoError(t, err)
	require.Nil(t, without.Node.Masquerade)
	require.Contains(t, texts(warnings), "Options: masquerade: is on, and node node-a has no uplink: nothing is masqueraded until it has one")
}

func TestFrontendsThatAreClaimedTwice(t *testing.T) {
	svc := func(name, spec string, rest ...string) string {
		return strings.Replace(service(spec, rest...), "{name: web}", "{name: "+name+"}", 1)
	}
	pod := func(name, ip, ports string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {nodeName: node-a, containers: [{name: c, ports: [%s]}]}\nstatus: {podIP: %s}", name, ports, ip)
	}
	nodePort := svc("a", `{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}`)
	balanced := svc("a", `{type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]}`, `status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}`)
	checked := svc("a", `{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080, clusterIP: 10.96.0.1, ports: [{port: 80}]}`)
	tests := []struct {
		name string
		text []string
		want string // lost, "" for nothing
	}{
		{"a node port of two services", []string{nodePort, svc("b", `{type: NodePort, clusterIPs: ["fd96::1"], ports: [{port: 90, nodePort: 30080}]}`)},
			"Service default/b: spec.ports[0].nodePort: 30080 (tcp) is claimed by Service default/a, spec.ports[0].nodePort, which comes first: give one of them another"},
		{"a node port of two protocols", []string{nodePort, svc("b", `{type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 90, nodePort: 30080, protocol: UDP}]}`)}, ""},
		{"a node port that is a health check's", []string{checked, svc("b", `{type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 90, nodePort: 30080}]}`)},
			"Service default/b: spec.ports[0].nodePort: 30080 (tcp) is claimed by Service default/a, spec.healthCheckNodePort, which comes first"},
		{"a host port that is a node port", []string{nodePort, pod("p", "10.0.0.7", "{containerPort: 1, hostPort: 30080}")},
			"Pod default/p: spec.containers[0].ports[0].hostPort: 172.18.0.2:30080 (tcp) is claimed by Service default/a, spec.ports[0].nodePort, which comes first"},
		{"a host port of two pods", []string{pod("p", "10.0.0.7", "{containerPort: 1, hostPort: 80}"), pod("q", "10.0.0.8", "{containerPort: 2, hostPort: 80, hostIP: 203.0.113.2}")},
			"Pod default/q: spec.containers[0].ports[0].hostPort: 203.0.113.2:80 (tcp) is claimed by Pod default/p, spec.containers[0].ports[0].hostPort, which comes first"},
		{"a host port of two pods at two addresses", []string{pod("p", "10.0.0.7", "{containerPort: 1, hostPort: 80, hostIP: 172.18.0.2}"), pod("q", "10.0.0.8", "{containerPort: 2, hostPort: 80, hostIP: 203.0.113.2}")}, ""},
		{"an external address and port of two services", []string{svc("a", `{clusterIP: 10.96.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}`), svc("b", `{clusterIP: 10.96.0.2, externalIPs: [192.0.2.1], ports: [{port: 80}]}`)},
			"Service default/b: spec.externalIPs[0]: 192.0.2.1:80 (tcp) is claimed by Service default/a, spec.externalIPs[0], which comes first"},
		{"an external address of two services at two ports", []string{svc("a", `{clusterIP: 10.96.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}`), svc("b", `{clusterIP: 10.96.0.2, externalIPs: [192.0.2.1], ports: [{port: 81}]}`)}, ""},
		{"a load balancer's address of two services", []string{balanced, svc("b", `{clusterIP: 10.96.0.2, externalIPs: [203.0.113.9], ports: [{port: 80}]}`)},
			"Service default/b: spec.externalIPs[0]: 203.0.113.9:80 (tcp) is claimed by Service default/a, status.loadBalancer.ingress[0].ip, which comes first"},
		{"an external address that is another's cluster address", []string{svc("a", `{clusterIP: 10.96.0.1, ports: [{port: 80}]}`), svc("b", `{clusterIP: 10.96.0.2, externalIPs: [10.96.0.1], ports: [{port: 80}]}`)},
			"Service default/b: spec.externalIPs[0]: 10.96.0.1 is the address of Service default/a, which comes first"},
		{"an external address that is a pod's", []string{svc("a", `{clusterIP: 10.96.0.1, externalIPs: [10.0.0.2], ports: [{port: 80}]}`)},
			"Service default/a: spec.externalIPs[0]: 10.0.0.2 is the address of Pod default/web-0, which comes first: give one of them another"},
		{"an external address that is the gateway's", []string{svc("a", `{clusterIP: 10.96.0.1, externalIPs: [10.0.0.254], ports: [{port: 80}]}`)},
			"Service default/a: spec.externalIPs[0]: 10.0.0.254 is the address of the pods' gateway, which comes first"},
		{"a host port of SCTP that would change", []string{pod("p", "10.0.0.7", "{containerPort: 1, hostPort: 80, protocol: SCTP}")},
			"Pod default/p: spec.containers[0].ports[0].hostPort: 80 would change the port of SCTP"},
		{"a host port at what is no address", []string{pod("p", "10.0.0.7", "{containerPort: 1, hostPort: 80, hostIP: eth0}")},
			`Pod default/p: spec.containers[0].ports[0].hostIP: "eth0" is not an IP address: name one of [`},
		{"a host port at an address of many", []string{pod("p", "10.0.0.7", "{containerPort: 1, hostPort: 80, hostIP: 224.0.0.1}")},
			"Pod default/p: spec.containers[0].ports[0].hostIP: 224.0.0.1 is no address of the pod's node node-a"},
		{"a balancer's address that no host has", []string{strings.Replace(svc("a", `{type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 81}]}`), "\nspec", "\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.9}, {ip: 127.0.0.1}]}}\nspec", 1)},
			"Service default/a: status.loadBalancer.ingress[1].ip: 127.0.0.1 is not the address of a host that others reach: have whoever gave it"},
		{"a balancer's address of a service that is none", []string{strings.Replace(svc("a", `{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}`), "\nspec", "\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}\nspec", 1)},
			"Service default/a: status.loadBalancer.ingress: has a meaning for type LoadBalancer alone: remove it, or make the service one"},
		{"an external address of many", []string{svc("a", `{clusterIP: 10.96.0.1, externalIPs: [239.1.1.1], ports: [{port: 80}]}`)},
			"Service default/a: spec.externalIPs[0]: 239.1.1.1 is not the address of a host that others reach"},
		{"a backend of many", []string{svc("a", `{clusterIP: 10.96.0.1, ports: [{port: 80}]}`), "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, namespace: default, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: [{addresses: [239.1.1.1]}]\nports: [{port: 80}]"},
			"EndpointSlice default/a: endpoints[0].addresses[0]: 239.1.1.1 is not the address of a host that others reach: give a unicast address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objs := overlay(t, clusterYAML+"\n---\n"+strings.Join(tt.text, "\n---\n"))
			objs.Nodes["node-a"] = overlay(t, frontsYAML).Nodes["node-a"]
			_, warnings, err := All(manifest.DeriveEndpointSlices(objs), "node-a", withUplink())
			require.NoError(t, err)
			var lost []string
			for _, w := range warnings {
				if w.Lost || w.Ignored {
					lost = append(lost, w.String())
				}
			}
			if tt.want == "" {
				require.Empty(t, lost)
				return
			}
			require.Len(t, lost, 1, "it is said once")
			require.Contains(t, lost[0], tt.want)
		})
	}
}

func TestFrontendsThatCannotBeMade(t *testing.T) {
	svc := func(name, spec string) string {
		return strings.Replace(service(spec), "{name: web}", "{name: "+name+"}", 1)
	}
	for _, tt := range []struct {
		name string
		text []string
		want string
	}{
		{"a node port that is missing", []string{svc("a", `{type: NodePort, clusterIPs: [10.96.0.1, "fd96::1"], ports: [{port: 80}]}`)},
			"Service default/a: spec.ports[0].nodePort: is empty: give the port a number in 30000–32767"},
		{"SCTP that a named port would change", []string{svc("a", `{clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http, protocol: SCTP}]}`),
			"apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, labels: {app: web}}\nspec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 8080, protocol: SCTP}]}]}\nstatus: {podIP: 10.0.0.3}"},
			"Service default/a: spec.ports[0].targetPort: 10.0.0.3:8080 would change the port of SCTP, which is not supported: let the backend listen on 80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objs := overlay(t, clusterYAML+"\n---\n"+strings.Join(tt.text, "\n---\n"))
			_, _, err := All(manifest.DeriveEndpointSlices(objs), "node-a", withUplink())
			require.ErrorContains(t, err, tt.want)
			require.Len(t, err.(interface{ Unwrap() []error }).Unwrap(), 1, "it is said once: %v", err)
		})
	}
}

func TestBackendsFitIntoAMaglevTable(t *testing.T) {
	local := testLocal()
	local.Options = model.Options{Algorithm: model.AlgorithmMaglev, MaglevSize: 2}
	objs := overlay(t, frontsYAML)
	_, _, err := All(manifest.DeriveEndpointSlices(objs), "node-a", local)
	require.ErrorContains(t, err, "Service default/web: spec.ports[0].port: its 3 backends do not fit into a Maglev table of 2: set a greater maglevSize, or the annotation weir.net/algorithm: random")
	local.Options.MaglevSize = 3
	_, _, err = All(manifest.DeriveEndpointSlices(objs), "node-a", local)
	require.NoError(t, err)
}

func TestFrontendsWarn(t *testing.T) {
	local := testLocal()
	local.Options.NodePortAddresses = prefixes("192.0.2.0/24")
	tests := []struct{ name, text, want string }{
		{"a node port out of the usual range", service(`{type: NodePort, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, nodePort: 8080}]}`), "Service default/web: spec.ports[0].nodePort: 8080 is not in 30000–32767, where the API server keeps node ports"},
		{"no address for node ports", service(`{clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}`), "Options: nodePortAddresses: [192.0.2.0/24] hold no address of node node-a: nobody answers on its node ports until one does"},
		{"an address twice", service(`{clusterIP: 10.96.0.10, externalIPs: [192.0.2.1, 192.0.2.1], selector: {app: web}, ports: [{port: 80}]}`), "Service default/web: spec.externalIPs[1]: 192.0.2.1:80 (tcp) is what spec.externalIPs[0] says already: remove one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := All(manifest.DeriveEndpointSlices(overlay(t, clusterYAML+"\n---\n"+tt.text)), "node-a", local)
			require.NoError(t, err)
			require.Contains(t, strings.Join(texts(warnings), "\n"), tt.want)
		})
	}
}

func TestAffinityIsASpanOfTime(t *testing.T) {
	state, _, err := All(overlay(t, service(`{sessionAffinity: ClientIP, clusterIP: 10.96.0.10, ports: [{port: 80}]}`)), "node-a", testLocal())
	require.NoError(t, err)
	require.Equal(t, 10800*time.Second, state.Services.At(0).Affinity)
}
