// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/lab/junit"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/model"
)

func names(actions []Action) (all []string) {
	for i := range actions {
		all = append(all, actions[i].Name())
	}
	return all
}

func TestEveryActionHasANameOfItsOwnAndWhatItNeeds(t *testing.T) {
	all := names(Actions())
	sorted := slices.Clone(all)
	slices.Sort(sorted)
	require.Len(t, slices.Compact(sorted), len(all))
	for _, a := range Actions() {
		probes, _ := uses(&a)
		for _, name := range probes {
			s, known := seats[name]
			require.True(t, known, "%s is of a probe %s, which has no seat", a.Name(), name)
			if s.namespace == inNodes {
				require.True(t, slices.Contains(a.Needs, NeedHostPods), "%s needs pods with nodes' networks for %s", a.Name(), name)
			}
			if s.node > 0 && (name == a.From || name == a.To.Name) {
				require.True(t, slices.Contains(a.Needs, NeedTwoNodes), "%s needs two nodes for %s", a.Name(), name)
			}
		}
		if a.From == Outside {
			require.True(t, slices.Contains(a.Needs, NeedOutside), a.Name())
		}
		if a.Denied {
			require.True(t, slices.Contains(a.Needs, NeedPolicies), a.Name())
		}
		if a.To.Kind == ToNodePort && a.To.Node > 1 {
			require.True(t, slices.Contains(a.Needs, NeedTwoNodes), a.Name())
		}
	}
}

func TestWhatAPolicyDeniesIsTriedWithoutIt(t *testing.T) {
	type way struct {
		from   string
		to     Target
		verb   Verb
		family Family
	}
	without, denied := map[way]bool{}, map[way]bool{}
	for _, a := range Actions() {
		if a.Test == "policy-none" {
			require.False(t, a.Denied)
			without[way{a.From, a.To, a.Verb, a.Family}] = true
		}
		if a.Denied {
			denied[way{a.From, a.To, a.Verb, a.Family}] = true
		}
	}
	require.NotEmpty(t, denied)
	require.Equal(t, denied, without)
}

func TestASelectionTakesByNameAndFamily(t *testing.T) {
	s := Selection{Run: regexp.MustCompile("^hairpin/"), Skip: regexp.MustCompile("udp")}
	require.Equal(t, []string{"hairpin/tcp/ipv4", "hairpin/tcp/ipv6"}, names(s.Take(Actions())))
	s.Families = []Family{IPv6}
	require.Equal(t, []string{"hairpin/tcp/ipv6"}, names(s.Take(Actions())))

	s = Selection{Run: regexp.MustCompile("^perf/same-node-latency/ipv4")}
	require.Empty(t, s.Take(Actions()), "what measures has to be asked for")
	s.Perf = true
	require.Len(t, s.Take(Actions()), 1)
	require.Len(t, (&Selection{Perf: true}).Take(Actions()), len(Actions()))
}

func TestWhatAClusterLacksIsWhyAnActionIsSkipped(t *testing.T) {
	whole := Features{Nodes: []string{"a", "b"}, Families: Families(), Policies: Yes, DNS: true, Outside: Families(), WayBack: Families(),
		Kinds: []string{"NetworkPolicy", "ClusterNetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"}}
	for _, a := range Actions() {
		require.Empty(t, whole.Lacks(&a), a.Name())
	}
	for need, change := range map[Need]func(*Features) string{
		NeedTwoNodes: func(f *Features) string { f.Nodes = f.Nodes[:1]; return "one node alone is ready" },
		NeedOutside:  func(f *Features) string { f.Outside = nil; return "this machine is no neighbour of the nodes by IPv6" },
		NeedWayBack:  func(f *Features) string { f.WayBack = nil; return "no way back to pods' IPv6 addresses" },
		NeedPolicies: func(f *Features) string { f.Policies = No; return "does not enforce policies" },
		NeedDNS:      func(f *Features) string { f.DNS = false; return "k8s-app=kube-dns" },
		NeedHostPods: func(f *Features) string { f.HostPods = "it is refused"; return "it is refused" },
		NeedCilium: func(f *Features) string {
			f.Kinds = []string{"NetworkPolicy"}
			return "the API has no kind CiliumNetworkPolicy"
		},
		NeedClusterKinds: func(f *Features) string { f.Kinds = nil; return "the API has no kind ClusterNetworkPolicy" },
	} {
		f := whole
		want := change(&f)
		require.Contains(t, f.Lacks(&Action{Family: IPv6, Needs: []Need{need}}), want)
		require.Empty(t, f.Lacks(&Action{Family: IPv6}))
	}
	one := whole
	one.Families = []Family{IPv4}
	require.Equal(t, "pods have no IPv6 addresses", one.Lacks(&Action{Family: IPv6}))
	untried := whole
	untried.Policies = Untried
	require.Empty(t, untried.Lacks(&Action{Family: IPv4, Needs: []Need{NeedPolicies}}), "before it is tried nothing is known")
}

