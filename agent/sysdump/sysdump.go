// SPDX-License-Identifier: Apache-2.0

package sysdump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/agent/identity"
	"github.com/weirnet/weir/agent/install"
)

// Options say what is taken.
type Options struct {
	Path    string        // of the zip
	Version string        // of this program
	Nodes   []string      // only these; empty: all
	Since   time.Duration // of logs and Kubernetes' events: no older ones
	Timeout time.Duration // for each node, and for the objects
	Listen  time.Duration // to each agent's events
	Room    int64         // octets of all files together, before they are compressed
	Say     func(line string)
}

// Index is index.json of the zip.
type Index struct {
	Version string    `json:"version"` // of the program that wrote it
	Time    time.Time `json:"time"`    // when it began
	Server  string    `json:"server"`  // of the API
	Kube    string    `json:"kubernetes"`
	Nodes   []string  `json:"nodes"`
	Files   []File    `json:"files"`
	Lacks   []Lack    `json:"lacks"` // what could not be had
}

const (
	atOnce    = 8        // nodes
	roomOfOne = 16 << 20 // octets of a file
	logLines  = 100_000
	page      = 500 // objects
)

// dump is one that is being made.
type dump struct {
	Options
	cluster *install.Cluster
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	archive *archive
	index   Index
}

// Write makes the zip. That something could not be had is no error: it is among the
// Index's Lacks. An API server that does not answer is one, and so is the end of ctx:
// then there is no zip.
func Write(ctx context.Context, config *rest.Config, o Options) (*Index, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	config.WarningHandler = rest.NoWarnings{}
	d := &dump{Options: o, index: Index{Version: o.Version, Time: time.Now().UTC(), Server: config.Host}}
	var err error
	if d.cluster, err = install.New(config, nil); err == nil {
		d.kube, err = kubernetes.NewForConfig(config)
	}
	if err == nil {
		d.dynamic, err = dynamic.NewForConfig(config)
	}
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", config.Host, err)
	}
	nodes, err := d.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if d.archive, err = newArchive(o.Path, o.Room); err != nil {
		return nil, err
	}
	d.objects(ctx)
	d.eachNode(ctx, nodes)
	if ctx.Err() != nil {
		d.archive.abandon()
		return nil, context.Cause(ctx)
	}
	if err := d.archive.close(&d.index); err != nil {
		d.archive.abandon()
		return nil, err
	}
	return &d.index, nil
}

// firstAnswer is how long the API server may take to say that it is there.
const firstAnswer = 15 * time.Second

// nodes are those that are wanted.
func (d *dump) nodes(ctx context.Context) ([]corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, min(firstAnswer, d.Timeout))
	defer cancel()
	list, err := d.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("list the nodes of %s: %w: use a kubeconfig of an administrator", d.index.Server, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reach the API server %s: %w: name another kubeconfig by --kubeconfig", d.index.Server, err)
	}
	if version, err := d.kube.Discovery().ServerVersion(); err == nil {
		d.index.Kube = version.GitVersion
	}
	var names []string
	wanted := slices.DeleteFunc(list.Items, func(n corev1.Node) bool {
		names = append(names, n.Name)
		return len(d.Nodes) > 0 && !slices.Contains(d.Nodes, n.Name)
	})
	for _, name := range d.Nodes {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("there is no node %s: the cluster has %s", name, strings.Join(names, ", "))
		}
	}
	for i := range wanted {
		d.index.Nodes = append(d.index.Nodes, wanted[i].Name)
	}
	return wanted, nil
}

// kind is objects that go into one file.
type kind struct {
	file      string
	resource  schema.GroupVersionResource
	namespace string // empty: all
	name      string // empty: all
	optional  bool   // of a definition that the cluster may not have
}

