// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

// Steps counts changes of objects that were compiled twice: from what the last
// one left, and from all objects anew. Both have to give the same.
type Steps struct {
	Sequences uint64 `json:"sequences"`
	Alone     uint64 `json:"alone"` // made from what the last one left
	Whole     uint64 `json:"whole"` // made anew both times, as the change asked for it
	Refused   uint64 `json:"refused"`
	// Why is how often it was made anew for what, refused ones included.
	Why map[string]uint64 `json:"why"`
	// Taken is how often changes of each kind were made from what the last one left.
	Taken map[string]uint64 `json:"taken"`
}

func (s *Steps) tell(why string) {
	if s.Why == nil {
		s.Why = map[string]uint64{}
	}
	s.Why[why]++
}

func (s *Steps) take(taken map[string]uint64) {
	if s.Taken == nil {
		s.Taken = map[string]uint64{}
	}
	for kind, times := range taken {
		s.Taken[kind] += times
	}
}

// stepsOf is how many changes a sequence has.
const stepsOf = 40

// ofSteps keeps chance apart from that of frames.
const ofSteps = 1 << 62

// CompareSteps plays sequences until its time is over, or one goes wrong: that is
// the error, which says how to have it again.
func CompareSteps(ctx context.Context, seed uint64, during time.Duration) (Steps, error) {
	var done Steps
	for end := time.Now().Add(during); time.Now().Before(end) && ctx.Err() == nil; done.Sequences++ {
		if err := PlaySteps(seed, done.Sequences, &done); err != nil {
			return done, err
		}
	}
	return done, nil
}

// PlaySteps plays one sequence.
func PlaySteps(seed, sequence uint64, done *Steps) error {
	s := newStepper(rand.New(rand.NewPCG(seed, ofSteps+sequence)))
	var again compile.Incremental
	mine, others := s.local.Identities, model.NewAllocator()
	ask, anew := s.ways(&again)
	var given, meant answer
	told := "begin"
	for step := range stepsOf {
		objs, whole := s.listed(), again.Whole()
		if s.shared != nil {
			mine.Share(s.shared)
			others.Share(s.shared)
		}
		s.local.Identities = mine
		got := ask(objs)
		s.local.Identities = others
		want := anew(objs)
		problem := got.unlike(want)
		switch {
		case problem != "":
		case given.unlike(meant) != "":
			problem = "what was given before is changed: " + given.unlike(meant)
		case got.err == nil && !sameWanted(mine.Wanted(), others.Wanted()):
			problem = fmt.Sprintf("known by %v, and anew %v", mine.Wanted(), others.Wanted())
		}
		if problem != "" {
			return fmt.Errorf("compare steps: seed %d sequence %d step %d (%s; made as a whole since %s): %s", seed, sequence, step, told, again.Why(), problem)
		}
		given, meant, s.wanted = got, want, others.Wanted()
		if again.Whole() != whole {
			done.tell(again.Why())
		}
		switch {
		case got.err != nil:
			done.Refused++
		case again.Whole() == whole:
			done.Alone++
		default:
			done.Whole++
		}
		told = s.change()
	}
	done.take(again.Taken())
	return nil
}

// answer is what a compile comes to.
type answer struct {
	state    *model.State
	refusals []compile.Refusal
	warnings []compile.Warning
	err      error
}

func (a *answer) unlike(want answer) string {
	switch {
	case !reflect.DeepEqual(a.err, want.err):
		return fmt.Sprintf("error %v, and anew %v", a.err, want.err)
	case !reflect.DeepEqual(a.state, want.state):
		return "the state is another: " + differences(a.state, want.state)
	case !slices.Equal(a.refusals, want.refusals):
		return fmt.Sprintf("refusals %v, and anew %v", a.refusals, want.refusals)
	case !reflect.DeepEqual(a.warnings, want.warnings):
		return fmt.Sprintf("warnings %v, and anew %v", a.warnings, want.warnings)
	}
	return ""
}

