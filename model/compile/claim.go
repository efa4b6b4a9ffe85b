// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// rank orders what may be claimed of one address and port: the least holds.
type rank int

const (
	rankNode rank = iota // sockets of nodes that the cluster relies on
	rankClusterIP
	rankNodePort
	rankLoadBalancer
	rankHostPort
	rankExternalIP
)

// frontendKey is where a frontend is, whatever the scope. The zero Addr is every
// address of every node: a node port is one in the whole cluster.
type frontendKey struct {
	at       netip.AddrPort
	protocol model.Protocol
}

// claim is whose a frontend is.
type claim struct {
	owner owner
	index int // of the service's port: it may say so in several ways
	field string
	rank  rank
}

// bid is a claim that is still to be held against others.
type bid struct {
	rank     rank
	object   metav1.Object
	index    int
	field    string
	at       netip.AddrPort
	protocol model.Protocol
	make     func()      // the frontends, if the claim holds
	turn     int         // of the object's bids
	where    frontendKey // the place in which it meets others
}

// settle has the better claims first: of one rank those of the older object,
// then of the one whose name sorts first.
func (c *compiler) settle() {
	c.claims = make(map[frontendKey]claim, len(c.bids))
	c.frontends = make([]model.Service, 0, len(c.bids))
	c.claimSockets()
	slices.SortStableFunc(c.bids, compareBids)
	for i := range c.bids {
		if c.claim(&c.bids[i]) {
			c.bids[i].make()
		}
	}
}

// compareBids orders the better claims first; those of one object and rank are
// equal.
func compareBids(a, b bid) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), compareClaims(a.object, b.object), cmp.Compare(manifest.KindOf(a.object), manifest.KindOf(b.object)))
}

// bid notes a claim, to be settled when all are known.
func (c *compiler) bid(b bid) { c.bids = append(c.bids, b) }

// claimSockets keeps everybody off the node's own sockets that the cluster
// relies on: kubelets, the API's servers, and the ports that the operator
// reserves.
func (c *compiler) claimSockets() {
	for _, port := range c.local.Options.PortsReserved() {
		hold(c.claims, netip.Addr{}, int32(port), owner{what: "the nodes"})
	}
	for addr, node := range c.nodesByAddress() {
		c.holdKubelet(c.claims, addr, node)
	}
	for _, addr := range c.apiAddresses() {
		c.holdServers(c.claims, addr)
	}
}

func hold(claims map[frontendKey]claim, addr netip.Addr, port int32, who owner) {
	if port > 0 {
		claims[frontendKey{netip.AddrPortFrom(addr, uint16(port)), model.ProtocolTCP}] = claim{owner: who, index: -1}
	}
}

func (c *compiler) holdKubelet(claims map[frontendKey]claim, addr netip.Addr, node *corev1.Node) {
	hold(claims, addr, node.Status.DaemonEndpoints.KubeletEndpoint.Port, owner{"the kubelet of", manifest.RefOf(node)})
}

func (c *compiler) holdServers(claims map[frontendKey]claim, addr netip.Addr) {
	for _, port := range c.apiSlice().Ports {
		hold(claims, addr, ptr.Deref(port.Port, 0), owner{what: "the cluster's API server"})
	}
}

// apiService is the key of the API's service, and of the slice that lists its servers.
const apiService = metav1.NamespaceDefault + "/kubernetes"

// apiSlice lists the API's servers; nil: nobody does. Others may write slices of
// its service; only the one of this name is the API server's own.
func (c *compiler) apiSlice() *discoveryv1.EndpointSlice {
	return c.objs.EndpointSlices[apiService]
}

// apiAddresses are those of the API's servers that are no pods.
func (c *compiler) apiAddresses() []netip.Addr {
	servers := c.apiSlice()
	if servers == nil {
		return nil
	}
	return slices.DeleteFunc(addressesOf(servers), func(addr netip.Addr) bool { return c.podAt[addr] != nil })
}

func (c *compiler) nodesByAddress() map[netip.Addr]*corev1.Node {
	nodes := map[netip.Addr]*corev1.Node{}
	for addr, node := range c.nodeAt {
		nodes[addr] = node
	}
	if self := c.objs.Nodes[c.node]; self != nil {
		for _, addr := range c.self.Addresses {
			nodes[addr] = self
		}
	}
	return nodes
}

