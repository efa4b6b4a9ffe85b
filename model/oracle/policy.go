// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// party is one end of a flow, as policy sees it.
type party struct {
	addr netip.Addr
	pod  *corev1.Pod // nil for who is no pod
	node bool        // a node, or the gateway: no selector of pods matches it
	name string      // of the node; empty for the gateway, which is any pod's own

	workload *manifest.Workload // nil for who is none
	as       *corev1.Pod        // as whom selectors see it: the pod, or a workload of this cluster as if it were one
}

func (p party) String() string {
	switch {
	case p.pod != nil:
		return "Pod " + podName(p.pod)
	case p.workload != nil:
		return p.workload.Key().Ref().String()
	case p.node:
		return fmt.Sprintf("the node at %s", p.addr)
	}
	return fmt.Sprintf("%s outside the cluster", p.addr)
}

func (k *knowledge) party(addr netip.Addr) party {
	name, isNode := k.nodeOf[addr]
	p := party{addr: addr, pod: k.pods[addr], node: isNode || k.isGateway(addr), name: name, workload: k.workloads[addr]}
	if p.as = p.pod; p.workload != nil {
		p.as = k.standIn(p.workload)
	}
	return p
}

// question is what the policies of one pod are asked.
type question struct {
	direction model.Direction
	subject   *corev1.Pod // nil: the node
	node      string      // beside which peers are seen: the subject, or a pod's
	lenient   bool        // denials that are only told are left out
	peer      party
	protocol  model.Protocol
	port      uint16 // the destination's, 0 where the protocol has none
}

// target is the pod whose containers give names to ports, nil where there is
// none.
func (q *question) target() *corev1.Pod {
	if q.direction == model.Ingress {
		return q.subject
	}
	return q.peer.as
}

// Ruling is what the policies of one pod say of a flow, in one direction.
type Ruling struct {
	Direction model.Direction
	Subject   model.Key // whose policies they are: a pod's, or a node's
	OfNode    bool      // it is a node
	Peer      string
	// Action is what becomes of the flow. RuleAudit is a denial that is only told,
	// by Origin, and RuleRefuse one of which the sender is told. RuleRedirect leads it
	// to a proxy at ProxyPort.
	Action    model.RuleAction
	ProxyPort uint16
	// Origin is the rule that decides; the zero Origin when the flow is
	// allowed because no policy says anything of it, or denied because none
	// of those that isolate the pod allows it.
	Origin model.Origin
	// Selecting are the policies that select the subject in this direction.
	Selecting []model.PolicyRef
	// Passed is the rule that left the decision to a later tier, if one did.
	Passed model.Origin
}

// Allowed is whether the flow is let through.
func (r Ruling) Allowed() bool { return !r.Action.Denies() }

func (r Ruling) String() string {
	preposition := "from"
	if r.Direction == model.Egress {
		preposition = "to"
	}
	subject := r.Subject.Ref()
	if r.OfNode {
		subject.Kind = "Node"
	}
	text := fmt.Sprintf("%s of %s %s %s", r.Direction, subject, preposition, r.Peer)
	if r.Passed.Policy != (model.PolicyRef{}) {
		text += fmt.Sprintf(", passed on by %s,", r.Passed)
	}
	return text + " is " + r.Reason()
}

// Reason says how the ruling came about: allowed or denied, and by whom.
func (r Ruling) Reason() string {
	verb, kind := " selects the ", "pod"
	if r.OfNode {
		kind = "node"
	}
	var names []string
	for _, policy := range r.Selecting {
		// One of an administrator denies by its rules alone, and never for want of one.
		if r.Allowed() || policy.Kind != "ClusterNetworkPolicy" {
			names = append(names, policy.String())
		}
	}
	if len(names) > 1 {
		verb = " select the "
	}
	selecting := strings.Join(names, " and ") + verb + kind + ", and no rule matches"
	switch {
	case r.Action == model.RuleAudit && r.Origin.Rule != model.RuleNone:
		return fmt.Sprintf("allowed, since a denial is only told: by %s", r.Origin)
	case r.Action == model.RuleAudit:
		return "allowed, since a denial is only told: " + selecting
	case r.Action == model.RuleRedirect:
		return fmt.Sprintf("redirected to proxy port %d by %s", r.ProxyPort, r.Origin)
	case r.Allowed() && r.Origin.Policy != (model.PolicyRef{}):
		return fmt.Sprintf("allowed by %s", r.Origin)
	case r.Allowed() && len(r.Selecting) == 0:
		return "allowed: no policy selects the " + kind
	case r.Allowed():
		return "allowed: " + selecting + ", and none isolates it"
	case r.Origin.Policy != (model.PolicyRef{}):
		return fmt.Sprintf("%s by %s", r.denied(), r.Origin)
	}
	return r.denied() + ": " + selecting
}