// ways are one of those in which a compiler that keeps something can be asked,
// and how it is asked that keeps nothing.
func (s *stepper) ways(again *compile.Incremental) (ask, anew func(*manifest.Objects) answer) {
	live := manifest.NewObjects() // the same all the time, for whom names what has changed
	after := func(objs *manifest.Objects) (*manifest.Objects, []model.Ref) {
		changed := follow(live, objs)
		if refs := live.Refs(); len(refs) > 0 {
			changed = append(changed, refs[s.IntN(len(refs))])
		}
		return live, changed
	}
	way := s.IntN(4)
	ask = func(objs *manifest.Objects) (a answer) {
		switch way {
		case 0:
			a.state, a.warnings, a.err = again.All(objs, stepNode, s.local)
		case 1:
			objs, changed := after(objs)
			a.state, a.warnings, a.err = again.After(objs, changed, stepNode, s.local)
		case 2:
			a.state, a.refusals, a.warnings, a.err = again.Keep(objs.Clone(), nil, stepNode, s.local)
		default:
			objs, changed := after(objs)
			a.state, a.refusals, a.warnings, a.err = again.KeepAfter(objs, nil, changed, stepNode, s.local)
		}
		return a
	}
	anew = func(objs *manifest.Objects) (a answer) {
		if way < 2 {
			a.state, a.warnings, a.err = compile.All(objs, stepNode, s.local)
		} else {
			a.state, a.refusals, a.warnings, a.err = new(compile.Incremental).Keep(objs.Clone(), nil, stepNode, s.local)
		}
		return a
	}
	return ask, anew
}

// follow makes objects those that others are, and names those that were others.
func follow(live, objs *manifest.Objects) (changed []model.Ref) {
	for _, ref := range live.Refs() {
		if objs.Find(ref) == nil {
			live.Remove(ref)
			changed = append(changed, ref)
		}
	}
	for _, ref := range objs.Refs() {
		if now := objs.Find(ref); live.Find(ref) != now {
			_ = live.Upsert(now) // it is of a kind that is kept
			changed = append(changed, ref)
		}
	}
	return changed
}

func differences(state, want *model.State) string {
	if state == nil || want == nil {
		return "one is missing"
	}
	var fields []string
	a, b := reflect.ValueOf(state).Elem(), reflect.ValueOf(want).Elem()
	for n := range a.NumField() {
		if x, y := a.Field(n).Interface(), b.Field(n).Interface(); !reflect.DeepEqual(x, y) {
			fields = append(fields, fmt.Sprintf("%s %s", a.Type().Field(n).Name, unlikes(a.Field(n), b.Field(n))))
		}
	}
	return strings.Join(fields, "; ")
}

// unlikes shows what only one of two lists has, or both values that are none.
func unlikes(a, b reflect.Value) string {
	if a.Kind() != reflect.Slice {
		return fmt.Sprintf("%+v, and anew %+v", a, b)
	}
	return fmt.Sprintf("%s, and anew %s", lacking(a, b), lacking(b, a))
}

// lacking are the elements of a that b has not.
func lacking(a, b reflect.Value) string {
	var texts []string
	for n := range a.Len() {
		element, found := a.Index(n).Interface(), false
		for m := range b.Len() {
			found = found || reflect.DeepEqual(element, b.Index(m).Interface())
		}
		if !found {
			texts = append(texts, fmt.Sprintf("%+v", element))
		}
	}
	return "[" + strings.Join(texts, " ") + "]"
}

// sameWanted compares by keys, which say what labels say.
func sameWanted(a, b map[string]model.WantedIdentity) bool {
	return maps.EqualFunc(a, b, func(x, y model.WantedIdentity) bool { return x.Number == y.Number && x.Here == y.Here })
}

const stepNode = "node-a"

// stepWords are what policies of the steps speak of: what policygen's clusters
// have, and fewer blocks of addresses.
var stepWords = func() *policygen.Words {
	words := policygen.ClusterWords()
	words.Blocks = []manifest.CiliumCIDRRule{
		{CIDR: "0.0.0.0/0"}, {CIDR: "198.51.100.0/24", Except: []string{"198.51.100.128/25"}}, {CIDR: "10.0.0.0/16"}, {CIDR: "fd00::/64", Except: []string{"fd00::7:0/112"}},
	}
	words.CIDRs = []string{"192.0.2.0/24", "0.0.0.0/0", "10.0.0.0/8"}
	words.Networks = [][]policyv1alpha2.CIDR{{"198.51.100.0/25", "2001:db8::/32"}, {"10.0.7.0/24"}, {"0.0.0.0/0", "::/0"}}
	words.Nodes = []metav1.LabelSelector{{}, {MatchLabels: map[string]string{"zone": "a"}}}
	return words
}()