// isOfNode is whether an address is a node's, where all claims of a port alone
// are.
func (c *compiler) isOfNode(addr netip.Addr) bool {
	return addr.IsLoopback() || c.nodeAt[addr] != nil || slices.Contains(c.self.Addresses, addr)
}

// taken gives who holds a place already.
func (c *compiler) taken(b *bid) (claim, bool) {
	if first, found := c.claims[frontendKey{b.at, b.protocol}]; found {
		return first, true
	}
	if !b.at.Addr().IsValid() || !c.isOfNode(b.at.Addr()) {
		return claim{}, false
	}
	first, found := c.claims[frontendKey{netip.AddrPortFrom(netip.Addr{}, b.at.Port()), b.protocol}]
	return first, found && (first.owner != ownerOf(b.object) || first.index != b.index)
}

// claim records whose a frontend is. It tells the object that loses it; when
// the same port of the same service has it already, one is enough.
func (c *compiler) claim(b *bid) bool {
	mine := claim{ownerOf(b.object), b.index, b.field, b.rank}
	first, taken := c.taken(b)
	if !taken {
		c.claims[frontendKey{b.at, b.protocol}] = mine
		return true
	}
	place := fmt.Sprintf("%s (%s)", b.at, b.protocol)
	if !b.at.Addr().IsValid() {
		place = fmt.Sprintf("%d (%s)", b.at.Port(), b.protocol)
	}
	switch {
	case first.field == "":
		c.loseOnce(b.object, b.field, "%s is a port of %s, which nothing takes: give it another", place, first.owner)
	case b.rank == rankHostPort && first.rank == rankLoadBalancer:
		// So balancers are made that are pods with host ports.
		c.ignore(b.object, b.field, "%s is led by %s, %s, already, which comes first", place, first.owner, first.field)
	case first.owner != mine.owner || first.index != b.index:
		c.loseOnce(b.object, b.field, "%s is claimed by %s, %s, which comes first: give one of them another", place, first.owner, first.field)
	case first.field != b.field:
		c.warn(b.object, b.field, "%s is what %s says already: remove one", place, first.field)
	default:
		return !b.at.Addr().IsValid() // the number itself, in another family
	}
	return false
}

// mayLead refuses an address that is wholly somebody's: a pod's, a gateway's, or
// another service's ClusterIP. What is sent there would reach its owner no more.
//
// A pod whose address its node's podCIDRs do not hold is no obstacle to a load
// balancer, but to external addresses, which are believed even less; and so is a
// workload.
func (c *compiler) mayLead(obj metav1.Object, rank rank, field string, addr netip.Addr) bool {
	var owner owner
	switch svc := c.clusterAt[addr]; {
	case c.podAt[addr] != nil && (rank == rankExternalIP || !c.doubted[addr]):
		owner = ownerOf(c.podAt[addr])
	case c.workloadAt[addr] != nil && rank == rankExternalIP:
		owner = ownerOf(c.workloadAt[addr])
	case slices.Contains(c.self.Gateways, addr):
		owner = c.owners[addr]
	case svc != nil && manifest.RefOf(svc) != manifest.RefOf(obj):
		owner = ownerOf(svc)
	default:
		return true
	}
	c.loseOnce(obj, field, "%s is the address of %s, which comes first: give one of them another", addr, owner)
	return false
}

// mayBeExternal refuses external addresses that the operator does not allow.
// Whoever may write a Service may name any, so those of nodes are allowed by
// name alone.
func (c *compiler) mayBeExternal(obj metav1.Object, field string, addr netip.Addr) bool {
	allowed := &c.local.Options.ExternalIPs
	switch node := c.nodeAt[addr]; {
	case !allowed.Allows(addr):
		c.loseOnce(obj, field, "%s is no external address that the operator allows, who says %s: ask for it, or use another", addr, allowed)
	case allowed.Only != nil:
		return true
	case node != nil:
		c.loseOnce(obj, field, "%s is the address of %s, which comes first: use a load balancer or a node port, or ask the operator to allow it by name", addr, manifest.RefOf(node))
	case c.vouched[addr]:
		c.loseOnce(obj, field, "%s is the address of Node %s, which comes first: use a load balancer or a node port, or ask the operator to allow it by name", addr, c.node)
	default:
		return true
	}
	return false
}