// A policy of the whole cluster is for pods of the run alone.
func TestPoliciesOfTheWholeClusterHoldForTheRun(t *testing.T) {
	wide := map[string]bool{"ClusterNetworkPolicy": true, "CiliumClusterwideNetworkPolicy": true}
	tried := map[string]bool{}
	for _, test := range Tests() {
		for _, o := range test.Others {
			tried[o.Kind] = true
			require.Contains(t, test.Needs, Need("the kind "+o.Kind), test.Name)
			spec, err := json.Marshal(o.Spec("weir-run-policy"))
			require.NoError(t, err)
			require.Equal(t, wide[o.Kind], strings.Contains(string(spec), "weir-run-policy"), test.Name)
		}
	}
	require.Equal(t, map[string]bool{"ClusterNetworkPolicy": true, "CiliumClusterwideNetworkPolicy": true, "CiliumNetworkPolicy": true}, tried)
}

func set(name string) appsv1.DaemonSet {
	return appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestTheNetworkIsKnownByItsDaemons(t *testing.T) {
	require.Equal(t, "Weir", pluginOf([]appsv1.DaemonSet{set("weir"), set("node-exporter")}))
	require.Equal(t, "Calico and Flannel", pluginOf([]appsv1.DaemonSet{set("kube-flannel-ds"), set("calico-node")}))
	require.Equal(t, "unknown", pluginOf(nil))
	require.Equal(t, "Weir", proxyOf([]appsv1.DaemonSet{set("weir")}, ""))
	require.Equal(t, "kube-proxy, nftables", proxyOf([]appsv1.DaemonSet{set("kube-proxy")}, "kind: KubeProxyConfiguration\nmode: nftables\n"))
	require.Equal(t, "kube-proxy", proxyOf([]appsv1.DaemonSet{set("kindnet"), set("kube-proxy")}, "mode: \"\"\n"))
	require.Equal(t, "unknown", proxyOf([]appsv1.DaemonSet{set("kindnet")}, ""))
}

func TestWhoGivesAddressesIsKnownByOneThatWasGiven(t *testing.T) {
	svc := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	require.Equal(t, "nobody yet", balancerOf([]corev1.Service{svc}))
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	require.Equal(t, "somebody, as to a/b", balancerOf([]corev1.Service{svc}))
	svc.Spec.LoadBalancerClass = ptr.To(ownClass)
	require.Equal(t, "nobody yet", balancerOf([]corev1.Service{svc}))
}

func TestFamiliesAreThoseOfPods(t *testing.T) {
	node := corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}}
	require.Equal(t, []Family{IPv4}, familiesOf([]corev1.Node{node}, nil))
	p := corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "fd00::1"}}}}
	require.Equal(t, Families(), familiesOf([]corev1.Node{node}, []corev1.Pod{p}), "plugins may give addresses that nodes do not tell of")
	p.Spec.HostNetwork = true
	require.Equal(t, []Family{IPv4}, familiesOf([]corev1.Node{node}, []corev1.Pod{p}), "a node's address is no pod's")
	require.Zero(t, clockAhead(3*time.Second))
	require.Equal(t, -7200.0, clockAhead(-2*time.Hour))
}

func report() *Report {
	return &Report{
		Features: &Features{Server: "https://192.0.2.1:6443", Policies: No},
		Seconds:  3.5,
		Results: []Result{
			{Name: "dns/a/ipv4", Test: "dns", Case: "a", Family: IPv4, Status: Passed, Seconds: 0.25, Attempts: 1},
			{Name: "dns/b/ipv6", Test: "dns", Case: "b", Family: IPv6, Status: Failed, What: "a -> b, tcp", Attempts: 2, Errors: []string{"timed out", "refused\x1b"}, Drops: []string{"policy-ingress"}},
			{Name: "dns/c/ipv4", Test: "dns", Case: "c", Family: IPv4, Status: Flaky, Attempts: 2, Errors: []string{"timed out"}},
			{Name: "dns/d/ipv4", Test: "dns", Case: "d", Family: IPv4, Status: Skipped, Reason: "one node alone is ready"},
		},
	}
}

