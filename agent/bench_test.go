// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/model"
)

// A city is a cluster of so many pods on nodes of 100 pods each, with 1,000
// policies, and 10,000 services of 10 backends. Its first node is this one.
const (
	citySpaces    = 100
	cityApps      = 10 // in each of the namespaces: 1,000 identities
	cityPodsANode = 100
	cityPolicies  = 1_000
	cityServices  = 10_000
	cityBackends  = 10
)

// city is the API of such a cluster, and the agent of a node of it.
type city struct {
	*node
	b     *testing.B
	pods  int
	fresh uint32 // addresses that were given beside those of the start

	mu      sync.Mutex
	ipcache *ebpf.Map
	waiting map[netip.Addr]time.Time // changes that are not in the datapath, since when
	took    []time.Duration          // until each was
	effect  chan struct{}            // none is waited for
}

func (c *city) put(o metav1.Object) { require.NoError(c.b, c.source.tables.Put(o)) }

func cityNode(i int) string { return fmt.Sprintf("node-%d", i+1) }

func cityAddress(i int) netip.Addr {
	on, n := i/cityPodsANode, i%cityPodsANode
	return netip.AddrFrom4([4]byte{10, byte(1 + on>>8), byte(on), byte(10 + n)})
}

func cityPod(i int) *corev1.Pod {
	app := i % (citySpaces * cityApps)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: fmt.Sprintf("space-%d", app%citySpaces), Name: fmt.Sprintf("pod-%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i)),
		Labels: map[string]string{"app": fmt.Sprint(app / citySpaces)},
	}}
	pod.Spec.NodeName = cityNode(i / cityPodsANode)
	pod.Spec.Containers = []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
	setAddress(pod, cityAddress(i))
	return pod
}

func setAddress(pod *corev1.Pod, addr netip.Addr) {
	pod.Status.PodIP, pod.Status.PodIPs = addr.String(), []corev1.PodIP{{IP: addr.String()}}
}

// cityPolicy lets pods of the same namespace, and of one team's, come to an app.
func cityPolicy(i int) *networkingv1.NetworkPolicy {
	port := intstr.FromInt32(8080)
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("space-%d", i%citySpaces), Name: fmt.Sprintf("policy-%d", i)}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"app": fmt.Sprint(i / citySpaces % cityApps)}
	policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "1"}}},
			{PodSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "1"}}},
		},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
	}}
	return policy
}

func cityService(i int) *corev1.Service {
	address := fmt.Sprintf("10.96.%d.%d", i>>8, i&255)
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("space-%d", i%citySpaces), Name: fmt.Sprintf("service-%d", i)}}
	svc.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: address, ClusterIPs: []string{address},
		Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	}
	return svc
}

func citySlice(i, pods int) *discoveryv1.EndpointSlice {
	port := int32(8080)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("space-%d", i%citySpaces), Name: fmt.Sprintf("service-%d-x", i),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("service-%d", i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
	for n := range cityBackends {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{cityAddress((cityBackends*i + n) % pods).String()}})
	}
	return slice
}

// newCity has an agent running, whose datapath has the city.
func newCity(b *testing.B, pods int) *city {
	c := &city{
		node: newNode(b), b: b, pods: pods,
		waiting: map[netip.Addr]time.Time{}, effect: make(chan struct{}, 1),
	}
	for i := range citySpaces {
		c.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("space-%d", i), Labels: map[string]string{"team": fmt.Sprint(i % 7)}}})
	}
	for i := range pods / cityPodsANode {
		blocks := netip.PrefixFrom(cityAddress(i*cityPodsANode), 24).Masked().String()
		at := fmt.Sprintf("172.18.%d.%d", i/250, 1+i%250)
		c.put(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: cityNode(i)}, Spec: corev1.NodeSpec{PodCIDR: blocks, PodCIDRs: []string{blocks}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: at}}},
		})
	}
	for i := range pods {
		c.put(cityPod(i))
	}
	for i := range cityPolicies {
		c.put(cityPolicy(i))
	}
	for i := range cityServices {
		c.put(cityService(i))
		c.put(citySlice(i, pods))
	}
	link, err := netlink.LinkByName(uplink)
	require.NoError(b, err)
	address, err := netlink.ParseAddr("172.18.0.1/16")
	require.NoError(b, err)
	require.NoError(b, netlink.AddrAdd(link, address))
	c.connectPods()
	c.options.Config.Tables = map[model.Table]int{model.TableIPCache: 1 << 18, model.TableServices: 1 << 17, model.TableBackends: 1 << 20, model.TableSlotRows: 1 << 20}
	c.options.Datapath.Step = func(step string) {
		if step == "end" {
			c.applied()
		}
	}
	c.start()
	require.Eventually(b, func() bool { s := c.status(); return s.Ready && s.Endpoints.Ready == cityPodsANode }, 5*time.Minute, 10*time.Millisecond)
	require.Empty(b, c.status().Errors)
	require.Empty(b, c.status().Refused)
	c.ipcache, err = ebpf.LoadPinnedMap(filepath.Join(c.paths.Pins, "ipcache"), nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, c.ipcache.Close()) })
	return c
}