var stepBounds = policygen.Options{Nodes: 3, MaxPods: 8, MaxPolicies: 6}

// stepper is a cluster that changes a little at a time.
type stepper struct {
	*rand.Rand
	objs    *manifest.Objects
	local   model.Local
	kinds   []string // of policies
	derived bool     // slices come from selectors
	chained bool     // pods' devices come with a gateway
	made    int
	shared  map[string]model.Identity       // numbers of all nodes, by labels; nil: there are none
	wanted  map[string]model.WantedIdentity // what the last compile found
}

func newStepper(r *rand.Rand) *stepper {
	s := &stepper{Rand: r, local: model.Local{Identities: model.NewAllocator()}, objs: policygen.Cluster(r, stepBounds), derived: r.IntN(2) == 0, chained: r.IntN(4) == 0}
	s.kinds = policygen.Kinds[:[]int{1, 2, len(policygen.Kinds)}[r.IntN(3)]]
	if len(s.kinds) < len(policygen.Kinds) {
		clear(s.objs.CiliumNetworkPolicies)
		clear(s.objs.CiliumClusterwideNetworkPolicies)
	}
	if len(s.kinds) < 2 {
		clear(s.objs.ClusterNetworkPolicies)
	}
	s.local.Devices = map[model.Key]model.Device{}
	for _, name := range slices.Sorted(maps.Keys(s.objs.Pods)) {
		if s.objs.Pods[name].Spec.NodeName == stepNode && r.IntN(4) > 0 {
			s.local.Devices[manifest.KeyOf(s.objs.Pods[name])] = model.Device{Name: "veth-" + s.objs.Pods[name].Name, Gateways: s.gateways()}
		}
	}
	s.local.Gateways = []netip.Addr{netip.MustParseAddr("10.0.255.254")}
	if r.IntN(2) == 0 {
		s.connect()
	}
	if r.IntN(3) == 0 {
		s.local.Budgets = model.Budgets{}
		for _, table := range model.Tables() {
			s.local.Budgets[table] = 20 + r.IntN(60)
		}
		if r.IntN(2) == 0 { // somebody has no room from the beginning
			tight := []model.Table{model.TableServices, model.TableBackends, model.TableRules, model.TableCIDRs}[r.IntN(4)]
			s.local.Budgets[tight] = 2 + r.IntN(8)
		}
	}
	return s
}

// listed gives the objects as they are now.
func (s *stepper) listed() *manifest.Objects {
	if s.derived {
		return manifest.DeriveEndpointSlices(s.objs)
	}
	return s.objs.Clone()
}

// change changes some objects, and says which.
func (s *stepper) change() string {
	var told []string
	for range 1 + s.IntN(2) {
		told = append(told, s.changeOne())
	}
	return strings.Join(told, ", ")
}

func (s *stepper) changeOne() string {
	switch n := s.IntN(26); {
	case n >= 20:
		return s.ofCluster()
	case n < 5:
		return "put Pod " + s.newPod()
	case n < 7:
		return "delete Pod " + dropOne(s, s.objs.Pods)
	case n < 12:
		return "change Pod " + s.otherPod()
	case n == 12:
		return "plug or unplug Pod " + s.plug()
	case n < 15:
		policy := s.policy()
		return "put policy " + manifest.RefOf(policy).String()
	case n < 17:
		return "delete NetworkPolicy " + dropOne(s, s.objs.NetworkPolicies)
	case n < 18:
		return "change Service " + s.otherService()
	case n < 19 && s.IntN(4) == 0:
		return "delete ClusterNetworkPolicy " + dropOne(s, s.objs.ClusterNetworkPolicies)
	case s.IntN(4) == 0:
		return "spoil " + s.spoil()
	case s.IntN(2) == 0:
		return "change Node " + s.otherNode()
	}
	name := []string{"shop", "bank", "default", "new"}[s.IntN(4)]
	if s.IntN(8) == 0 {
		delete(s.objs.Namespaces, name)
		return "delete Namespace " + name
	}
	s.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: s.labels()}})
	if s.IntN(4) == 0 {
		s.objs.Namespaces[name].Annotations = map[string]string{manifest.AnnotationAudit: "true"}
	}
	return "change Namespace " + name
}

