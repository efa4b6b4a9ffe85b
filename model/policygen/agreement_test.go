// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// seedOf gives the seed of TEST_SEED, or one by chance, and says which: whatever
// fails can be run again.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := number(t, "TEST_SEED", uint64(rand.Uint32()))
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// number gives what an environment variable says.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// The compiler and the oracle share no logic, so where they agree on every
// pair, port and protocol of random policies in all languages, both are right
// or wrong in the same way.
func TestCompiledPoliciesAgreeWithTheOracle(t *testing.T) {
	seed := seedOf(t)
	var seen tally
	rounds := number(t, "TEST_ROUNDS", 200)
	for round := range rounds {
		options := Options{Nodes: 1 + int(round%3), MaxPods: 7, MaxPolicies: 6, OneFamily: round%4 > 1}
		objs := Cluster(rand.New(rand.NewPCG(seed, round)), options)
		if round/3%2 == 0 { // with one node, two and three
			ofNodes(rand.New(rand.NewPCG(seed+2, round)), objs)
		}
		if round%2 == 0 {
			audit(rand.New(rand.NewPCG(seed+1, round)), objs)
		}
		if round%4 < 3 {
			refuse(rand.New(rand.NewPCG(seed+3, round)), objs)
		}
		problem, err := compare(objs, &seen)
		require.NoError(t, err, "TEST_SEED=%d round %d", seed, round)
		if problem != "" {
			objs = Shrink(objs, func(o *manifest.Objects) bool {
				problem, err := compare(o, &tally{})
				return err == nil && problem != ""
			})
			problem, _ = compare(objs, &tally{})
			require.Fail(t, "compiler and oracle disagree", "TEST_SEED=%d round %d: %s\n%s", seed, round, problem, Text(objs))
		}
	}
	t.Logf("%d clusters, %+v", rounds, seen)
	require.Greater(t, seen.allowed, int(rounds)*100)
	require.Greater(t, seen.denied, int(rounds)*100)
	require.Greater(t, seen.byRule, int(rounds)*10, "denials by a rule")
	require.Greater(t, seen.audited, int(rounds)*10, "denials that are only told")
	require.Greater(t, seen.refused, int(rounds)*50, "denials of which the sender is told")
	require.Greater(t, seen.ofNodes, int(rounds)*100)
}

type tally struct{ allowed, denied, byRule, audited, refused, ofNodes int }

// ofNodes has some clusterwide policies of Cilium's select nodes.
func ofNodes(r *rand.Rand, objs *manifest.Objects) {
	for _, name := range slices.Sorted(maps.Keys(objs.CiliumClusterwideNetworkPolicies)) {
		policy := objs.CiliumClusterwideNetworkPolicies[name]
		specs := policy.Specs
		if policy.Spec != nil {
			specs = []*manifest.CiliumRule{policy.Spec}
		}
		for _, spec := range specs {
			spec.EndpointSelector, spec.NodeSelector = nil, &metav1.LabelSelector{}
			if r.IntN(2) == 0 {
				spec.NodeSelector.MatchLabels = map[string]string{"zone": []string{"a", "b"}[r.IntN(2)]}
			}
		}
	}
}

// audit has some denials only told.
func audit(r *rand.Rand, objs *manifest.Objects) {
	mark := func(object metav1.Object) {
		if r.IntN(4) == 0 {
			object.SetAnnotations(map[string]string{manifest.AnnotationAudit: []string{"true", "true", "false"}[r.IntN(3)]})
		}
	}
	markAll(mark, objs.NetworkPolicies)
	markAll(mark, objs.ClusterNetworkPolicies)
	markAll(mark, objs.CiliumNetworkPolicies)
	markAll(mark, objs.CiliumClusterwideNetworkPolicies)
	if r.IntN(2) == 0 {
		markAll(mark, objs.Pods)
		markAll(mark, objs.Namespaces)
	}
}

