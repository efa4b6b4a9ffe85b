// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
	"github.com/weirnet/weir/scenarios/syntax"
)

// parseNodes reads steps of a scenario with two nodes that have uplinks.
func parseNodes(t testing.TB, steps string) *Scenario {
	s, err := Parse("test.txtar", []byte("# A test.\nworlds prog\nfamilies ipv4\ntopology two-nodes\nuplink\n"+steps))
	require.NoError(t, err)
	return s
}

func serviceFile(name, service, spec string) string {
	return "-- " + name + " --\napiVersion: v1\nkind: Service\nmetadata:\n  name: " + service + "\nspec:\n  selector:\n    app: web\n" + spec
}

func TestServicesAreGivenWhatControllersGive(t *testing.T) {
	s := parseNodes(t, "route lb(b.default) via node-2\napply one.yaml\nupdate two.yaml\napply three.yaml\nping client -> web-2\n"+
		serviceFile("one.yaml", "a", "  type: LoadBalancer\n  ports:\n  - name: one\n    port: 80\n  - name: two\n    port: 81\n")+
		serviceFile("two.yaml", "a", "  type: LoadBalancer\n  ports:\n  - name: two\n    port: 81\n")+
		serviceFile("three.yaml", "b", "  type: LoadBalancer\n  allocateLoadBalancerNodePorts: false\n  ports:\n  - port: 80\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: c\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    nodePort: 30000\n"))
	ports := func(file, name string) []int32 {
		var out []int32
		for _, p := range s.attached[file].Services["default/"+name].Spec.Ports {
			out = append(out, p.NodePort)
		}
		return out
	}
	require.Equal(t, []int32{30001, 30002}, ports("one.yaml", "a"), "30000 is another's")
	require.Equal(t, []int32{30002}, ports("two.yaml", "a"), "a service keeps what it was given")
	require.Equal(t, []int32{0}, ports("three.yaml", "b"))
	balancer := func(file, name string) []corev1.LoadBalancerIngress {
		return s.attached[file].Services["default/"+name].Status.LoadBalancer.Ingress
	}
	require.Equal(t, balancer("one.yaml", "a"), balancer("two.yaml", "a"))
	require.Equal(t, []corev1.LoadBalancerIngress{{IP: "198.51.100.11"}, {IP: "fd51:a:0:c:0:c:0:20"}}, balancer("three.yaml", "b"))
	require.Empty(t, balancer("three.yaml", "c"))
	require.Equal(t, []lab.Route{{To: netip.MustParseAddr("198.51.100.11"), Node: "node-2"}}, s.topology.Routes)
}

func TestPodsHaveAddressesOfTheirNodes(t *testing.T) {
	s := parseNodes(t, "ping client -> web-2\n")
	for _, h := range s.topology.Pods {
		n := s.topology.NodeOf(h)
		for i, block := range PodBlocks(n) {
			require.True(t, block.Contains(h.Addresses[i]), "%s has %s", h.Name, h.Addresses[i])
			require.Equal(t, block.String(), s.objects.Nodes[s.topology.Nodes[n].Name].Spec.PodCIDRs[i])
		}
		require.Equal(t, s.topology.Nodes[n].Name, s.objects.Pods[h.Name].Spec.NodeName)
	}
}

// differ gives in which words two addresses differ.
func differ(a, b netip.Addr) (words []int) {
	x, y := a.As16(), b.As16()
	for word := range 4 {
		if !bytes.Equal(x[4*word:4*word+4], y[4*word:4*word+4]) {
			words = append(words, word)
		}
	}
	return words
}

func TestAddressesDifferInOneWord(t *testing.T) {
	first := PodAddresses(0, 0)[1]
	for i, words := range [][]int{1: {1}, 2: {2}, 3: {3}, 4: {0}} {
		require.Equal(t, words, differ(first, PodAddresses(i, 0)[1]), "pod %d", i)
	}
	require.Equal(t, []int{0}, differ(first, PodAddresses(0, 1)[1]), "the first pod of the next node")
	require.Equal(t, []int{0}, differ(first, servicePlan(0)[1]), "the first service")
	seen := map[netip.Addr]bool{}
	for i := range 100 {
		for n := range 3 {
			for j, a := range PodAddresses(i, n) {
				require.False(t, seen[a], "%s is of two pods", a)
				require.True(t, PodBlocks(n)[j].Contains(a))
				seen[a] = true
			}
		}
	}
}

