// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// ciliumAnswer is what Cilium's policies of one pod say, all together.
type ciliumAnswer struct {
	denied, refused, allowed *model.Origin
}

// ciliumText is one spec, with what its place says of it.
type ciliumText struct {
	policy model.PolicyRef
	space  string // empty: of the whole cluster
	prefix string // of the names of its lists, where there are several specs
	rule   *manifest.CiliumRule

	annotations map[string]string
}

func (k *knowledge) learnCilium() {
	learn := func(policy model.PolicyRef, annotations map[string]string, spec *manifest.CiliumRule, specs []*manifest.CiliumRule) {
		if spec != nil {
			k.cilium = append(k.cilium, ciliumText{policy, policy.Namespace, "", spec, annotations})
		}
		for i, spec := range specs {
			if spec != nil {
				k.cilium = append(k.cilium, ciliumText{policy, policy.Namespace, "specs[" + strconv.Itoa(i) + "].", spec, annotations})
			}
		}
	}
	for _, p := range k.objs.CiliumNetworkPolicies {
		learn(model.PolicyRef{Kind: "CiliumNetworkPolicy", Namespace: spaceOf(p.Namespace), Name: p.Name}, p.Annotations, p.Spec, p.Specs)
	}
	for _, p := range k.objs.CiliumClusterwideNetworkPolicies {
		learn(model.PolicyRef{Kind: "CiliumClusterwideNetworkPolicy", Name: p.Name}, p.Annotations, p.Spec, p.Specs)
	}
	sort.SliceStable(k.cilium, func(i, j int) bool { return byText(k.cilium[i].policy, k.cilium[j].policy) < 0 })
	k.servers = map[netip.Addr]bool{}
	for _, slice := range k.slices["default/kubernetes"] {
		for _, e := range slice.Endpoints {
			for _, text := range e.Addresses {
				if addr, ok := looseAddr(text); ok {
					k.servers[addr] = true
				}
			}
		}
	}
}

func (k *knowledge) askCilium(q *question, ruling *Ruling, isolated *isolation) ciliumAnswer {
	var answer ciliumAnswer
	var mine []ciliumText
	for _, text := range k.cilium {
		if k.isCiliumSubject(text, q) {
			mine = append(mine, text)
		}
	}
	for _, text := range mine {
		lists := text.lists(q.direction)
		isolates := text.isolates(q.direction)
		if isolates && !k.spares(q, text.annotations, text.space == "") {
			isolated.by(k.denial(q, text.annotations))
		}
		if entries := len(lists[0].entries) + len(lists[1].entries); entries > 0 || isolates {
			if n := len(ruling.Selecting); n == 0 || ruling.Selecting[n-1] != text.policy {
				ruling.Selecting = append(ruling.Selecting, text.policy)
			}
		}
		for _, list := range lists {
			if list.denies && k.spares(q, text.annotations, text.space == "") {
				continue
			}
			for i, entry := range list.entries {
				if !k.entryMatches(text, entry, q) || !k.meetsRequirements(mine, list.denies, entry, q) {
					continue
				}
				origin := &model.Origin{Policy: text.policy, Rule: i, List: text.nameOf(list)}
				first := &answer.allowed
				if list.denies {
					first = &answer.denied
				}
				if list.denies && k.denial(q, text.annotations) == model.RuleRefuse {
					first = &answer.refused
				}
				if *first == nil {
					*first = origin
				}
			}
		}
	}
	return answer
}

// isolates is what a spec says of the rest, or by default that it isolates
// where it has an entry.
func (t ciliumText) isolates(direction model.Direction) bool {
	said := t.rule.EnableDefaultDeny.Ingress
	if direction == model.Egress {
		said = t.rule.EnableDefaultDeny.Egress
	}
	if said != nil {
		return *said
	}
	lists := t.lists(direction)
	return len(lists[0].entries)+len(lists[1].entries) > 0
}

// ciliumList is one of a rule's four lists, each entry brought to the form of
// an egress rule.
type ciliumList struct {
	name    string
	denies  bool
	entries []manifest.CiliumEgressRule
}

func (t ciliumText) nameOf(list ciliumList) string {
	if t.prefix == "" && !list.denies {
		return ""
	}
	return t.prefix + list.name
}