// refuse has some policies say what the packets get that they deny.
func refuse(r *rand.Rand, objs *manifest.Objects) {
	mark := func(object metav1.Object) {
		annotations := maps.Clone(object.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		for _, key := range []string{manifest.AnnotationDeniedIngress, manifest.AnnotationDeniedEgress} {
			if word := []string{"", "drop", "refuse", "refuse", "refuse"}[r.IntN(5)]; word != "" {
				annotations[key] = word
			}
		}
		object.SetAnnotations(annotations)
	}
	markAll(mark, objs.NetworkPolicies)
	markAll(mark, objs.ClusterNetworkPolicies)
	markAll(mark, objs.CiliumNetworkPolicies)
	markAll(mark, objs.CiliumClusterwideNetworkPolicies)
}

func markAll[T metav1.Object](mark func(metav1.Object), objs map[string]T) {
	for _, name := range slices.Sorted(maps.Keys(objs)) {
		mark(objs[name])
	}
}

// compare gives the first question on which the two disagree.
func compare(objs *manifest.Objects, seen *tally) (string, error) {
	local := model.Local{Devices: map[model.Key]model.Device{}}
	for name := range objs.Pods {
		local.Devices[model.ParseKey(name)] = model.Device{Name: "veth"}
	}
	explainer := oracle.NewExplainer(objs)
	for node := range objs.Nodes {
		state, _, err := compile.All(objs, node, local)
		if err != nil {
			return "", err
		}
		if state.Node.RuleSet != "" {
			self := model.Endpoint{Name: model.Key{Name: node}, RuleSet: state.Node.RuleSet}
			if problem := compareEndpoint(state, explainer, self, seen); problem != "" {
				return "of node " + node + ": " + problem, nil
			}
		}
		for _, endpoint := range state.Endpoints {
			if problem := compareEndpoint(state, explainer, endpoint, seen); problem != "" {
				return problem, nil
			}
		}
	}
	return "", nil
}

func compareEndpoint(state *model.State, explainer *oracle.Explainer, endpoint model.Endpoint, seen *tally) string {
	peers := slices.Clone(Outside)
	for a := range state.Addresses.All() {
		if a.Prefix.IsSingleIP() {
			peers = append(peers, a.Prefix.Addr().String())
		}
	}
	for _, peer := range peers {
		own := endpoint.IPv4
		if netip.MustParseAddr(peer).Is6() {
			own = endpoint.IPv6
		}
		if !own.IsValid() && endpoint.Name != (model.Key{Name: state.Node.Name}) {
			continue // a pod without addresses of a family has no such peers
		}
		for _, direction := range []model.Direction{model.Ingress, model.Egress} {
			from, to := peer, endpoint.Name.String()
			if direction == model.Egress {
				from, to = to, from
			}
			for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP, echo(peer)} {
				for _, port := range portsOf(protocol, endpoint) {
					decision, err := explainer.Explain(from, to, port, protocol)
					if err != nil {
						return err.Error()
					}
					for _, ruling := range decision.Rulings {
						if ruling.Subject != endpoint.Name || ruling.Direction != direction {
							continue
						}
						asked := port + uint16(echoTypes[protocol])
						if problem := disagreement(ruling, lookUp(state, endpoint, direction, netip.MustParseAddr(peer), protocol, asked), seen); problem != "" {
							return fmt.Sprintf("%s port %d: %s", protocol, port, problem)
						}
					}
				}
			}
		}
	}
	return ""
}

// echoTypes are what the table has in the place of the port.
var echoTypes = map[model.Protocol]uint8{model.ProtocolICMP: 8, model.ProtocolICMPv6: 128}

// echo is the protocol by which an address is pinged.
func echo(peer string) model.Protocol {
	if netip.MustParseAddr(peer).Is4() {
		return model.ProtocolICMP
	}
	return model.ProtocolICMPv6
}

// portsOf are those to ask for. An echo has none, and there is none where the
// endpoint has no address of its family.
func portsOf(protocol model.Protocol, endpoint model.Endpoint) []uint16 {
	own := endpoint.IPv4
	if protocol == model.ProtocolICMPv6 {
		own = endpoint.IPv6
	}
	isNode := !endpoint.IPv4.IsValid() && !endpoint.IPv6.IsValid()
	switch {
	case echoTypes[protocol] == 0:
		return Ports
	case isNode || own.IsValid():
		return []uint16{0}
	}
	return nil
}

func disagreement(ruling oracle.Ruling, rule *model.Rule, seen *tally) string {
	action := model.RuleDeny
	var by model.Origin
	if rule != nil {
		action, by = rule.Action, rule.Origin
	}
	switch {
	case action != ruling.Action:
		return fmt.Sprintf("oracle: %s; compiler: %v", ruling, rule)
	case action == model.RuleAudit && by != ruling.Origin && (by.Rule == model.RuleNone) != (ruling.Origin.Rule == model.RuleNone):
		return fmt.Sprintf("the oracle tells of %s, the compiler of %s", ruling.Origin, by)
	case by.Policy.IsZero() != ruling.Origin.Policy.IsZero():
		return fmt.Sprintf("oracle decides by %s, the compiler by %s", ruling.Origin, by)
	case !by.Policy.IsZero() && !slices.Contains(ruling.Selecting, by.Policy):
		return fmt.Sprintf("the compiler decides by %s, and %v select the pod", by, ruling.Selecting)
	case by.Policy.Kind == "ClusterNetworkPolicy" && by != ruling.Origin:
		return fmt.Sprintf("of rules in order, the oracle decides by %s, the compiler by %s", ruling.Origin, by)
	}
	if ruling.OfNode {
		seen.ofNodes++
	}
	switch action {
	case model.RuleAudit:
		seen.audited++
	case model.RuleAllow:
		seen.allowed++
	case model.RuleRefuse:
		seen.refused++
		seen.denied++
	case model.RuleDeny:
		seen.denied++
	}
	if action.Denies() && !by.Policy.IsZero() {
		seen.byRule++
	}
	return ""
}

// lookUp does what the datapath does with the tables.
func lookUp(state *model.State, endpoint model.Endpoint, direction model.Direction, peer netip.Addr, protocol model.Protocol, port uint16) *model.Rule {
	identity, longest := model.IdentityWorld, -1
	for a := range state.Addresses.All() {
		if a.Prefix.Contains(peer) && a.Prefix.Bits() > longest {
			identity, longest = a.Identity, a.Prefix.Bits()
		}
	}
	set := slices.IndexFunc(state.RuleSets, func(s model.RuleSet) bool { return s.Key == endpoint.RuleSet })
	var best *model.Rule
	for i := range state.RuleSets[set].Rules {
		r := &state.RuleSets[set].Rules[i]
		samePort := r.PortBits == 0 || (r.Port^port)>>(16-r.PortBits) == 0
		if r.Direction != direction || r.Peer != model.IdentityUnknown && r.Peer != identity ||
			r.Protocol != model.ProtocolAny && r.Protocol != protocol || !samePort {
			continue
		}
		if best == nil || r.Precedence > best.Precedence || r.Precedence == best.Precedence && r.Action.Denies() && !best.Action.Denies() {
			best = r
		}
	}
	return best
}