func (s *stepper) put(obj metav1.Object) {
	if err := s.objs.Upsert(obj); err != nil {
		panic(err) // it is of a kind that is kept
	}
}

// policy puts a policy in the place of one, or beside the others. Most have no
// blocks, which have all of it made anew.
func (s *stepper) policy() metav1.Object {
	policy := policygen.Policy(s.Rand, stepWords, s.kinds[s.IntN(len(s.kinds))], fmt.Sprintf("policy-%d", s.IntN(stepBounds.MaxPolicies)))
	s.put(policy)
	return policy
}

// gateways are those that a pod's device comes with.
func (s *stepper) gateways() []netip.Addr {
	if !s.chained {
		return nil
	}
	return []netip.Addr{netip.MustParseAddr("10.0.255.253")}
}

// plug gives a pod of this node, or a workload, a device, or another one, or takes it
// away.
func (s *stepper) plug() string {
	var all []model.Key
	for _, name := range slices.Sorted(maps.Keys(s.objs.Pods)) {
		if s.objs.Pods[name].Spec.NodeName == stepNode {
			all = append(all, manifest.KeyOf(s.objs.Pods[name]))
		}
	}
	for _, w := range s.objs.WorkloadsInOrder() {
		all = append(all, w.Key())
	}
	if len(all) == 0 {
		return "nobody"
	}
	key := all[s.IntN(len(all))]
	s.local.Devices = maps.Clone(s.local.Devices)
	switch device, found := s.local.Devices[key]; {
	case found && s.IntN(2) == 0:
		delete(s.local.Devices, key)
	default:
		if s.made++; s.IntN(6) == 0 {
			s.chained = !s.chained
		}
		device.Gateways = s.gateways()
		device.Name, device.Ifindex = "veth-"+key.Name, s.made
		s.local.Devices[key] = device
	}
	return key.String()
}

// otherNode changes what a Node says, most often of nothing that matters.
func (s *stepper) otherNode() string {
	names := slices.Sorted(maps.Keys(s.objs.Nodes))
	node := s.objs.Nodes[names[s.IntN(len(names))]].DeepCopy()
	s.made++
	switch s.IntN(8) {
	case 0:
		node.Labels = map[string]string{"zone": []string{"a", "b"}[s.IntN(2)]}
	case 1:
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.0.%d", 2+s.IntN(6))}}
	case 2:
		node.Spec.PodCIDRs = []string{fmt.Sprintf("10.0.%d.0/24", s.IntN(9))}
	case 3:
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-d"}}
		if s.objs.Nodes["node-d"] != nil {
			delete(s.objs.Nodes, "node-d")
			return "node-d"
		}
	default:
		node.Status.Conditions = append(slices.Clone(node.Status.Conditions), corev1.NodeCondition{Type: corev1.NodeMemoryPressure, LastHeartbeatTime: metav1.NewTime(time.Unix(int64(s.made), 0))})
	}
	s.put(node)
	return node.Name
}

// spoil makes an object wrong in itself.
func (s *stepper) spoil() string {
	refs := s.objs.Refs()
	ref := refs[s.IntN(len(refs))]
	bad := map[string]string{manifest.AnnotationAudit: "perhaps"}
	switch object := s.objs.Find(ref).(type) {
	case *corev1.Pod:
		pod := object.DeepCopy()
		pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0"}}
		s.put(pod)
	case *networkingv1.NetworkPolicy:
		policy := object.DeepCopy()
		policy.Annotations = bad
		s.put(policy)
	case *policyv1alpha2.ClusterNetworkPolicy:
		policy := object.DeepCopy()
		policy.Annotations = bad
		s.put(policy)
	case *corev1.Service:
		svc := object.DeepCopy()
		svc.Spec.Ports[0].Protocol, svc.Spec.Ports[0].TargetPort = corev1.ProtocolSCTP, intstr.FromInt32(9)
		s.put(svc)
	}
	return ref.String()
}

