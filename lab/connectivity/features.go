// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/lab/kube"
)

// Enforced is whether policies hold.
type Enforced string

// Values of Enforced.
const (
	Yes     Enforced = "yes"
	No      Enforced = "no"
	Untried Enforced = "untried" // before anything is made, where Weir does not run
)

// Features are what a cluster has, as far as its API tells and was tried out.
type Features struct {
	Server     string   `json:"server"`
	Version    string   `json:"version"` // of Kubernetes
	Nodes      []string `json:"nodes"`   // that are ready; the actions' first
	NotReady   []string `json:"notReady,omitempty"`
	Kernels    []string `json:"kernels"`
	Families   []Family `json:"families"` // of pods
	Weir       bool     `json:"weir"`
	Plugin     string   `json:"plugin"`
	Proxy      string   `json:"proxy"`
	Kinds      []string `json:"policyKinds"` // known to the API
	Policies   Enforced `json:"policies"`
	DNS        bool     `json:"dns"`
	Balancer   string   `json:"loadBalancer"` // who gives addresses
	Outside    []Family `json:"outside"`      // by which this machine is the nodes' neighbour
	WayBack    []Family `json:"wayBack"`      // by which pods are answered from there
	ClockAhead float64  `json:"clockAheadSeconds,omitempty"`
	// HostPods says why there are no pods with nodes' networks; empty: there are.
	HostPods string `json:"hostPods,omitempty"`
}

// unknown is of what the API does not tell.
const unknown = "unknown"

// plugins are names of DaemonSets, and whose network they are a sign of.
var plugins = map[string]string{
	"weir": "Weir", "cilium": "Cilium", "calico-node": "Calico", "kube-flannel-ds": "Flannel", "kindnet": "kindnet",
	"antrea-agent": "Antrea", "aws-node": "Amazon VPC CNI", "azure-cni": "Azure CNI", "kube-router": "kube-router",
	"ovnkube-node": "OVN-Kubernetes", "weave-net": "Weave Net", "canal": "Canal", "kube-ovn-cni": "Kube-OVN",
}

// pluginOf names the plugin that the DaemonSets of a cluster are a sign of.
func pluginOf(sets []appsv1.DaemonSet) string {
	var found []string
	for i := range sets {
		if name := plugins[sets[i].Name]; name != "" {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return unknown
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " and ")
}

// proxyOf names who serves services, with its mode where that is known.
func proxyOf(sets []appsv1.DaemonSet, config string) string {
	for i := range sets {
		if sets[i].Name != "kube-proxy" {
			continue
		}
		for line := range strings.Lines(config) {
			if mode, is := strings.CutPrefix(strings.TrimSpace(line), "mode:"); is {
				if mode = strings.Trim(strings.TrimSpace(mode), `"`); mode != "" {
					return "kube-proxy, " + mode
				}
			}
		}
		return "kube-proxy"
	}
	switch plugin := pluginOf(sets); plugin {
	case "Weir", "Cilium", "kube-router", "OVN-Kubernetes":
		return plugin
	}
	return unknown
}

// familiesOf are those of the pods' addresses.
func familiesOf(nodes []corev1.Node, pods []corev1.Pod) (all []Family) {
	has := map[bool]bool{}
	for i := range nodes {
		for _, block := range nodes[i].Spec.PodCIDRs {
			if c, err := netip.ParsePrefix(block); err == nil {
				has[c.Addr().Is6()] = true
			}
		}
	}
	for i := range pods {
		for _, ip := range pods[i].Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil && !pods[i].Spec.HostNetwork {
				has[a.Is6()] = true
			}
		}
	}
	for _, family := range Families() {
		if has[family.is6()] {
			all = append(all, family)
		}
	}
	return all
}

// balancerOf names who gives load balancers' addresses, by a service that has one.
func balancerOf(services []corev1.Service) string {
	for i := range services {
		s := &services[i]
		own := ptr.Deref(s.Spec.LoadBalancerClass, "") == ownClass // of a run, which gives them itself
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer && !own && len(s.Status.LoadBalancer.Ingress) > 0 {
			return "somebody, as to " + s.Namespace + "/" + s.Name
		}
	}
	return "nobody yet"
}