// denied is what becomes of a flow that is not allowed, in a word.
func (r Ruling) denied() string {
	if r.Action == model.RuleRefuse {
		return "refused"
	}
	return "denied"
}

// rule judges one direction of a flow: port is the destination's, 0 where the
// protocol has none. Tiers are asked one after the other; the first that has an
// answer gives it.
func (k *knowledge) rule(direction model.Direction, subject *corev1.Pod, peer party, protocol model.Protocol, port uint16) Ruling {
	return k.answer(&question{direction: direction, subject: subject, node: subject.Spec.NodeName, peer: peer, protocol: protocol, port: port})
}

// ruleNode is rule for the node's own traffic.
func (k *knowledge) ruleNode(direction model.Direction, node string, peer party, protocol model.Protocol, port uint16) Ruling {
	return k.answer(&question{direction: direction, node: node, peer: peer, protocol: protocol, port: port})
}

func (k *knowledge) answer(q *question) Ruling {
	ruling := k.judge(q)
	if ruling.Allowed() || !k.audits {
		return ruling
	}
	q.lenient = true
	if again := k.judge(q); !again.Allowed() {
		return again
	}
	ruling.Action = model.RuleAudit
	if ruling.Origin.Policy == (model.PolicyRef{}) {
		ruling.Origin = model.Origin{Policy: slices.MinFunc(k.isolating(q), byText), Rule: model.RuleNone}
	}
	return ruling
}

func (k *knowledge) judge(q *question) Ruling {
	ruling := Ruling{Action: model.RuleDeny, Direction: q.direction, Subject: model.Key{Name: q.node}, OfNode: true, Peer: q.peer.String()}
	if q.subject != nil {
		ruling.Subject, ruling.OfNode = k.nameOf(q.subject), false
	}
	if !k.askTier("Admin", q, &ruling) && !k.askOwn(q, &ruling) && !k.askTier("Baseline", q, &ruling) {
		ruling.Action = model.RuleAllow
	}
	return ruling
}

// spares is whether what a policy with such annotations denies is let pass: an
// annotation of the policy's says so, or its pod's namespace's, or the pod's,
// which is about the policies of the namespace alone. A pod that wants none is
// given none by its namespace.
func (k *knowledge) spares(q *question, annotations map[string]string, clusterwide bool) bool {
	const key = "weir.net/policy-audit"
	believed := k.local.Options.AuditAnnotations
	switch {
	case !q.lenient || believed == model.AuditOff:
		return false
	case annotations[key] == "true":
		return true
	case q.subject == nil || believed == model.AuditPolicies || q.subject.Annotations[key] == "false":
		return false
	}
	if ns := k.objs.Namespaces[spaceOf(q.subject.Namespace)]; ns != nil && ns.Annotations[key] == "true" {
		return true
	}
	return q.subject.Annotations[key] == "true" && !clusterwide && believed != model.AuditNamespaces
}

// learnAudits notes whether anything is only told, which is asked for often.
func (k *knowledge) learnAudits() {
	look := func(annotations map[string]string) {
		_, found := annotations["weir.net/policy-audit"]
		k.audits = k.audits || found
	}
	for _, o := range k.objs.Pods {
		look(o.Annotations)
	}
	for _, o := range k.objs.Workloads {
		look(o.Annotations)
	}
	for _, o := range k.objs.Namespaces {
		look(o.Annotations)
	}
	for _, o := range k.objs.NetworkPolicies {
		look(o.Annotations)
	}
	for _, o := range k.cluster {
		look(o.Annotations)
	}
	for _, text := range k.cilium {
		look(text.annotations)
	}
}