func TestAReportIsJUnit(t *testing.T) {
	var out bytes.Buffer
	r := report()
	r.Problem = "the time is over"
	require.NoError(t, r.JUnit(&out))
	var doc junit.Suites
	require.NoError(t, xml.Unmarshal(out.Bytes(), &doc))
	s := doc.Suites[0]
	require.Equal(t, []int{5, 1, 1, 1}, []int{s.Tests, s.Failures, s.Errors, s.Skipped})
	require.Equal(t, "3.500", s.Seconds)
	require.Contains(t, s.Properties, junit.Property{Name: "API server", Value: "https://192.0.2.1:6443, Kubernetes "})
	require.Equal(t, "0.250", s.Cases[0].Seconds)
	require.Equal(t, "refused", s.Cases[1].Failure.Message, "what XML cannot hold is left out")
	require.Equal(t, "a -> b, tcp\nattempt 1: timed out\nattempt 2: refused\ndrop: policy-ingress", s.Cases[1].Failure.Text)
	require.Nil(t, s.Cases[2].Failure, "what is flaky passes")
	require.Equal(t, "attempt 1: timed out\nattempt 2: it succeeded", s.Cases[2].Out)
	require.Equal(t, "one node alone is ready", s.Cases[3].Skipped.Message)
	require.Equal(t, "the time is over", s.Cases[4].Error.Message)
}

func TestAReportIsJSON(t *testing.T) {
	var out bytes.Buffer
	r := report()
	require.NoError(t, r.JSON(&out))
	var back Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, r.Results, back.Results)
	require.Equal(t, "1 passed, 1 failed, 1 flaky, 1 skipped", Count(back.Results).String())
	require.NotContains(t, out.String(), "problem")
}

func TestAnActionIsGivenTheEventsOfItsPackets(t *testing.T) {
	d := new(events)
	line := func(e event) string {
		text, err := json.Marshal(e)
		require.NoError(t, err)
		return string(text) + "\n"
	}
	before := time.Now()
	drop := event{Verdict: "drop", Reason: "policy-ingress", Hook: "to-container", Endpoint: "a/b", Protocol: "tcp", Source: "10.0.0.1:1000", Target: "10.0.0.2:8080", Policy: "a/deny"}
	others, ping, flow := drop, drop, event{Verdict: "forward", Protocol: "tcp", Source: "10.0.0.1:1000", Target: "10.96.0.1:80", TargetAfter: "10.0.0.2:8080"}
	ping.Protocol = "icmp"
	others.Source, others.Target = "10.0.0.8:1", "10.0.0.9:1"
	d.read(strings.NewReader(line(drop) + line(drop) + line(others) + line(ping) + line(flow) + "no JSON\n" + `{"missed": 3}` + "\n"))
	of := &deed{Action: &Action{Family: IPv4, Verb: TCP, By: servers}, from: &kube.Member{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, to: netip.MustParseAddrPort("10.96.0.1:80")}
	require.Equal(t, []string{"policy-ingress at to-container of a/b: tcp 10.0.0.1:1000 > 10.0.0.2:8080 by a/deny"}, d.drops(of, before))
	require.Empty(t, d.drops(of, time.Now()), "those of before are others'")

	client, server := []netip.Addr{netip.MustParseAddr("10.0.0.1")}, []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.0.0.2")}
	require.Len(t, d.between(before, "tcp", client, server), 3)
	require.JSONEq(t, strings.TrimSpace(line(flow)), string(d.between(before, "tcp", client, server[:1])[0]))
	require.Len(t, d.between(before, "icmp", client, server), 1)
	require.Empty(t, d.between(time.Now(), "tcp", client, server))
	require.Empty(t, (*events)(nil).between(before, "tcp", client, server))

	of.By, of.to = nil, netip.MustParseAddrPort("10.0.0.3:80")
	require.Empty(t, d.drops(of, before), "the packet was to another one than was asked")
	of.By, of.Denied = servers, true
	require.Empty(t, d.drops(of, before), "a policy's drops are what is asked for")
	require.Empty(t, (*events)(nil).drops(of, before))
}

func TestADatagramHasThePathsRoom(t *testing.T) {
	require.Equal(t, 1472, (&deed{Action: &Action{Family: IPv4}}).room(1500))
	require.Equal(t, 1452, (&deed{Action: &Action{Family: IPv6}}).room(1500))
	require.Equal(t, model.ProtocolUDP, Fragments.protocol())
	require.Equal(t, model.ProtocolTCP, Transfer.protocol())
}
