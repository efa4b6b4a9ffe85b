// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

// What happens in every cluster: nodes are scaled, namespaces come and go, pods wait
// for a node, addresses are given again, and services ask for what others have.

// ofCluster changes something so, and says what.
func (s *stepper) ofCluster() string {
	switch s.IntN(13) {
	case 11, 12:
		return "change " + s.workload()
	case 10:
		return s.withoutCilium()
	case 9:
		return "label Node " + s.label()
	case 8:
		return "move the API's servers to " + s.moveServers()
	case 0, 1:
		return "scale Node " + s.scale()
	case 2:
		return "let Pod wait " + s.wait()
	case 3, 4:
		return "give again the address of Pod " + s.giveAgain()
	case 5:
		return "contend by Service " + s.contend()
	case 6:
		return "empty Namespace " + s.empty()
	}
	return "share " + s.share()
}

// scale puts a Node beside the others, or in the place of one of its name, or takes
// one away. Some have networks for pods, and now and then these overlap, or one has
// the address of another.
func (s *stepper) scale() string {
	n := s.IntN(3)
	name := fmt.Sprintf("node-%c", 'd'+n)
	if s.objs.Nodes[name] != nil && s.IntN(2) == 0 {
		delete(s.objs.Nodes, name)
		return name
	}
	s.made++
	last := 20 + n
	if s.IntN(8) == 0 {
		last = 2 + s.IntN(3)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": []string{"a", "b"}[s.IntN(2)]}, CreationTimestamp: metav1.Unix(int64(s.made), 0)}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.0.%d", last)}, {Type: corev1.NodeExternalIP, Address: fmt.Sprintf("198.51.100.%d", last)},
	}
	if s.IntN(6) == 0 {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "127.0.0.1"})
	}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = []int32{0, 80, 10250}[s.IntN(3)]
	if s.IntN(2) == 0 {
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	}
	if s.IntN(2) == 0 {
		node.Spec.PodCIDRs = []string{fmt.Sprintf("10.0.%d.0/24", 7+n)}
	}
	if s.IntN(16) == 0 {
		node.Spec.PodCIDRs = []string{"10.0.0.0/20"}
	}
	s.put(node)
	return name
}

// label changes labels of this node's own Node.
func (s *stepper) label() string {
	if s.objs.Nodes[stepNode] == nil {
		return "nobody"
	}
	node := s.objs.Nodes[stepNode].DeepCopy()
	node.Labels = map[string]string{"zone": []string{"a", "b"}[s.IntN(2)]}
	s.put(node)
	return node.Name
}

// withoutCilium takes away all policies of Cilium's, or puts one.
func (s *stepper) withoutCilium() string {
	if len(s.kinds) < len(policygen.Kinds) {
		return "nothing"
	}
	if len(s.objs.CiliumNetworkPolicies)+len(s.objs.CiliumClusterwideNetworkPolicies) > 0 {
		clear(s.objs.CiliumNetworkPolicies)
		clear(s.objs.CiliumClusterwideNetworkPolicies)
		return "delete all policies of Cilium's"
	}
	policy := policygen.Policy(s.Rand, stepWords, "CiliumNetworkPolicy", "policy-0")
	s.put(policy)
	return "put policy " + manifest.RefOf(policy).String()
}

// wait puts a pod that has no node yet, or gives it one.
func (s *stepper) wait() string {
	name := fmt.Sprintf("waiting-%d", s.IntN(3))
	key := "default/" + name
	if pod := s.objs.Pods[key]; pod != nil {
		pod = pod.DeepCopy()
		pod.Spec.NodeName = s.anyNode()
		if s.IntN(2) == 0 {
			pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", 7+s.IntN(3), 200+s.IntN(8))}}
		}
		s.put(pod)
		return key
	}
	s.put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: s.labels()}})
	return key
}