func (s *stepper) labels() map[string]string {
	labels := map[string]string{}
	for _, label := range stepWords.Labels {
		if n := s.IntN(len(label.Values) + 1); n < len(label.Values) {
			labels[label.Key] = label.Values[n]
		}
	}
	return labels
}

// newPod puts a pod, most often of another node and with an address of its own.
func (s *stepper) newPod() string {
	s.made++
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: stepWords.Namespaces[s.IntN(len(stepWords.Namespaces))], Name: fmt.Sprintf("new-%d", s.IntN(8)), Labels: s.labels()}}
	pod.Spec.NodeName = []string{"node-b", stepNode}[s.IntN(2)]
	s.vary(pod)
	if s.IntN(8) > 0 {
		pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.7.%d", s.made%250)}}
		if s.IntN(3) > 0 {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("fd00::7:%x", s.made)})
		}
	}
	s.put(pod)
	return manifest.NameOf(pod)
}

// otherPod changes something of a pod.
func (s *stepper) otherPod() string {
	names := slices.Sorted(maps.Keys(s.objs.Pods))
	if len(names) == 0 {
		return "nobody"
	}
	pod := s.objs.Pods[names[s.IntN(len(names))]].DeepCopy()
	if s.vary(pod); s.IntN(2) == 0 {
		pod.Labels = s.labels()
	}
	s.put(pod)
	return manifest.NameOf(pod)
}

// vary changes what seldom changes.
func (s *stepper) vary(pod *corev1.Pod) {
	switch s.IntN(24) {
	case 0:
		pod.Spec.NodeName = []string{"node-a", "node-c", "node-gone"}[s.IntN(3)]
	case 1:
		pod.Spec.HostNetwork = !pod.Spec.HostNetwork
	case 2, 3:
		pod.Status.Phase = []corev1.PodPhase{corev1.PodRunning, corev1.PodSucceeded}[s.IntN(2)]
	case 4:
		pod.Annotations = map[string]string{manifest.AnnotationWeight: fmt.Sprint(1 + s.IntN(3))}
	case 5:
		pod.Status.PodIPs = nil
	case 6:
		pod.Status.PodIPs = []corev1.PodIP{{IP: []string{"10.0.0.10", "10.0.1.11", "10.96.0.1", "172.18.0.2", "10.0.255.254"}[s.IntN(5)]}}
	case 7, 8:
		pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: []int32{80, 8080}[s.IntN(2)]}}}}
	case 9:
		pod.Labels = map[string]string{"app": "a", "pod-template-hash": fmt.Sprint(s.IntN(2))}
	case 10:
		now := metav1.NewTime(time.Unix(int64(s.made), 0))
		pod.DeletionTimestamp = &now
	case 11:
		pod.Spec.ServiceAccountName = "robot"
	case 12, 13:
		pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: []int32{80, 8080, 30080}[s.IntN(3)]}}}}
	case 14:
		pod.Annotations = map[string]string{manifest.AnnotationAudit: "true"}
	}
}

func (s *stepper) otherService() string {
	names := slices.Sorted(maps.Keys(s.objs.Services))
	svc := s.objs.Services[names[s.IntN(len(names))]].DeepCopy()
	if svc.Spec.Ports[0].Port = int32(80 + s.IntN(3)); s.IntN(2) == 0 {
		svc.Spec.Selector = s.labels()
	}
	s.put(svc)
	return manifest.NameOf(svc)
}

func dropOne[T metav1.Object](s *stepper, from map[string]T) string {
	names := slices.Sorted(maps.Keys(from))
	if len(names) == 0 {
		return "nobody"
	}
	name := names[s.IntN(len(names))]
	delete(from, name)
	return name
}