// connectPods makes what the CNI plugin has made of this node's pods.
func (c *city) connectPods() {
	store, err := endpoints.Open(c.paths.StateDir)
	require.NoError(c.b, err)
	for i := range cityPodsANode {
		pod := cityPod(i)
		at := api.Attachment{ContainerID: fmt.Sprintf("container-%d", i), IfName: "eth0"}
		e, err := store.Restore(api.EndpointRequest{
			ContainerID: at.ContainerID, IfName: at.IfName, PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: string(pod.UID),
		}, []netip.Addr{cityAddress(i)}, model.Gateways(), 1500)
		require.NoError(c.b, err)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = e.HostDevice
		require.NoError(c.b, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("pod%d", i), PeerTxQLen: -1}))
		link, err := netlink.LinkByName(e.HostDevice)
		require.NoError(c.b, err)
		_, err = store.Wire(at, link.Attrs().Index)
		require.NoError(c.b, err)
	}
}

// move gives a pod of another node an address that nobody has had.
func (c *city) move(n int) {
	pod := cityPod(cityPodsANode + n%(c.pods-cityPodsANode))
	addr := netip.AddrFrom4([4]byte{11, byte(c.fresh >> 16), byte(c.fresh >> 8), byte(c.fresh)})
	c.fresh++
	pod.ResourceVersion = fmt.Sprint(c.fresh) // as the API gives each change another
	setAddress(pod, addr)
	c.mu.Lock()
	c.waiting[addr] = time.Now()
	c.mu.Unlock()
	c.put(pod)
	c.source.changed()
}

// applied looks which changes packets meet by now.
func (c *city) applied() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		return
	}
	value := make([]byte, c.ipcache.ValueSize())
	none := make([]byte, c.ipcache.ValueSize())
	for addr, since := range c.waiting {
		key := addr.As16()
		if c.ipcache.Lookup(key[:], value) == nil && !bytes.Equal(value, none) {
			c.took = append(c.took, time.Since(since))
			delete(c.waiting, addr)
		}
	}
	if len(c.waiting) == 0 {
		select {
		case c.effect <- struct{}{}:
		default:
		}
	}
}

func (c *city) wait() {
	select {
	case <-c.effect:
	case <-time.After(time.Minute):
		c.mu.Lock()
		defer c.mu.Unlock()
		c.b.Fatalf("changes are not in the datapath: %v", slices.Collect(maps.Keys(c.waiting)))
	}
}

// warm has what is made when it is needed first be made, and the agent rest from it.
func (c *city) warm() {
	for i := range 20 {
		c.move(i)
		c.wait()
	}
	runtime.GC()
}

func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

var citySizes = []int{10_000, 100_000}

// Changes are measured in turns. A look at the node's devices and routes, which
// comes each half a minute, and a collection of garbage fall into some of them.
const (
	turns     = 25
	movesEach = 20
)

// What a pod's change on another node costs the agent, in all: it is told of it,
// compiles, and applies. cpu-ms is what the process used for it in the median turn,
// and mean-cpu-ms in all of them; to-10k is how many times the first that of a tenth
// of the pods is.
func BenchmarkAPodElsewhere(b *testing.B) {
	var first float64
	for _, pods := range citySizes {
		b.Run(fmt.Sprintf("%dk", pods/1000), func(b *testing.B) {
			c := newCity(b, pods)
			c.warm()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var used []float64 // ms, each turn's change
			for b.Loop() {
				for range turns {
					began := cpuTime(b)
					for range movesEach {
						c.move(int(c.fresh))
						c.wait()
					}
					used = append(used, float64((cpuTime(b)-began).Microseconds())/1000/movesEach)
				}
			}
			runtime.ReadMemStats(&after)
			var sum float64
			for _, turn := range used {
				sum += turn
			}
			slices.Sort(used)
			once, changes := used[len(used)/2], float64(movesEach*len(used))
			b.ReportMetric(once, "cpu-ms/change")
			b.ReportMetric(sum/float64(len(used)), "mean-cpu-ms/change")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/changes, "allocs/change")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/changes/1024, "KiB/change")
			b.ReportMetric(0, "ns/op")
			if first == 0 {
				first = once
			} else {
				b.ReportMetric(once/first, "to-10k")
			}
		})
	}
}

// burstLasts is how long a burst of changes lasts; WEIR_BURST has another time.
const burstLasts = 10 * time.Second

// What 1,000 changes a second cost the agent, and how long each takes until
// packets meet it.
func BenchmarkABurst(b *testing.B) {
	const interval = time.Millisecond
	lasts := burstLasts
	if text := os.Getenv("WEIR_BURST"); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(b, err)
	}
	c := newCity(b, citySizes[0])
	c.warm()
	c.took = nil
	for b.Loop() {
		began, used, n := time.Now(), cpuTime(b), 0
		for ; time.Since(began) < lasts; n++ {
			time.Sleep(time.Until(began.Add(time.Duration(n) * interval)))
			c.move(n)
		}
		c.wait()
		share := float64(cpuTime(b)-used) / float64(time.Since(began))
		b.ReportMetric(100*share, "%core")
		b.ReportMetric(float64(n)/time.Since(began).Seconds(), "changes/s")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.took)
	at := func(share float64) float64 {
		return float64(c.took[int(share*float64(len(c.took)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
	b.ReportMetric(0, "ns/op")
}