// byText orders policies as they are written.
func byText(a, b model.PolicyRef) int { return strings.Compare(a.String(), b.String()) }

// isolating are the policies that leave a pod denied what none allows.
func (k *knowledge) isolating(q *question) []model.PolicyRef {
	var names []model.PolicyRef
	for _, policy := range k.around(q) {
		if concerns(policy, q.direction) && matchesByHand(&policy.Spec.PodSelector, q.subject.Labels) {
			names = append(names, model.PolicyRef{Kind: "NetworkPolicy", Namespace: spaceOf(policy.Namespace), Name: policy.Name})
		}
	}
	for _, text := range k.cilium {
		if k.isCiliumSubject(text, q) && text.isolates(q.direction) {
			names = append(names, text.policy)
		}
	}
	return names
}

// isolation is what becomes of what no policy allows: RuleAllow where none isolates,
// RuleDeny where one of those that do wants it dropped, else RuleRefuse.
type isolation struct{ action model.RuleAction }

func (i *isolation) by(denial model.RuleAction) {
	if i.action != model.RuleDeny {
		i.action = denial
	}
}

// askOwn asks the policies whose rules have no order: any denial holds, then
// any permission, and then a pod that is isolated is denied the rest.
func (k *knowledge) askOwn(q *question, ruling *Ruling) bool {
	var isolated isolation
	var allowed *model.Origin
	for _, policy := range k.around(q) {
		if !concerns(policy, q.direction) || !matchesByHand(&policy.Spec.PodSelector, q.subject.Labels) {
			continue
		}
		if !k.spares(q, policy.Annotations, false) {
			isolated.by(k.denial(q, policy.Annotations))
		}
		name := model.PolicyRef{Kind: "NetworkPolicy", Namespace: spaceOf(policy.Namespace), Name: policy.Name}
		ruling.Selecting = append(ruling.Selecting, name)
		if index, found := k.firstMatch(policy, q); found && allowed == nil {
			allowed = &model.Origin{Policy: name, Rule: index}
		}
	}
	cilium := k.askCilium(q, ruling, &isolated)
	if allowed == nil {
		allowed = cilium.allowed
	}
	switch {
	case cilium.denied != nil:
		ruling.Action, ruling.Origin = model.RuleDeny, *cilium.denied
	case cilium.refused != nil:
		ruling.Action, ruling.Origin = model.RuleRefuse, *cilium.refused
	case allowed != nil:
		ruling.Action, ruling.Origin = model.RuleAllow, *allowed
	default:
		ruling.Action = isolated.action
		return isolated.action.Denies()
	}
	return true
}

// around are the policies of a pod's namespace; a node is in none.
func (k *knowledge) around(q *question) []*networkingv1.NetworkPolicy {
	if q.subject == nil {
		return nil
	}
	return k.policies[spaceOf(q.subject.Namespace)]
}

// concerns is whether a policy restricts a direction. Without policyTypes it
// restricts ingress, and egress as well once it has an egress rule.
func concerns(policy *networkingv1.NetworkPolicy, direction model.Direction) bool {
	wanted := networkingv1.PolicyTypeIngress
	if direction == model.Egress {
		wanted = networkingv1.PolicyTypeEgress
	}
	for _, t := range policy.Spec.PolicyTypes {
		if t == wanted {
			return true
		}
	}
	return len(policy.Spec.PolicyTypes) == 0 && (direction == model.Ingress || len(policy.Spec.Egress) > 0)
}

func (k *knowledge) firstMatch(policy *networkingv1.NetworkPolicy, q *question) (int, bool) {
	if q.direction == model.Ingress {
		for i, rule := range policy.Spec.Ingress {
			if k.matchesPeer(policy, rule.From, q.peer) && matchesPort(rule.Ports, q.target(), q.protocol, q.port) {
				return i, true
			}
		}
		return 0, false
	}
	for i, rule := range policy.Spec.Egress {
		if k.matchesPeer(policy, rule.To, q.peer) && matchesPort(rule.Ports, q.target(), q.protocol, q.port) {
			return i, true
		}
	}
	return 0, false
}