// workload puts who is no pod of the cluster, often with the namespace and name, and
// now and then with an address, of one that is; or takes one away.
func (s *stepper) workload() string {
	keys := slices.SortedFunc(maps.Keys(s.objs.Workloads), model.Key.Compare)
	if len(keys) > 0 && s.IntN(3) == 0 {
		key := keys[s.IntN(len(keys))]
		delete(s.objs.Workloads, key)
		return key.Ref().String()
	}
	s.made++
	w := &manifest.Workload{ObjectMeta: metav1.ObjectMeta{Namespace: "new", Name: fmt.Sprintf("machine-%d", s.IntN(3)), Labels: s.labels()}}
	if pod := s.objs.Pods[s.anyPod()]; pod != nil && s.IntN(2) == 0 {
		w.ObjectMeta = metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}
		w.Addresses = manifest.PodAddresses(pod)[:min(s.IntN(2), len(manifest.PodAddresses(pod)))]
	}
	if w.Cluster = []uint8{0, 0, 1, 7}[s.IntN(4)]; w.Cluster == 0 || s.IntN(4) == 0 {
		w.Kind = model.OwnerExternalWorkload
	}
	w.Addresses = append(w.Addresses, netip.AddrFrom4([4]byte{198, 51, 100, byte(s.IntN(256))}))
	if s.IntN(3) == 0 {
		w.Addresses = append(w.Addresses, netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", s.IntN(16))))
	}
	s.put(w)
	return w.Key().Ref().String()
}

func (s *stepper) anyNode() string {
	names := slices.Sorted(maps.Keys(s.objs.Nodes))
	return names[s.IntN(len(names))]
}

// giveAgain gives a new pod the address of one that is going, is finished, or stays.
func (s *stepper) giveAgain() string {
	key := s.anyPod()
	before := s.objs.Pods[key]
	if before == nil {
		return "nobody"
	}
	s.made++
	after := before.DeepCopy()
	after.Name, after.CreationTimestamp = fmt.Sprintf("next-%d", s.IntN(4)), metav1.Unix(int64(s.made), 0)
	after.DeletionTimestamp, after.Status.Phase = nil, corev1.PodRunning
	if s.IntN(2) == 0 {
		after.Labels = s.labels()
	}
	if s.IntN(3) == 0 {
		after.Spec.NodeName = s.anyNode()
	}
	old := before.DeepCopy()
	switch s.IntN(4) {
	case 0:
		now := metav1.Unix(int64(s.made), 0)
		old.DeletionTimestamp = &now
	case 1:
		old.Status.Phase = corev1.PodSucceeded
	case 2:
		delete(s.objs.Pods, key)
		old = nil
	}
	if old != nil {
		s.put(old)
	}
	s.put(after)
	return key
}

func (s *stepper) anyPod() string {
	names := slices.Sorted(maps.Keys(s.objs.Pods))
	if len(names) == 0 {
		return ""
	}
	return names[s.IntN(len(names))]
}

// contend has a service want an address, as its own or from outside, that a pod or a
// Node may have, or has it want one that nobody else does.
func (s *stepper) contend() string {
	s.made++
	addrs := []string{"172.18.0.3", "172.18.0.20", "198.51.100.21", "203.0.113.7", fmt.Sprintf("10.96.3.%d", s.made%250)}
	if pod := s.objs.Pods[s.anyPod()]; pod != nil {
		for _, addr := range manifest.PodAddresses(pod) {
			if addr.Is4() {
				addrs = append(addrs, addr.String(), addr.String())
			}
		}
	}
	addr := addrs[s.IntN(len(addrs))]
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("contender-%d", s.IntN(2)), CreationTimestamp: metav1.Unix(int64(s.made), 0)}}
	if s.objs.Services[manifest.NameOf(svc)] != nil && s.IntN(3) == 0 {
		delete(s.objs.Services, manifest.NameOf(svc))
		return manifest.NameOf(svc)
	}
	svc.Spec.Ports = []corev1.ServicePort{{Port: []int32{80, 8080, 10250}[s.IntN(3)]}}
	svc.Spec.ClusterIP = fmt.Sprintf("10.96.4.%d", s.made%250)
	switch s.IntN(3) {
	case 0:
		svc.Spec.ClusterIP = addr
	case 1:
		svc.Spec.ExternalIPs = []string{addr}
	default:
		svc.Spec.Type, svc.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30080
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
	}
	s.put(svc)
	if !s.derived {
		s.list(svc, addrs)
	}
	return manifest.NameOf(svc)
}