func (t ciliumText) lists(direction model.Direction) []ciliumList {
	if direction == model.Egress {
		return []ciliumList{{"egress", false, t.rule.Egress}, {"egressDeny", true, t.rule.EgressDeny}}
	}
	turn := func(from []manifest.CiliumIngressRule) []manifest.CiliumEgressRule {
		var to []manifest.CiliumEgressRule
		for _, r := range from {
			to = append(to, manifest.CiliumEgressRule{ToEndpoints: r.FromEndpoints, ToRequires: r.FromRequires, ToCIDR: r.FromCIDR,
				ToCIDRSet: r.FromCIDRSet, ToEntities: r.FromEntities, ToPorts: r.ToPorts, ICMPs: r.ICMPs})
		}
		return to
	}
	return []ciliumList{{"ingress", false, turn(t.rule.Ingress)}, {"ingressDeny", true, turn(t.rule.IngressDeny)}}
}

// isCiliumSubject: a policy of a namespace is for the pods in it, whatever its
// selector asks of theirs.
func (k *knowledge) isCiliumSubject(text ciliumText, q *question) bool {
	selector, pod := text.rule.EndpointSelector, q.subject
	if pod == nil {
		return k.isCiliumNode(text, q.node)
	}
	if selector == nil || text.space != "" && text.space != spaceOf(pod.Namespace) {
		return false
	}
	return k.meets(selector, party{pod: pod, as: pod}, q.node, text.space != "")
}

// isCiliumNode asks a policy's selector of nodes, whose labels are those of
// the Node.
func (k *knowledge) isCiliumNode(text ciliumText, name string) bool {
	selector, node := text.rule.NodeSelector, k.objs.Nodes[name]
	if selector == nil || text.space != "" || node == nil {
		return false
	}
	own := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	bare := func(key string) (string, bool) {
		plain := strings.TrimPrefix(strings.TrimPrefix(key, "k8s:"), "any:")
		return plain, key == "reserved:host" || plain == "host"
	}
	for key, want := range selector.MatchLabels {
		if key, host := bare(key); !host {
			own.MatchLabels[key] = want
		}
	}
	for _, e := range selector.MatchExpressions {
		e.Key, _ = bare(e.Key)
		own.MatchExpressions = append(own.MatchExpressions, e)
	}
	return matchesByHand(own, node.Labels)
}

// guards is whether policies select a node.
func (k *knowledge) guards(node string) bool {
	for _, text := range k.cilium {
		if k.isCiliumNode(text, node) {
			return true
		}
	}
	return false
}

// entryMatches: an entry without peers and ports matches nothing; one without
// peers matches all, and one whose lists of peers are empty, nobody.
func (k *knowledge) entryMatches(text ciliumText, e manifest.CiliumEgressRule, q *question) bool {
	anybody := e.ToEndpoints == nil && e.ToCIDR == nil && e.ToCIDRSet == nil && e.ToEntities == nil && e.ToServices == nil
	if anybody && len(e.ToPorts) == 0 && len(e.ICMPs) == 0 {
		return false
	}
	return (anybody || k.isCiliumPeer(text, e, q)) && isCiliumPort(e.ToPorts, q) && isCiliumICMP(e.ICMPs, q)
}

// isCiliumICMP asks for the type of an ICMP message. Of those that open flows
// there is one in each family, a request to be answered.
func isCiliumICMP(wanted []manifest.CiliumICMPRule, q *question) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, list := range wanted {
		for _, w := range list.Fields {
			if w.Type == nil {
				continue
			}
			switch kind := w.Type.String(); {
			case w.Family == "IPv6":
				if q.isPing(model.ProtocolICMPv6) && (kind == "128" || kind == "EchoRequest") {
					return true
				}
			case q.isPing(model.ProtocolICMP) && (kind == "8" || kind == "Echo" || kind == "EchoRequest"):
				return true
			}
		}
	}
	return false
}

// isPing is whether a flow is one of echoes: the protocol's number says so in
// its own family alone.
func (q *question) isPing(protocol model.Protocol) bool {
	return q.protocol == protocol && q.peer.addr.Is4() == (protocol == model.ProtocolICMP)
}