// kinds are what is taken of the API: no Secrets, and of ConfigMaps Weir's alone. What
// is in objects/ is what 'weir policy' reads.
func kinds() []kind {
	core := func(resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Version: "v1", Resource: resource}
	}
	of := func(group, version, resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
	}
	return []kind{
		{file: "objects/nodes", resource: core("nodes")},
		{file: "objects/namespaces", resource: core("namespaces")},
		{file: "objects/pods", resource: core("pods")},
		{file: "objects/services", resource: core("services")},
		{file: "objects/endpointslices", resource: of("discovery.k8s.io", "v1", "endpointslices")},
		{file: "objects/networkpolicies", resource: of("networking.k8s.io", "v1", "networkpolicies")},
		{file: "objects/clusternetworkpolicies", resource: of("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies"), optional: true},
		{file: "objects/ciliumnetworkpolicies", resource: of("cilium.io", "v2", "ciliumnetworkpolicies"), optional: true},
		{file: "objects/ciliumclusterwidenetworkpolicies", resource: of("cilium.io", "v2", "ciliumclusterwidenetworkpolicies"), optional: true},
		{file: "weir/daemonset", resource: of("apps", "v1", "daemonsets"), namespace: install.Namespace, name: install.Name, optional: true},
		{file: "weir/config", resource: core("configmaps"), namespace: install.Namespace, name: install.ConfigMapName, optional: true},
		{file: "weir/identities", resource: of(identity.Group, identity.Version, identity.Plural), optional: true},
		{file: "kubernetes/daemonsets", resource: of("apps", "v1", "daemonsets"), namespace: install.Namespace},
		{file: "kubernetes/events", resource: core("events")},
	}
}

// objects takes what the API has, each kind on its own.
func (d *dump) objects(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.Timeout, errTimeout(d.Timeout))
	defer cancel()
	start, had := time.Now(), 0
	d.Say("reading the cluster's objects")
	for _, k := range kinds() {
		out := &bounded{room: roomOfOne}
		n, err := d.list(ctx, &k, out)
		if k.optional && apierrors.IsNotFound(err) {
			if strings.HasPrefix(k.file, "weir/daemonset") {
				d.archive.lack("", k.file+".yaml", install.ErrNotInstalled)
				d.Say("no agent of Weir runs in this cluster: its objects are taken alone")
			}
			continue
		}
		if err != nil {
			d.archive.lack("", k.file+".yaml", causeOr(ctx, err))
		}
		if n > 0 || err == nil {
			had++
			d.archive.add(k.file+".yaml", out.Bytes(), out.cut)
		}
	}
	if ctx.Err() == nil {
		d.Say(fmt.Sprintf("objects: %d files, %.1f s", had, time.Since(start).Seconds()))
	}
}

func errTimeout(after time.Duration) error {
	return fmt.Errorf("there was no answer within %s (--timeout)", after)
}

// causeOr is why a context has ended, in place of the error that it ended.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (d *dump) list(ctx context.Context, k *kind, out *bounded) (n int, err error) {
	client := d.dynamic.Resource(k.resource).Namespace(k.namespace)
	if k.name != "" {
		object, err := client.Get(ctx, k.name, metav1.GetOptions{})
		if err != nil {
			return 0, err
		}
		return 1, writeObject(out, object)
	}
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := client.List(ctx, options)
		if err != nil {
			return n, err
		}
		for i := range list.Items {
			object := &list.Items[i]
			if object.GetKind() == "Event" && isOld(object, d.Since) {
				continue
			}
			if err := writeObject(out, object); err != nil {
				return n, err
			}
			n++
		}
		if options.Continue = list.GetContinue(); options.Continue == "" || out.cut {
			return n, nil
		}
	}
}

func isOld(event *unstructured.Unstructured, since time.Duration) bool {
	for _, field := range []string{"lastTimestamp", "eventTime"} {
		text, _, _ := unstructured.NestedString(event.Object, field)
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			return time.Since(at) > since
		}
	}
	return time.Since(event.GetCreationTimestamp().Time) > since
}

func writeObject(out *bounded, object *unstructured.Unstructured) error {
	own := object.GetLabels()["app.kubernetes.io/name"] == install.Name || object.GetName() == install.Name && object.GetKind() == "DaemonSet"
	redactObject(object.Object, own)
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		return fmt.Errorf("write %s: %w", object.GetName(), err)
	}
	if len(text)+4 > out.room-out.Len() {
		out.cut = true // no half object
		return nil
	}
	fmt.Fprintf(out, "---\n%s", text)
	return nil
}