// list has a slice say that an address serves a service, and now and then of which
// pod it is.
func (s *stepper) list(svc *corev1.Service, addrs []string) {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.ObjectMeta = metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}
	endpoint := discoveryv1.Endpoint{Addresses: []string{addrs[s.IntN(len(addrs))]}}
	if pod := s.objs.Pods[s.anyPod()]; pod != nil && s.IntN(2) == 0 {
		endpoint.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
	}
	port, name := int32(80), ""
	slice.Endpoints, slice.Ports = []discoveryv1.Endpoint{endpoint}, []discoveryv1.EndpointPort{{Name: &name, Port: &port}}
	s.put(slice)
}

// moveServers has the API be served elsewhere, or nowhere.
func (s *stepper) moveServers() string {
	const key = "default/kubernetes"
	if s.objs.EndpointSlices[key] != nil && s.IntN(4) == 0 {
		delete(s.objs.EndpointSlices, key)
		return "nowhere"
	}
	addrs := []string{"203.0.113.9", "172.18.0.2", "172.18.0.3", "172.18.0.20", "198.51.100.21"}
	if pod := s.objs.Pods[s.anyPod()]; pod != nil && len(manifest.PodAddresses(pod)) > 0 {
		addrs = append(addrs, manifest.PodAddresses(pod)[0].String())
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.3", Ports: []corev1.ServicePort{{Port: 443}}}}
	if s.objs.Services[key] == nil {
		s.put(svc)
	}
	s.list(svc, addrs)
	if slice := s.objs.EndpointSlices[key]; !netip.MustParseAddr(slice.Endpoints[0].Addresses[0]).Is4() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	return s.objs.EndpointSlices[key].Endpoints[0].Addresses[0]
}

// empty deletes a namespace with all that is in it, or brings it with a pod.
func (s *stepper) empty() string {
	name := fmt.Sprintf("run-%d", s.IntN(2))
	if s.objs.Namespaces[name] == nil {
		s.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: s.labels()}})
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "one", Labels: s.labels()}}
		pod.Spec.NodeName = s.anyNode()
		pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.9.%d", 100+s.IntN(100))}}
		s.put(pod)
		return name
	}
	for _, ref := range s.objs.Refs() {
		if ref.Namespace == name && ref.Kind != "EndpointSlice" && s.IntN(16) > 0 {
			s.objs.Remove(ref)
		}
	}
	delete(s.objs.Namespaces, name)
	return name
}

// share gives some sets of labels numbers of all nodes, and takes others' away.
func (s *stepper) share() string {
	s.shared = maps.Clone(s.shared)
	if s.shared == nil {
		s.shared = map[string]model.Identity{}
	}
	taken := map[model.Identity]bool{}
	for key, number := range s.shared {
		if s.IntN(8) == 0 {
			delete(s.shared, key)
			continue
		}
		taken[number] = true
	}
	for _, key := range slices.Sorted(maps.Keys(s.wanted)) {
		number := model.FirstLabelIdentity + model.Identity(s.IntN(40))
		if _, has := s.shared[key]; !has && !taken[number] && s.IntN(2) == 0 {
			s.shared[key], taken[number] = number, true
		}
	}
	return fmt.Sprint(len(s.shared), " numbers")
}

var stepUplink = model.Uplink{Name: "uplink"}

// connect gives the node an uplink, by which it masquerades now and then.
func (s *stepper) connect() {
	s.local.Uplinks = []model.Uplink{stepUplink}
	s.local.Options.Masquerade = s.IntN(2) == 0
	s.local.Options.MasqueradeExcluded = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
}