func (k *knowledge) isCiliumPeer(text ciliumText, e manifest.CiliumEgressRule, q *question) bool {
	for i := range e.ToEndpoints {
		if k.isEndpoint(text, &e.ToEndpoints[i], q, true) {
			return true
		}
	}
	for _, entity := range e.ToEntities {
		if k.isEntity(entity, q) {
			return true
		}
	}
	if q.peer.as != nil {
		return k.serves(e.ToServices, q.peer)
	}
	if q.peer.isForeign() {
		return false // who has labels is in no block, and in none of this cluster's services
	}
	if q.peer.node {
		return false
	}
	for _, cidr := range e.ToCIDR {
		if inNetwork(cidr, q.peer.addr) {
			return true
		}
	}
	for _, set := range e.ToCIDRSet {
		inside := inNetwork(set.CIDR, q.peer.addr)
		for _, except := range set.Except {
			inside = inside && !inNetwork(except, q.peer.addr)
		}
		if inside {
			return true
		}
	}
	return k.serves(e.ToServices, q.peer)
}

// isEndpoint asks a selector of peers. What says nothing of namespaces is about
// the policy's own, or, of a policy of the whole cluster, about pods only.
func (k *knowledge) isEndpoint(text ciliumText, selector *metav1.LabelSelector, q *question, mayReserve bool) bool {
	if q.peer.isForeign() {
		return false
	}
	reserved, space, spaceLabels := false, false, false
	look := func(key string) {
		reserved = reserved || strings.HasPrefix(key, "reserved:")
		bare := strings.TrimPrefix(strings.TrimPrefix(key, "k8s:"), "any:")
		space = space || bare == "io.kubernetes.pod.namespace"
		spaceLabels = spaceLabels || strings.HasPrefix(bare, "io.cilium.k8s.namespace.labels.")
	}
	for key := range selector.MatchLabels {
		look(key)
	}
	for _, e := range selector.MatchExpressions {
		look(e.Key)
	}
	// Who is no pod has no namespace's labels either, which is what NotIn and
	// DoesNotExist ask for.
	if complete := mayReserve && reserved || space || spaceLabels && text.space != ""; !complete {
		if q.peer.as == nil || text.space != "" && spaceOf(q.peer.as.Namespace) != text.space {
			return false
		}
	}
	return k.meets(selector, q.peer, q.node, false)
}

// meets goes through a selector's requirements, one label of the party at a
// time. The node beside which a party is seen is the host.
func (k *knowledge) meets(selector *metav1.LabelSelector, p party, beside string, anySpace bool) bool {
	for key, want := range selector.MatchLabels {
		if anySpace && key == "k8s:io.kubernetes.pod.namespace" {
			continue
		}
		if have, found := k.ciliumLabel(p, beside, key); !found || have != want {
			return false
		}
	}
	for _, e := range selector.MatchExpressions {
		if anySpace && key(e) == "k8s:io.kubernetes.pod.namespace In" {
			continue
		}
		have, found := k.ciliumLabel(p, beside, e.Key)
		listed := false
		for _, v := range e.Values {
			listed = listed || found && v == have
		}
		ok := map[metav1.LabelSelectorOperator]bool{"In": listed, "NotIn": !listed, "Exists": found, "DoesNotExist": !found}
		if !ok[e.Operator] {
			return false
		}
	}
	return true
}

func key(e metav1.LabelSelectorRequirement) string { return e.Key + " " + string(e.Operator) }

// ciliumLabel looks up one label of a party, as Cilium would name it.
func (k *knowledge) ciliumLabel(p party, beside, key string) (string, bool) {
	source, bare, found := strings.Cut(key, ":")
	if !found {
		source, bare = "any", key
	}
	if p.as == nil {
		return "", (source == "reserved" || source == "any") && k.isReserved(bare, p, beside)
	}
	if source != "k8s" && source != "any" {
		return "", false
	}
	switch bare {
	case "io.kubernetes.pod.namespace":
		return spaceOf(p.as.Namespace), true
	case "io.cilium.k8s.policy.cluster":
		return "default", true
	case "io.cilium.k8s.policy.serviceaccount":
		if p.as.Spec.ServiceAccountName == "" {
			return "default", true
		}
		return p.as.Spec.ServiceAccountName, true
	}
	if of, found := strings.CutPrefix(bare, "io.cilium.k8s.namespace.labels."); found {
		value, found := k.namespaceLabels(spaceOf(p.as.Namespace))[of]
		return value, found
	}
	// What begins so is not for the author of a pod to say.
	if strings.HasPrefix(bare, "io.cilium.k8s.") || strings.HasPrefix(bare, "io.kubernetes.") {
		return "", false
	}
	value, found := p.as.Labels[bare]
	return value, found
}