// detect asks the API.
func detect(ctx context.Context, session *kube.Session) (*Features, error) {
	api := session.Kube()
	f := &Features{Server: session.Host(), NotReady: session.Waiting(), Weir: session.Weir, Policies: Untried, ClockAhead: clockAhead(session.ClockAhead()),
		Kinds: []string{}, Outside: []Family{}, WayBack: []Family{}}
	for _, n := range session.Ready() {
		f.Nodes = append(f.Nodes, n.Name)
		if k := n.Status.NodeInfo.KernelVersion; !slices.Contains(f.Kernels, k) {
			f.Kernels = append(f.Kernels, k)
		}
		f.Version = n.Status.NodeInfo.KubeletVersion
	}
	sets, err := api.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the DaemonSets: %w", err)
	}
	pods, err := api.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the pods of kube-system: %w", err)
	}
	services, err := api.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the services: %w", err)
	}
	config := ""
	if c, err := api.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-proxy", metav1.GetOptions{}); err == nil {
		config = c.Data["config.conf"]
	}
	f.Plugin, f.Proxy, f.Families = pluginOf(sets.Items), proxyOf(sets.Items, config), familiesOf(session.Ready(), pods.Items)
	f.Balancer = balancerOf(services.Items)
	f.DNS = slices.ContainsFunc(services.Items, func(s corev1.Service) bool { return s.Namespace == "kube-system" && s.Labels["k8s-app"] == "kube-dns" })
	for _, kind := range []string{"NetworkPolicy", "ClusterNetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"} {
		if session.HasKind(kind) {
			f.Kinds = append(f.Kinds, kind)
		}
	}
	if f.Weir {
		f.Policies = Yes
	}
	for _, family := range f.Families {
		if !session.HasOutside(family.is6()) {
			continue
		}
		f.Outside = append(f.Outside, family)
		if session.Weir && session.Masquerade || session.LeadsOutside(family.is6()) {
			f.WayBack = append(f.WayBack, family)
		}
	}
	return f, nil
}

// clockAhead is nothing where it is within what is measured and usual.
func clockAhead(by time.Duration) float64 {
	if by.Abs() < 10*time.Second {
		return 0
	}
	return by.Round(time.Second).Seconds()
}

// Lacks says why an action cannot be in the cluster; empty: it can.
func (f *Features) Lacks(a *Action) string {
	if !slices.Contains(f.Families, a.Family) {
		return fmt.Sprintf("pods have no %s addresses", a.Family)
	}
	for _, need := range a.Needs {
		if why := f.lacks(need, a.Family); why != "" {
			return why
		}
	}
	return ""
}

func (f *Features) lacks(need Need, family Family) string {
	switch need {
	case NeedTwoNodes:
		if len(f.Nodes) < 2 {
			return "one node alone is ready"
		}
	case NeedOutside:
		if !slices.Contains(f.Outside, family) {
			return fmt.Sprintf("this machine is no neighbour of the nodes by %s", family)
		}
	case NeedWayBack:
		if !slices.Contains(f.WayBack, family) {
			return fmt.Sprintf("this machine has no way back to pods' %s addresses, and that their network gives them others is not known", family)
		}
	case NeedPolicies:
		if f.Policies == No {
			return "the network does not enforce policies: one that denies all was tried, and denied nothing"
		}
	case NeedCilium, NeedClusterwide, NeedClusterKinds:
		if kind := strings.TrimPrefix(string(need), "the kind "); !slices.Contains(f.Kinds, kind) {
			return "the API has no kind " + kind
		}
	case NeedDNS:
		if !f.DNS {
			return "no service of kube-system has the label k8s-app=kube-dns"
		}
	case NeedHostPods:
		if f.HostPods != "" {
			return "no pods with nodes' networks may be made: " + f.HostPods
		}
	}
	return ""
}

// Rows are what people are shown: a name and a value each.
func (f *Features) Rows() [][2]string {
	yes := func(families []Family, no string) string {
		if len(families) == 0 {
			return no
		}
		var names []string
		for _, family := range families {
			names = append(names, family.String())
		}
		return strings.Join(names, ", ")
	}
	nodes := fmt.Sprintf("%d ready: %s", len(f.Nodes), strings.Join(f.Nodes, ", "))
	if len(f.NotReady) > 0 {
		nodes += "; left out, since not ready: " + strings.Join(f.NotReady, ", ")
	}
	rows := [][2]string{
		{"API server", f.Server + ", Kubernetes " + f.Version},
		{"nodes", nodes},
		{"kernels", strings.Join(f.Kernels, ", ")},
		{"families", yes(f.Families, "none")},
		{"plugin", f.Plugin},
		{"services by", f.Proxy},
		{"policy kinds", strings.Join(f.Kinds, ", ")},
		{"policies hold", map[Enforced]string{Yes: "yes", No: "no: one that denies all denied nothing", Untried: "to be tried out"}[f.Policies]},
		{"load balancer", f.Balancer + " gives addresses; the test gives one to a service of a class of its own"},
		{"DNS", map[bool]string{true: "yes", false: "no service with the label k8s-app=kube-dns"}[f.DNS]},
		{"outside", yes(f.Outside, "this machine is no neighbour of the nodes")},
		{"SCTP", "not tried: the probes speak TCP, UDP and ICMP"},
	}
	if f.ClockAhead != 0 {
		rows = append(rows, [2]string{"clock", fmt.Sprintf("the API server's is %.0f s ahead of this machine's; leases go by it", f.ClockAhead)})
	}
	return rows
}
