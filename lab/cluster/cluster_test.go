// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/cluster/traffic"
)

// TestCluster takes an empty cluster through Weir's whole life there. Steps
// build on those before: the first that fails ends it.
//
//	this machine --- node 1 --- node 2 --- ...
//	                  web        web        servers, one a node at least
//	                  client     client     who ask them
//	                  tool       tool       a shell with the node's network
func TestCluster(t *testing.T) {
	e := newEnvironment(t)
	e.namespace(t)
	kept := os.Getenv(envKeep) == "1"
	t.Cleanup(func() {
		if !kept {
			_ = e.kube.CoreV1().Namespaces().Delete(context.Background(), e.ns, metav1.DeleteOptions{})
		}
	})
	steps := []struct {
		name string
		run  func(*environment, *testing.T)
	}{
		{"an empty cluster takes Weir", install},
		{"every node is healthy", healthy},
		{"CoreDNS runs", coreDNS},
		{"everything reaches what it has to, and nothing else", connected},
		{"services lead to pods of all nodes", services},
		{"identities are the same on all nodes", identities},
		{"node ports answer from outside", nodePorts},
		{"the nodes themselves reach services", fromNodes},
		{"a host port answers from outside and on the node", hostPort},
		{"a policy decides who comes in", policy},
		{"a tenant takes nothing that is others'", tenants},
		{"a zip tells of every node", sysdump},
		{"a killed agent costs no request and no connection", kill},
		{"agents are replaced one by one without a loss", restart},
		{"identities are still the same on all nodes", identities},
		{"traffic goes on without the API server", withoutAPI},
		{"a node that restarts comes back", restartNode},
		{"a hundred pods leave nothing behind", crowd},
		{"every node is healthy in the end", healthy},
		{"Weir leaves the nodes clean", uninstall},
		{"Weir connects pods of before anew", again},
		{"Weir leaves the nodes clean again", remove},
	}
	for _, s := range steps {
		if kept && s.name == "Weir leaves the nodes clean" {
			e.say("Weir stays, as CLUSTER_KEEP says")
			break
		}
		e.say("=== %s", s.name)
		if !t.Run(s.name, func(t *testing.T) { s.run(e, t) }) {
			e.say("=== failed: %s", s.name)
			return
		}
	}
}

func install(e *environment, t *testing.T) {
	e.startTools(t)
	e.podsReady(t, e.ns, "app=tool", len(e.nodes), 2*time.Minute)
	for _, n := range e.nodes {
		state, err := e.nodeState(t.Context(), n.Name)
		require.NoError(t, err)
		e.before[n.Name] = state
	}
	archive := filepath.Join(t.TempDir(), "weir.tar")
	if load := os.Getenv(envLoad); load != "" {
		_, err := e.run(t.Context(), e.weir, "image", "-o", archive, "--tag", e.image)
		require.NoError(t, err)
		words := append(strings.Fields(load), archive)
		_, err = e.run(t.Context(), words[0], words[1:]...)
		require.NoError(t, err)
	}
	_, err := e.run(t.Context(), e.weir, "install", "--image", e.image, "--wait", "--timeout", "3m")
	require.NoError(t, err)
}

func healthy(e *environment, t *testing.T) {
	_, err := e.run(t.Context(), e.weir, "status", "--wait", "--timeout", "1m")
	require.NoError(t, err)
}

// sysdump expects of each node what its agent says of itself, and that nothing lacks.
func sysdump(e *environment, t *testing.T) {
	path := filepath.Join(t.TempDir(), "dump.zip")
	_, err := e.run(t.Context(), e.weir, "sysdump", "-o", path, "--listen", "1s")
	require.NoError(t, err)
	dump, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer dump.Close()
	lacks, err := fs.ReadFile(dump, "errors.txt")
	require.NoError(t, err)
	require.Empty(t, string(lacks))
	for _, n := range e.nodes {
		var status struct {
			Node  string
			Ready bool
		}
		text, err := fs.ReadFile(dump, "nodes/"+n.Name+"/status.json")
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &status))
		require.Equal(t, n.Name, status.Node)
		require.True(t, status.Ready)
	}
}