func TestARouteOfAServiceWithoutBalancerIsRefused(t *testing.T) {
	_, err := Parse("x.txtar", []byte("# A test.\nworlds prog\ntopology two-nodes\nroute lb(a.default) via node\napply a.yaml\n"+
		serviceFile("a.yaml", "a", "  ports:\n  - port: 80\n")))
	require.ErrorContains(t, err, "x.txtar:4: route: lb(a.default) has no ipv4 address")
}

// TestEachNodeIsJudgedByItself misleads the oracle of one node, and sees that
// this node's hooks are disagreed about and no others.
func TestEachNodeIsJudgedByItself(t *testing.T) {
	requireRoot(t)
	for node, want := range map[int]string{0: "from-container of default/client", 1: "to-container of default/web-2"} {
		s := parseNodes(t, "ping client -> web-2\n")
		var disagreed []Disagreement
		pool, err := newProgPool(1, datapath.Options{}).get()
		require.NoError(t, err)
		require.NoError(t, pool.Use(context.Background(), s.topology, func(w *prog.World) {
			p := newPlay(s, syntax.IPv4, syntax.Prog, w)
			if err = p.compile(context.Background()); err != nil {
				return
			}
			var deny *Scenario
			if deny, err = Parse("deny.txtar", []byte("worlds prog\ntopology two-pods\napply deny.yaml\nping client -> web\n"+denyBoth)); err != nil {
				return
			}
			objs := p.objects.Clone()
			objs.Merge(deny.attached["deny.yaml"])
			p.judge.benches[node].oracle.SetObjects(objs)
			p.step(context.Background(), &p.Steps[0])
			disagreed = p.judge.disagreed
		}))
		pool.Close()
		require.NoError(t, err)
		require.NotEmpty(t, disagreed)
		require.Equal(t, want, disagreed[0].Where.String())
		for _, d := range disagreed {
			require.Equal(t, node == 1, strings.Contains(d.Where.String(), "2"), "%s", d)
		}
	}
}

const denyBoth = `
-- deny.yaml --
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: deny
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
`

func TestExchangesAreFollowedFromHookToHook(t *testing.T) {
	s := parseNodes(t, "route 198.51.100.9 via node-2\nping client -> web-2\n")
	p := newPlay(s, syntax.IPv4, syntax.Netns, &paper{topology: s.topology})
	address := func(name string) netip.Addr {
		a, err := p.address(name, syntax.IPv4)
		require.NoError(t, err)
		return a
	}
	first := map[[2]string]string{
		{"client", "web-2"}:          "from-container of default/client on node",
		{"web-2", "client"}:          "from-container of default/web-2 on node-2",
		{"node", "web-1"}:            "to-container of default/web-1 on node",
		{"node", "web-2"}:            "to-device of node on node",
		{"node-2", "internet"}:       "to-device of node-2 on node-2",
		{"node", "node"}:             "",
		{"internet", "node-2"}:       "from-device of node-2 on node-2",
		{"internet", "web-2"}:        "from-device of node-2 on node-2",
		{"internet", "198.51.100.9"}: "from-device of node-2 on node-2",
		{"internet", "198.51.100.8"}: "from-device of node on node",
		{"internet", "internet"}:     "",
	}
	for pair, want := range first {
		packet, err := opening(model.Tuple{Src: address(pair[0]), Dst: address(pair[1]), Protocol: model.ProtocolTCP})
		require.NoError(t, err)
		at, met := p.firstHook(pair[0], packet)
		require.Equal(t, want != "", met, "%v", pair)
		if met {
			require.Equal(t, want, at.where.String()+" on "+at.node, "%v", pair)
		}
	}
	at := place{node: "node", where: model.Where{Hook: model.FromContainer, Endpoint: "default/client"}}
	crossing := oracle.Translation{Tuple: model.Tuple{Src: address("client"), Dst: address("web-2"), Protocol: model.ProtocolTCP}, Out: model.OutDevice}
	at, met := p.nextHook(at, crossing)
	require.True(t, met)
	require.Equal(t, "from-device of node-2 on node-2", at.where.String()+" on "+at.node)
	crossing.Out = model.OutHost
	at, met = p.nextHook(at, crossing)
	require.True(t, met)
	require.Equal(t, "to-container of default/web-2 on node-2", at.where.String()+" on "+at.node)
	require.True(t, at.ledOn)
	crossing.Out = model.OutLocal
	_, met = p.nextHook(at, crossing)
	require.False(t, met)
}