func (k *knowledge) matchesPeer(policy *networkingv1.NetworkPolicy, wanted []networkingv1.NetworkPolicyPeer, peer party) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, w := range wanted {
		if w.IPBlock != nil {
			if inBlock(w.IPBlock, k.addressOf(peer)) {
				return true
			}
			continue
		}
		if peer.as == nil {
			continue
		}
		sameSpace := spaceOf(peer.as.Namespace) == spaceOf(policy.Namespace)
		if w.NamespaceSelector != nil {
			sameSpace = matchesByHand(w.NamespaceSelector, k.namespaceLabels(spaceOf(peer.as.Namespace)))
		}
		if sameSpace && (w.PodSelector == nil || matchesByHand(w.PodSelector, peer.as.Labels)) {
			return true
		}
	}
	return false
}

// namespaceLabels adds the label that every namespace has by itself.
func (k *knowledge) namespaceLabels(name string) map[string]string {
	if labels, found := k.labels[name]; found {
		return labels
	}
	labels := map[string]string{}
	if ns := k.objs.Namespaces[name]; ns != nil {
		for key, value := range ns.Labels {
			labels[key] = value
		}
	}
	labels["kubernetes.io/metadata.name"] = name
	k.labels[name] = labels
	return labels
}

func inBlock(block *networkingv1.IPBlock, addr netip.Addr) bool {
	for _, except := range block.Except {
		if inLooseBlock(except, addr) {
			return false
		}
	}
	return inLooseBlock(block.CIDR, addr)
}

// inLooseBlock compares as many bits as the block's length says. The API reads
// numbers as decimal whatever they begin with, and IPv4 behind ::ffff: as IPv4.
func inLooseBlock(text string, addr netip.Addr) bool {
	first, length, ok := strings.Cut(text, "/")
	bits, err := strconv.Atoi(length)
	if !ok || err != nil {
		return false
	}
	octets := first[strings.LastIndex(first, ":")+1:]
	if strings.Contains(octets, ".") {
		decimal := ""
		for _, octet := range strings.Split(octets, ".") {
			n, err := strconv.ParseUint(octet, 10, 8)
			if err != nil {
				return false
			}
			decimal += fmt.Sprintf(".%d", n)
		}
		first = strings.TrimSuffix(first, octets) + decimal[1:]
	}
	start, err := netip.ParseAddr(first)
	if err != nil {
		return false
	}
	if start.Is4In6() {
		start, bits = start.Unmap(), bits-96
	}
	block := start.AsSlice()
	bytes := addr.AsSlice()
	if len(bytes) != len(block) || bits < 0 || bits > len(bytes)*8 {
		return false
	}
	for i := range bits {
		if mask := byte(0x80) >> (i % 8); bytes[i/8]&mask != block[i/8]&mask {
			return false
		}
	}
	return true
}

// matchesPort asks for the destination's port; target is the pod whose
// containers give names to ports, nil where there is none.
func matchesPort(wanted []networkingv1.NetworkPolicyPort, target *corev1.Pod, protocol model.Protocol, port uint16) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, w := range wanted {
		ask := corev1.Protocol("")
		if w.Protocol != nil {
			ask = *w.Protocol
		}
		if numberOf(ask) != protocol {
			continue
		}
		switch {
		case w.Port == nil:
			return true
		case w.Port.Type == intstr.String:
			if target != nil && port != 0 && namedOn(target, w.Port.StrVal, protocol) == port {
				return true
			}
		case w.EndPort != nil:
			if int32(port) >= w.Port.IntVal && int32(port) <= *w.EndPort {
				return true
			}
		case w.Port.IntVal == int32(port):
			return true
		}
	}
	return false
}

// matchesByHand is a label selector as the API's documentation describes it:
// every requirement has to hold.
func matchesByHand(selector *metav1.LabelSelector, labels map[string]string) bool {
	for key, wanted := range selector.MatchLabels {
		if have, found := labels[key]; !found || have != wanted {
			return false
		}
	}
	for _, e := range selector.MatchExpressions {
		have, found := labels[e.Key]
		among := false
		for _, value := range e.Values {
			among = among || found && value == have
		}
		holds := false
		switch e.Operator {
		case "In":
			holds = among
		case "NotIn":
			holds = !among
		case "Exists":
			holds = found
		case "DoesNotExist":
			holds = !found
		}
		if !holds {
			return false
		}
	}
	return true
}