func coreDNS(e *environment, t *testing.T) {
	e.podsReady(t, "kube-system", "k8s-app=kube-dns", 1, 2*time.Minute)
}

// services asks by name and by each family's address, from a client on each
// node, and expects that servers of all nodes answer.
func services(e *environment, t *testing.T) {
	servers := len(e.nodes)
	e.deploy(t, "web", servers)
	e.deploy(t, "client", len(e.nodes))
	service := e.service(t, "web")
	e.podsReady(t, e.ns, "app=web", servers, 2*time.Minute)
	clients := e.podsReady(t, e.ns, "app=client", len(e.nodes), 2*time.Minute)
	require.Len(t, service.Spec.ClusterIPs, len(e.families()), "the service has an address of each family")

	hosts := append([]string{"web", "web." + e.ns + ".svc.cluster.local"}, service.Spec.ClusterIPs...)
	for i := range clients {
		for _, host := range hosts {
			report := e.settled(t, &clients[i], traffic.Load{Target: net.JoinHostPort(host, "80"), Rate: 40, Duration: 2 * time.Second, Timeout: 5 * time.Second})
			require.Len(t, report.By, servers, "servers of all nodes answer %s on %s: %v", clients[i].Name, clients[i].Spec.NodeName, report.By)
			e.say("  %s -> %s: %d answers of %d servers", clients[i].Spec.NodeName, host, report.Answered, len(report.By))
		}
	}
}

// settled repeats a load until nothing of it is lost: a service's endpoints
// reach nodes a moment after their pods are ready.
func (e *environment) settled(t *testing.T, client *corev1.Pod, l traffic.Load) *traffic.Report {
	t.Helper()
	var report *traffic.Report
	e.quietly(t, 30*time.Second, fmt.Sprintf("%s on %s reaches %s", client.Name, client.Spec.NodeName, l.Target), func(ctx context.Context) (bool, string) {
		var err error
		if report, err = e.load(ctx, client.Name, l); err != nil {
			return false, err.Error()
		}
		return report.OK(), report.String()
	})
	return report
}