// isReserved is whether a party that is no pod is what a reserved label says.
func (k *knowledge) isReserved(name string, p party, beside string) bool {
	host := p.node && (p.name == "" || p.name == beside || beside == "")
	switch name {
	case "host":
		return host
	case "remote-node":
		return p.node && !host
	case "world":
		return !p.node
	case "world-ipv4":
		return !p.node && p.addr.Is4()
	case "world-ipv6":
		return !p.node && p.addr.Is6()
	case "kube-apiserver":
		return k.isServer(p)
	}
	return false
}

// isServer is whether the API is served there, by any address of a node.
func (k *knowledge) isServer(p party) bool {
	if !p.node {
		return k.servers[p.addr]
	}
	name := p.name
	if name == "" {
		name = k.node
	}
	for addr := range k.servers {
		if on, isNode := k.nodeOf[addr]; isNode && on == name {
			return true
		}
	}
	return false
}

func (k *knowledge) isEntity(entity string, q *question) bool {
	switch entity {
	case "all":
		return true
	case "cluster":
		return !q.peer.isForeign() && (q.peer.as != nil || q.peer.node || k.isServer(q.peer))
	}
	return q.peer.as == nil && !q.peer.isForeign() && k.isReserved(entity, q.peer, q.node)
}

// meetsRequirements: what entries of fromRequires and toRequires ask, in all
// policies of a pod, has to hold for the peers that entries of the same kind
// name by labels.
func (k *knowledge) meetsRequirements(mine []ciliumText, denies bool, entry manifest.CiliumEgressRule, q *question) bool {
	if len(entry.ToEndpoints) == 0 {
		return true
	}
	for _, text := range mine {
		for _, list := range text.lists(q.direction) {
			if list.denies != denies {
				continue
			}
			for _, e := range list.entries {
				for i := range e.ToRequires {
					if !k.isEndpoint(text, &e.ToRequires[i], q, false) {
						return false
					}
				}
			}
		}
	}
	return true
}

// serves is whether a party is behind one of the services: as a pod that the
// service selects, or at an address that is listed for one without selector.
func (k *knowledge) serves(wanted []manifest.CiliumService, p party) bool {
	for _, w := range wanted {
		for _, svc := range k.objs.Services {
			space := spaceOf(svc.Namespace)
			byName := w.ByName != nil && w.ByName.ServiceName == svc.Name && (w.ByName.Namespace == "" || w.ByName.Namespace == space)
			byLabels := w.BySelector != nil && matchesByHand(&w.BySelector.Selector, svc.Labels) && (w.BySelector.Namespace == "" || w.BySelector.Namespace == space)
			if (byName || byLabels) && k.isBehind(svc, p) {
				return true
			}
		}
	}
	return false
}

func (k *knowledge) isBehind(svc *corev1.Service, p party) bool {
	if len(svc.Spec.Selector) > 0 {
		return p.as != nil && spaceOf(p.as.Namespace) == spaceOf(svc.Namespace) &&
			matchesByHand(&metav1.LabelSelector{MatchLabels: svc.Spec.Selector}, p.as.Labels)
	}
	if p.as != nil {
		return false
	}
	for _, slice := range k.slices[spaceOf(svc.Namespace)+"/"+svc.Name] {
		for _, e := range slice.Endpoints {
			for _, text := range e.Addresses {
				if inNetwork(text, p.addr) {
					return true
				}
			}
		}
	}
	return false
}

func isCiliumPort(wanted []manifest.CiliumPortRule, q *question) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, list := range wanted {
		for _, w := range list.Ports {
			number, err := strconv.Atoi(w.Port)
			named := err != nil
			protocol := strings.ToUpper(w.Protocol)
			if protocol == "" || protocol == "ANY" {
				if !named && number == 0 {
					return true
				}
				if q.protocol != model.ProtocolTCP && q.protocol != model.ProtocolUDP && q.protocol != model.ProtocolSCTP {
					continue
				}
			} else if protocol != strings.ToUpper(q.protocol.String()) {
				continue
			}
			switch {
			case named:
				if pod := q.target(); pod != nil && q.port != 0 && namedOn(pod, strings.ToLower(w.Port), q.protocol) == q.port {
					return true
				}
			case number == 0, number == int(q.port), w.EndPort != 0 && int(q.port) >= number && int(q.port) <= int(w.EndPort):
				return true
			}
		}
	}
	return false
}