// eachNode asks the agents, several at once.
func (d *dump) eachNode(ctx context.Context, nodes []corev1.Node) {
	agents, err := d.agents(ctx)
	if err != nil {
		d.archive.lack("", "nodes/", causeOr(ctx, err))
		return
	}
	if len(agents) == 0 {
		return // of which the objects have told
	}
	d.Say(fmt.Sprintf("asking %d nodes, for %s each at most", len(nodes), d.Timeout))
	var wait sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	for i := range nodes {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			if ctx.Err() == nil {
				d.node(ctx, &nodes[i], agents[nodes[i].Name])
			}
		})
	}
	wait.Wait()
}

// agents are their pods, by node.
func (d *dump) agents(ctx context.Context) (map[string][]corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	list, err := d.kube.CoreV1().Pods(install.Namespace).List(ctx, metav1.ListOptions{LabelSelector: install.AgentSelector()})
	if err != nil {
		return nil, fmt.Errorf("list agents: %w", err)
	}
	by := map[string][]corev1.Pod{}
	for i := range list.Items {
		by[list.Items[i].Spec.NodeName] = append(by[list.Items[i].Spec.NodeName], list.Items[i])
	}
	return by, nil
}

// commands are what an agent's own program is asked in its pod, by the file.
func (d *dump) commands() map[string][]string {
	return map[string][]string{
		"status.json":     {"status", "--local", "-o", "json"},
		"services.json":   {"service", "list", "-o", "json"},
		"endpoints.json":  {"endpoint", "list", "-o", "json"},
		"identities.json": {"identity", "list", "-o", "json"},
		"policies.json":   {"policy", "list", "-o", "json"},
		"flows.json":      {"flow", "list", "-o", "json"},
		"nat.json":        {"nat", "list", "-o", "json"},
		"events.json":     {"monitor", "--for", d.Listen.String(), "-o", "json"},
	}
}

// node takes what one node has, within its time: the logs first, which are there even
// where the agent does not answer.
func (d *dump) node(ctx context.Context, node *corev1.Node, pods []corev1.Pod) {
	start := time.Now()
	whole := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, d.Timeout, errTimeout(d.Timeout))
	defer cancel()
	had, lacked := 0, 0
	take := func(name string, take func(out *bounded) error) {
		file := "nodes/" + node.Name + "/" + name
		out := &bounded{room: roomOfOne}
		err := ctx.Err()
		if err == nil {
			err = take(out)
		}
		if err != nil && whole.Err() == nil {
			lacked++
			d.archive.lack(node.Name, file, causeOr(ctx, err))
		}
		if out.Len() > 0 || err == nil {
			had++
			d.archive.add(file, []byte(redactText(out.String())), out.cut)
		}
	}
	if len(pods) == 0 {
		take("agent.log", func(*bounded) error { return errors.New("no agent's pod is on this node") })
	}
	for i := range pods {
		p := &pods[i]
		name := func(text string) string {
			if i > 0 {
				return p.Name + "-" + text
			}
			return text
		}
		take(name("agent.log"), func(out *bounded) error { return d.log(ctx, p, false, out) })
		if restarted(p) {
			take(name("agent-previous.log"), func(out *bounded) error { return d.log(ctx, p, true, out) })
		}
		commands := d.commands()
		for _, file := range slices.Sorted(maps.Keys(commands)) {
			take(name(file), func(out *bounded) error {
				return d.cluster.ExecTo(ctx, out, p.Namespace, p.Name, p.Spec.Containers[0].Name, append([]string{"/weir"}, commands[file]...)...)
			})
		}
	}
	if whole.Err() == nil {
		d.Say(fmt.Sprintf("node %s: %d files, %d could not be had, %.1f s", node.Name, had, lacked, time.Since(start).Seconds()))
	}
}

func restarted(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.RestartCount > 0 })
}

func (d *dump) log(ctx context.Context, p *corev1.Pod, previous bool, out *bounded) error {
	seconds, lines := max(int64(d.Since.Seconds()), 1), int64(logLines)
	stream, err := d.kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: p.Spec.Containers[0].Name, Previous: previous, SinceSeconds: &seconds, TailLines: &lines, Timestamps: true,
	}).Stream(ctx)
	if err != nil {
		return fmt.Errorf("read the log of pod %s: %w", p.Name, err)
	}
	defer stream.Close()
	if _, err := io.Copy(out, stream); err != nil {
		return fmt.Errorf("read the log of pod %s: %w", p.Name, err)
	}
	return nil
}