// quietly is eventually, for what is awaited often.
func (e *environment) quietly(t *testing.T, timeout time.Duration, what string, done func(context.Context) (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for {
		ok, state := done(ctx)
		if ok {
			return
		}
		e.say("  waiting until %s: %s", what, state)
		select {
		case <-ctx.Done():
			require.Failf(t, "timed out", "%s: not within %s: %s", what, timeout, state)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// nodePorts asks each address of each node from this machine.
func nodePorts(e *environment, t *testing.T) {
	for _, target := range e.nodePortTargets(t) {
		report := traffic.Load{Target: target, Rate: 60, Connections: 2, Every: 20 * time.Millisecond, Duration: time.Second, Timeout: 5 * time.Second}.Run(t.Context())
		require.True(t, report.OK(), "%s: %s", target, report)
		require.Len(t, report.By, len(e.nodes), "servers of all nodes answer %s: %v", target, report.By)
		e.say("  %s: %d answers of %d servers", target, report.Answered, len(report.By))
	}
}

// fromNodes asks from each node's own network: the service of the API server,
// which the node may serve itself, that of the pods, and node ports of its own
// addresses.
func fromNodes(e *environment, t *testing.T) {
	api, err := e.kube.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	web, err := e.kube.CoreV1().Services(e.ns).Get(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	for _, n := range e.nodes {
		var targets []string
		for _, ip := range api.Spec.ClusterIPs {
			targets = append(targets, ip+" 443")
		}
		for _, ip := range web.Spec.ClusterIPs {
			targets = append(targets, ip+" 80")
		}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && e.has(a.Address) {
				targets = append(targets, fmt.Sprintf("%s %d", a.Address, web.Spec.Ports[0].NodePort))
			}
		}
		for _, target := range targets {
			_, err := e.onNode(t.Context(), n.Name, "nc -z -w 5 "+target)
			require.NoError(t, err, "%s -> %s", n.Name, target)
			e.say("  %s -> %s: connected", n.Name, target)
		}
	}
}

// hostPort asks a pod by a port of its node.
func hostPort(e *environment, t *testing.T) {
	const name, number = "hostport", 18080
	spec := e.server(port)
	spec.Containers[0].Ports[0].HostPort = number
	_, err := e.kube.CoreV1().Pods(e.ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: spec,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	node := e.podsReady(t, e.ns, "app="+name, 1, time.Minute)[0].Spec.NodeName
	for _, n := range e.nodes {
		for _, a := range n.Status.Addresses {
			if n.Name != node || a.Type != corev1.NodeInternalIP || !e.has(a.Address) {
				continue
			}
			target := net.JoinHostPort(a.Address, strconv.Itoa(number))
			report := traffic.Load{Target: target, Rate: 60, Duration: time.Second, Timeout: 5 * time.Second}.Run(t.Context())
			require.True(t, report.OK(), "%s: %s", target, report)
			e.say("  %s: %d answers", target, report.Answered)
		}
	}
	if e.families()[0] == corev1.IPv4Protocol {
		_, err := e.onNode(t.Context(), node, fmt.Sprintf("nc -z -w 5 127.0.0.1 %d", number))
		require.NoError(t, err)
		e.say("  %s -> 127.0.0.1:%d: connected", node, number)
	}
	require.NoError(t, e.kube.CoreV1().Pods(e.ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

func (e *environment) nodePortTargets(t *testing.T) []string {
	service, err := e.kube.CoreV1().Services(e.ns).Get(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	var targets []string
	for _, n := range e.nodes {
		for _, a := range n.Status.Addresses {
			if a.Type != corev1.NodeInternalIP || !e.has(a.Address) {
				continue
			}
			targets = append(targets, net.JoinHostPort(a.Address, strconv.Itoa(int(service.Spec.Ports[0].NodePort))))
		}
	}
	return targets
}

// has is whether services have the family of an address.
func (e *environment) has(address string) bool {
	family := corev1.IPv4Protocol
	if strings.Contains(address, ":") {
		family = corev1.IPv6Protocol
	}
	for _, f := range e.families() {
		if f == family {
			return true
		}
	}
	return false
}

var resourceCiliumPolicy = schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumnetworkpolicies"}

// policy applies rule1: ships of the empire reach the death star on port 80,
// others do not, and nobody on another port.
func policy(e *environment, t *testing.T) {
	e.pod(t, "deathstar", map[string]string{"org": "empire", "class": "deathstar"}, 80, 81)
	e.pod(t, "tiefighter", map[string]string{"org": "empire", "class": "tiefighter"}, port)
	e.pod(t, "xwing", map[string]string{"org": "alliance", "class": "xwing"}, port)
	e.podsReady(t, e.ns, "class in (deathstar,tiefighter,xwing)", 3, time.Minute)
	star, err := e.kube.CoreV1().Pods(e.ns).Get(t.Context(), "deathstar", metav1.GetOptions{})
	require.NoError(t, err)

	reaches := func(ship, address, port string) (bool, string) {
		report, err := e.load(t.Context(), ship, traffic.Load{Target: net.JoinHostPort(address, port), Rate: 5, Duration: time.Second, Timeout: time.Second})
		if err != nil {
			return false, err.Error()
		}
		return report.OK(), report.String()
	}
	check := func(ship, address, port string, want bool) {
		e.quietly(t, 20*time.Second, fmt.Sprintf("%s -> %s:%s is allowed=%t", ship, address, port, want), func(context.Context) (bool, string) {
			got, state := reaches(ship, address, port)
			return got == want, state
		})
		// What is said of the cluster is what happens there.
		_, err := e.run(t.Context(), e.weir, "policy", "check", "--kubeconfig", os.Getenv("KUBECONFIG"),
			"--from", e.ns+"/"+ship, "--to", e.ns+"/deathstar", "--port", port+"/tcp")
		require.Equal(t, want, err == nil, "%s -> deathstar:%s: %v", ship, port, err)
		e.say("  %s -> deathstar %s:%s allowed=%t", ship, address, port, want)
	}
	for _, ip := range star.Status.PodIPs {
		for _, ship := range []string{"tiefighter", "xwing"} {
			check(ship, ip.IP, "80", true)
			check(ship, ip.IP, "81", true)
		}
	}
	rule := rule1(t)
	_, err = e.dynamic.Resource(resourceCiliumPolicy).Namespace(e.ns).Create(t.Context(), rule, metav1.CreateOptions{})
	require.NoError(t, err)
	for _, ip := range star.Status.PodIPs {
		check("xwing", ip.IP, "80", false)
		check("tiefighter", ip.IP, "81", false)
		check("tiefighter", ip.IP, "80", true)
	}
	require.NoError(t, e.dynamic.Resource(resourceCiliumPolicy).Namespace(e.ns).Delete(t.Context(), rule.GetName(), metav1.DeleteOptions{}))
	for _, ip := range star.Status.PodIPs {
		check("xwing", ip.IP, "80", true)
	}
	for _, pod := range []string{"deathstar", "tiefighter", "xwing"} {
		require.NoError(t, e.kube.CoreV1().Pods(e.ns).Delete(t.Context(), pod, metav1.DeleteOptions{}))
	}
}

// rule1 is the policy that docs/policy.md explains.
func rule1(t *testing.T) *unstructured.Unstructured {
	text, err := os.ReadFile("../../cmd/weir/testdata/policy/rule1.yaml")
	require.NoError(t, err)
	for _, part := range strings.Split(string(text), "\n---\n") {
		rule := new(unstructured.Unstructured)
		require.NoError(t, yaml.Unmarshal([]byte(part), &rule.Object))
		if rule.GetKind() == "CiliumNetworkPolicy" {
			return rule
		}
	}
	require.Fail(t, "rule1.yaml has no CiliumNetworkPolicy")
	return nil
}

const (
	requestsPerSecond = 1000
	// patience is longer than a machine that runs all nodes stands still while
	// it starts processes. Packets that were lost are in the report all the
	// same, as segments that were sent again.
	patience = 20 * time.Second
)

// underLoad sends requestsPerSecond in all, from a client on each node to the
// service and from this machine to a node's port, while it does something. The load
// lasts for a duration, and begins again until what it is there for has ended. It
// fails for anything that is lost.
func (e *environment) underLoad(t *testing.T, duration time.Duration, something func()) {
	t.Helper()
	service, err := e.kube.CoreV1().Services(e.ns).Get(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	clients := e.podsReady(t, e.ns, "app=client", len(e.nodes), time.Minute)
	outside := e.nodePortTargets(t)
	senders := len(clients) + len(outside)
	l := traffic.Load{Rate: requestsPerSecond / senders, Connections: 20, Every: 20 * time.Millisecond, Duration: duration, Timeout: patience}

	ended := make(chan struct{})
	var mu sync.Mutex
	var wait sync.WaitGroup
	var reports []*traffic.Report
	var errs []error
	send := func(load func() (*traffic.Report, error)) {
		wait.Go(func() {
			for {
				report, err := load()
				mu.Lock()
				reports, errs = append(reports, report), append(errs, err)
				mu.Unlock()
				select {
				case <-ended:
					return
				default:
				}
				if err != nil || t.Context().Err() != nil {
					return
				}
			}
		})
	}
	for i := range clients {
		asks := l
		asks.Target = net.JoinHostPort(service.Spec.ClusterIPs[i%len(service.Spec.ClusterIPs)], "80")
		send(func() (*traffic.Report, error) { return e.load(t.Context(), clients[i].Name, asks) })
	}
	for _, target := range outside {
		asks := l
		asks.Target = target
		send(func() (*traffic.Report, error) { return asks.Run(t.Context()), nil })
	}
	defer wait.Wait()
	func() {
		defer close(ended) // where something fails, too
		select {
		case <-time.After(duration / 5): // all of it flows
		case <-t.Context().Done():
		}
		something()
	}()
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Greater(t, e.lossless(t, reports), requestsPerSecond/2*int(duration.Seconds()), "the load is about what it should be")
}

// lossless fails for anything that is lost, and gives the number of requests.
func (e *environment) lossless(t *testing.T, reports []*traffic.Report) (requests int) {
	t.Helper()
	failed, connections, broken := 0, 0, 0
	for _, r := range reports {
		e.say("  %s: %s", r.Target, r)
		requests, failed, connections, broken = requests+r.Requests, failed+r.Failed, connections+r.Connections, broken+r.Broken
	}
	e.say("  in all: %d requests, %d failed; %d connections, %d broken", requests, failed, connections, broken)
	require.Zero(t, failed, "requests that failed")
	require.Zero(t, broken, "connections that broke")
	return requests
}

// kill ends the agent of a node that has a server and a client, as a lack of
// memory would.
func kill(e *environment, t *testing.T) {
	node := e.nodes[len(e.nodes)-1].Name
	agent := e.agentOf(t, node)
	restarts := restartsOf(agent)
	e.underLoad(t, 25*time.Second, func() {
		out, err := e.onNode(t.Context(), node, killAgent)
		require.NoError(t, err)
		require.Len(t, strings.Fields(out), 1, "one agent was killed on %s", node)
		e.say("  killed the agent of %s", node)
		e.eventually(t, 20*time.Second, "the agent of "+node+" is ready again", func(ctx context.Context) (bool, string) {
			now, err := e.kube.CoreV1().Pods("kube-system").Get(ctx, agent.Name, metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			return restartsOf(now) > restarts && isPodReady(now), fmt.Sprintf("%d restarts", restartsOf(now))
		})
	})
}

// killAgent prints whom it killed.
const killAgent = `for p in /proc/[0-9]*; do
	case "$(tr "\0" " " <$p/cmdline 2>/dev/null)" in "/weir agent"*) kill -9 ${p#/proc/} && echo ${p#/proc/};; esac
done`

func (e *environment) agentOf(t *testing.T, node string) *corev1.Pod {
	list, err := e.kube.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=weir,app.kubernetes.io/component=agent", FieldSelector: "spec.nodeName=" + node,
	})
	require.NoError(t, err)
	require.Len(t, list.Items, 1, "node %s has one agent", node)
	return &list.Items[0]
}

func restartsOf(pod *corev1.Pod) int {
	n := 0
	for _, s := range pod.Status.ContainerStatuses {
		n += int(s.RestartCount)
	}
	return n
}

// restart replaces all agents, as 'kubectl rollout restart' does.
func restart(e *environment, t *testing.T) {
	sets := e.kube.AppsV1().DaemonSets("kube-system")
	e.underLoad(t, time.Duration(30+20*len(e.nodes))*time.Second, func() {
		patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339))
		_, err := sets.Patch(t.Context(), "weir", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
		e.eventually(t, time.Duration(20+20*len(e.nodes))*time.Second, "all agents are new", func(ctx context.Context) (bool, string) {
			set, err := sets.Get(ctx, "weir", metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			s := set.Status
			return s.ObservedGeneration == set.Generation && int(s.UpdatedNumberScheduled) == len(e.nodes) && s.NumberUnavailable == 0 && int(s.NumberReady) == len(e.nodes),
				fmt.Sprintf("%d of %d new", s.UpdatedNumberScheduled, len(e.nodes))
		})
	})
}

const crowdSize = 100

// crowd makes pods and deletes them, and compares what nodes have.
func crowd(e *environment, t *testing.T) {
	e.quietNodes(t)
	was := map[string]string{}
	for _, n := range e.nodes {
		was[n.Name] = e.atRest(t, n.Name)
	}
	start := time.Now()
	e.deploy(t, "crowd", crowdSize)
	e.podsReady(t, e.ns, "app=crowd", crowdSize, 5*time.Minute)
	e.say("  %d pods were ready after %.1f s", crowdSize, time.Since(start).Seconds())
	require.NoError(t, e.kube.AppsV1().Deployments(e.ns).Delete(t.Context(), "crowd", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	e.gone(t, "app=crowd")
	for _, n := range e.nodes {
		e.noMoreThan(t, n.Name, was[n.Name])
	}
}

// quietNodes awaits that pods of the steps before are gone, and that those which
// serve a restarted node's cluster serve again.
func (e *environment) quietNodes(t *testing.T) {
	e.gone(t, "class in (deathstar,tiefighter,xwing)")
	const dns = "k8s-app=kube-dns"
	e.podsReady(t, "kube-system", dns, len(e.podsOf(t, "kube-system", dns)), 2*time.Minute)
}

// atRest gives what a node has when it has it twice.
func (e *environment) atRest(t *testing.T, node string) string {
	t.Helper()
	last := ""
	e.eventually(t, time.Minute, "node "+node+" is at rest", func(ctx context.Context) (bool, string) {
		now, err := e.nodeState(ctx, node)
		if err != nil {
			return false, err.Error()
		}
		was := last
		last = now
		return now == was, difference(was, now)
	})
	return last
}

func (e *environment) gone(t *testing.T, selector string) {
	t.Helper()
	e.eventually(t, 3*time.Minute, "pods "+selector+" are gone", func(ctx context.Context) (bool, string) {
		list, err := e.kube.CoreV1().Pods(e.ns).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return false, err.Error()
		}
		return len(list.Items) == 0, fmt.Sprintf("%d are left", len(list.Items))
	})
}

// sameAs awaits that a node has what it had. A pod that was made anew while the
// node was busy leaves a sandbox behind, which the kubelet takes away when it
// looks for such, once a minute.
func (e *environment) sameAs(t *testing.T, node, want string) {
	t.Helper()
	e.eventually(t, 3*time.Minute, "node "+node+" has what it had", func(ctx context.Context) (bool, string) {
		now, err := e.nodeState(ctx, node)
		if err != nil {
			return false, err.Error()
		}
		return now == want, difference(want, now)
	})
}

// noMoreThan awaits that a node has nothing that it did not have. What a restart has
// left may be gone since: lists of backends that nobody reads go with the next change,
// and sandboxes when the kubelet looks for them.
func (e *environment) noMoreThan(t *testing.T, node, was string) {
	t.Helper()
	e.eventually(t, 3*time.Minute, "node "+node+" has no more than it had", func(ctx context.Context) (bool, string) {
		now, err := e.nodeState(ctx, node)
		if err != nil {
			return false, err.Error()
		}
		more := surplus(was, now)
		return len(more) == 0, strings.Join(more, ", ")
	})
}

// surplus lists what is there now and was not, and tables that have more entries.
func surplus(was, now string) []string {
	entries := func(line string) (table string, count int, is bool) {
		n, _ := fmt.Sscanf(line, "table %s %d", &table, &count)
		return table, count, n == 2
	}
	had, counts := map[string]bool{}, map[string]int{}
	for line := range strings.Lines(was) {
		line = strings.TrimSpace(line)
		had[line] = true
		if table, count, is := entries(line); is {
			counts[table] = count
		}
	}
	var more []string
	for line := range strings.Lines(now) {
		line = strings.TrimSpace(line)
		table, count, is := entries(line)
		if had[line] || line == "" || is && count <= counts[table] {
			continue
		}
		more = append(more, line)
	}
	return more
}

func TestSurplusIsWhatWasNotThere(t *testing.T) {
	const was = "device eth0\nfile /run/a\ntable slot_rows 13\ntable rules 2\n"
	require.Empty(t, surplus(was, was))
	require.Empty(t, surplus(was, "device eth0\ntable slot_rows 11\ntable rules 2\n"), "less is no surplus")
	require.Equal(t, []string{"device weir1", "table rules 3", "table backends 1"},
		surplus(was, "device eth0\ndevice weir1\nfile /run/a\ntable slot_rows 13\ntable rules 3\ntable backends 1\n"))
}

// nodeState lists what Weir may leave on a node: devices, routes, files, pins,
// and how many entries tables have that do not live by a clock. It is the same
// text for the same state.
func (e *environment) nodeState(ctx context.Context, node string) (string, error) {
	return e.onNode(ctx, node, `
ls /sys/class/net | sed 's/^/device /' | sort
for family in -4 -6; do ip $family route show table all 2>/dev/null || ip $family route; done | grep -v ' fe80::\| ff00::\|^multicast\|cache' | sed 's/ expires .*//; s/ *$//; s/^/route /' | sort
for f in /host/etc/cni/net.d/* /host/opt/cni/bin/weir /host/run/weir /host/var/lib/weir /host/var/lib/weir/endpoints/* /host/var/lib/weir/deletions/*; do
	[ -e "$f" ] && echo "file ${f#/host}"
done
[ -d /host/sys/fs/bpf/weir ] && echo pins
if chroot /host sh -c 'command -v bpftool' >/dev/null; then
	for m in nodes endpoints ipcache ipcache_cidrs services slot_rows backends rules sources; do
		[ -e /host/sys/fs/bpf/weir/$m ] || continue
		echo "table $m $(chroot /host bpftool -j map dump pinned /sys/fs/bpf/weir/$m | tr '}' '\n' | grep -c '"key"')"
	done
fi
exit 0`)
}

// difference lists lines that came and went.
func difference(want, got string) string {
	lines := func(s string) map[string]bool {
		set := map[string]bool{}
		for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
			set[line] = true
		}
		return set
	}
	a, b := lines(want), lines(got)
	var all []string
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		if !b[line] {
			all = append(all, "-"+line)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
		if !a[line] {
			all = append(all, "+"+line)
		}
	}
	const most = 12
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(all, ", ")
}

// uninstall takes away first what needs a network to go.
func uninstall(e *environment, t *testing.T) {
	for _, name := range []string{"web", "client"} {
		require.NoError(t, e.kube.AppsV1().Deployments(e.ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	}
	e.gone(t, "app in (web,client)")
	remove(e, t)
}

func remove(e *environment, t *testing.T) {
	_, err := e.run(t.Context(), e.weir, "uninstall")
	require.NoError(t, err)
	for _, n := range e.nodes {
		e.sameAs(t, n.Name, e.before[n.Name])
	}
}

// again installs Weir where pods run whose devices went with it: those of
// CoreDNS, which nobody makes anew.
func again(e *environment, t *testing.T) {
	pods := e.podsOf(t, "kube-system", "k8s-app=kube-dns")
	require.NotEmpty(t, pods)
	answers := func(pod *corev1.Pod) error {
		for _, ip := range pod.Status.PodIPs {
			if _, err := e.onNode(t.Context(), pod.Spec.NodeName, "nc -z -w 2 "+ip.IP+" 53"); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range pods {
		require.Error(t, answers(&pods[i]), "%s has no network", pods[i].Name)
	}
	_, err := e.run(t.Context(), e.weir, "install", "--image", e.image, "--wait", "--timeout", "3m")
	require.NoError(t, err)
	for i := range pods {
		e.eventually(t, time.Minute, pods[i].Name+" has a network again", func(context.Context) (bool, string) {
			err := answers(&pods[i])
			return err == nil, fmt.Sprint(err)
		})
	}
}
