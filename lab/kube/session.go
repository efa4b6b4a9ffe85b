// SPDX-License-Identifier: Apache-2.0

// Package kube is the lab's world of real pods: a Kubernetes cluster that runs,
// whoever made it and whatever plugin its network is of. Each world has namespaces
// of its own there, with a probe in each pod (lab/probe) that does what the
// scenario says; the objects that it applies go to the API server.
//
// It sees no frames and no tables, and changes nothing of the cluster's that it did
// not make. Its one invariant is that a Session's namespaces go with it: what a
// killed one has left is removed by the next.
package kube

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/probe"
)

// Options say which cluster, and how it is used.
type Options struct {
	// Kubeconfig is the file that says how to reach it, and Context the cluster in
	// it; empty: KUBECONFIG's, or ~/.kube/config, and the current one.
	Kubeconfig, Context string
	// Image has the program weir, which nodes have or can pull; empty: that of the
	// agents of Weir, where they run.
	Image string
	// Prefix is what the names of all namespaces begin with; empty: DefaultPrefix.
	Prefix string
	// Selector chooses among the nodes by their labels; empty: all of them.
	Selector string
	// Lease is how long the session is believed to be at work; 0: an hour.
	Lease time.Duration
	// Look is for who makes nothing: no image is asked for, and nothing is removed.
	Look bool
}

// DefaultPrefix is what the names of namespaces begin with where nobody says.
const DefaultPrefix = "weir"

// Labels of a session's namespaces, and the annotation that says until when, by
// RFC 3339 and the API server's clock, it may be at work.
const (
	labelRun        = "lab.weir.net/run"
	annotationLease = "lab.weir.net/until"
)

// lease is how long a session is believed to be at work without a word.
const lease = time.Hour

// Session is a cluster in which worlds are made. Its methods may be called by
// several goroutines.
type Session struct {
	config  *rest.Config
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	run     string // part of all names
	token   string // of the probes
	image   string
	options Options
	clock   *clock

	// Weir says whether its agents run there; Masquerade whether what leaves the
	// cluster has a node's address, where that is known.
	Weir, Masquerade bool
	// Release is that of the nodes' kernels: "6.12.1", or several.
	Release string
	nodes   []corev1.Node // workers first
	waiting []string      // names of nodes that are not ready
	outside map[bool]netip.Addr

	shared sync.Mutex // ports of hosts that worlds share
	trial  struct {   // of policies
		once  sync.Once
		holds bool
		err   error
	}

	mu       sync.Mutex
	worlds   int
	lastPort uint16             // node port that was given last
	ways     map[string]*onNode // probes with nodes' networks, by node
}

// Open reaches a cluster, and removes what sessions before have left there. What
// keeps a scenario from running there at all is its error, with the remedy.
func Open(ctx context.Context, o Options) (*Session, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w: name the file by --kubeconfig and the cluster in it by --context", err)
	}
	config = rest.CopyConfig(config)
	config.UserAgent = "weir-lab"
	config.WarningHandler = rest.NoWarnings{} // of what scenarios have on purpose
	config.QPS, config.Burst = 200, 400       // many small things at once
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Lease == 0 {
		o.Lease = lease
	}
	s := &Session{config: config, run: word(3), token: word(16), image: o.Image, options: o, clock: new(clock), ways: map[string]*onNode{}, outside: map[bool]netip.Addr{}}
	config.Wrap(s.clock.watch)
	if s.kube, err = kubernetes.NewForConfig(config); err == nil {
		s.dynamic, err = dynamic.NewForConfig(config)
	}
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", config.Host, err)
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	if o.Look {
		return s, nil
	}
	return s, s.sweep(ctx)
}

// word is one of n octets by chance.
func word(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// apiPatience is how long the API server may take to answer at first.
const apiPatience = 15 * time.Second

// look finds out what the cluster has.
func (s *Session) look(ctx context.Context) error {
	first, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	list, err := s.kube.CoreV1().Nodes().List(first, metav1.ListOptions{LabelSelector: s.options.Selector})
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("list the nodes of %s: %w: use a kubeconfig of an administrator", s.config.Host, err)
	case err != nil:
		return fmt.Errorf("reach the API server %s: %w: name another kubeconfig by --kubeconfig, or bring the cluster up", s.config.Host, err)
	}
	for i := range list.Items {
		if ready(list.Items[i].Status.Conditions) && !list.Items[i].Spec.Unschedulable {
			s.nodes = append(s.nodes, list.Items[i])
		} else {
			s.waiting = append(s.waiting, list.Items[i].Name)
		}
	}
	if len(list.Items) == 0 && s.options.Selector != "" {
		return fmt.Errorf("no node of %s has the labels %s: look at 'kubectl get nodes --show-labels'", s.config.Host, s.options.Selector)
	}
	if len(s.nodes) == 0 {
		return fmt.Errorf("none of the %d nodes of %s is ready: install a network plugin ('weir install'), and look at 'kubectl describe nodes'", len(list.Items), s.config.Host)
	}
	slices.SortStableFunc(s.nodes, func(a, b corev1.Node) int { return isControlPlane(&a) - isControlPlane(&b) })
	s.releases()
	if err := s.lookForWeir(first); err != nil {
		return err
	}
	if s.image == "" && !s.options.Look {
		return errors.New("no image is known that has the program weir, since its agents do not run in this cluster: load one on the nodes ('weir image -o weir.tar') and name it by --image")
	}
	s.lookOutside()
	return nil
}

// String says in a line what cluster it is.
func (s *Session) String() string {
	families := []string{}
	for _, v6 := range []bool{false, true} {
		if s.HasFamily(v6) {
			families = append(families, map[bool]string{false: "IPv4", true: "IPv6"}[v6])
		}
	}
	whose := "another plugin's network"
	if s.Weir {
		whose = "Weir"
	}
	outside := "this machine is no neighbour of theirs"
	if len(s.outside) > 0 {
		outside = "this machine outside"
	}
	return fmt.Sprintf("cluster %s: %d nodes with kernel %s, %s, %s; %s", s.config.Host, len(s.nodes), s.Release, strings.Join(families, " and "), whose, outside)
}

func isControlPlane(n *corev1.Node) int {
	if _, is := n.Labels["node-role.kubernetes.io/control-plane"]; is {
		return 1
	}
	return 0
}

func ready(conditions []corev1.NodeCondition) bool {
	return slices.ContainsFunc(conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (s *Session) releases() {
	var all []string
	for i := range s.nodes {
		if r := s.nodes[i].Status.NodeInfo.KernelVersion; !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	s.Release = all[0]
	for _, r := range all[1:] {
		s.Release += "," + r
	}
}

// lookForWeir takes the agents' image, and what their configuration says.
func (s *Session) lookForWeir(ctx context.Context) error {
	set, err := s.kube.AppsV1().DaemonSets("kube-system").Get(ctx, "weir", metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the agents of Weir: %w", err)
	}
	s.Weir, s.Masquerade = true, true
	config, err := s.kube.CoreV1().ConfigMaps("kube-system").Get(ctx, "weir-config", metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("look how Weir is configured: %w", err)
	}
	for _, text := range config.Data {
		var said struct {
			Masquerade *bool `json:"masquerade"`
		}
		if yaml.Unmarshal([]byte(text), &said) == nil && said.Masquerade != nil {
			s.Masquerade = *said.Masquerade
		}
	}
	if s.image == "" && len(set.Spec.Template.Spec.Containers) > 0 {
		s.image = set.Spec.Template.Spec.Containers[0].Image
	}
	return nil
}

// lookOutside finds the addresses by which this machine is the nodes' neighbour: one
// that nodes are reached by a gateway from may be nobody that pods reach.
func (s *Session) lookOutside() {
	for _, a := range addressesOf(&s.nodes[0]) {
		conn, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String()) // sends nothing
		if err != nil {
			continue
		}
		own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		conn.Close()
		if own.IsLoopback() || !isNeighbour(own, a) {
			continue
		}
		s.outside[own.Is6()] = own
	}
}

// isNeighbour says whether an address of this machine's has another one in its
// subnet.
func isNeighbour(own, other netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		c, err := netip.ParsePrefix(a.String())
		return err == nil && c.Addr() == own && c.Contains(other)
	})
}

// addressesOf are those by which others reach a node.
func addressesOf(n *corev1.Node) (all []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			all = append(all, ip)
		}
	}
	return all
}

// Nodes is how many nodes of it are ready.
func (s *Session) Nodes() int { return len(s.nodes) }

// HasFamily says whether pods have addresses of a family.
func (s *Session) HasFamily(v6 bool) bool {
	return slices.ContainsFunc(s.nodes[0].Spec.PodCIDRs, func(block string) bool {
		c, err := netip.ParsePrefix(block)
		return err == nil && c.Addr().Is6() == v6
	})
}

// Bounds of the node ports that worlds take: the upper half of those that a cluster
// has by itself, which its services take last (KEP-3668).
const firstNodePort, lastNodePort = 31000, 32767

// nodePort gives another one.
func (s *Session) nodePort() uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastPort++; s.lastPort < firstNodePort || s.lastPort > lastNodePort {
		s.lastPort = firstNodePort
	}
	return s.lastPort
}

// LeadsOutside says whether pods' addresses lead from this machine to their nodes, as
// they do to hosts outside of most scenarios.
func (s *Session) LeadsOutside(v6 bool) bool {
	for i := range s.nodes {
		if !leads(&s.nodes[i], v6) {
			return false
		}
	}
	return s.HasOutside(v6)
}

// leads says whether the way to a node's pods is that node.
func leads(n *corev1.Node, v6 bool) bool {
	for _, block := range parsedPrefixes(n.Spec.PodCIDRs) {
		if block.Addr().Is6() != v6 {
			continue
		}
		routes, err := netlink.RouteGet(block.Addr().Next().AsSlice())
		if err != nil || len(routes) == 0 {
			return false
		}
		via, _ := netip.AddrFromSlice(routes[0].Gw)
		return slices.Contains(addressesOf(n), via.Unmap())
	}
	return false
}

// HasOutside says whether this machine is the nodes' neighbour by a family.
func (s *Session) HasOutside(v6 bool) bool { return s.outside[v6].IsValid() }

// sweep removes the namespaces of sessions whose time is over.
func (s *Session) sweep(ctx context.Context) error {
	list, err := s.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: labelRun})
	if err != nil {
		return fmt.Errorf("look for what was left behind: %w", err)
	}
	for i := range list.Items {
		ns := &list.Items[i]
		until, err := time.Parse(time.RFC3339, ns.Annotations[annotationLease])
		if err == nil && s.clock.now().Before(until) {
			continue
		}
		if err := s.removeNamespace(ctx, ns.Name); err != nil {
			return fmt.Errorf("remove what was left behind: %w", err)
		}
	}
	return nil
}

// removeNamespace begins to remove one, with all that is in it; pods end at once.
func (s *Session) removeNamespace(ctx context.Context, name string) error {
	at := int64(0)
	if err := s.kube.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &at}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("remove the pods of namespace %s: %w", name, err)
	}
	if err := s.kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return nil
}

// removal is how long the cluster may take to remove a namespace.
const removal = 2 * time.Minute

// Close removes everything that was made, and waits until it is gone. It does so
// even where ctx has ended.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	var errs []error
	selector := metav1.ListOptions{LabelSelector: labelRun + "=" + s.run}
	list, err := s.kube.CoreV1().Namespaces().List(ctx, selector)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list what is to be removed: %w: it goes with the next run, or by 'kubectl delete namespace -l %s=%s'", err, labelRun, s.run))...)
	}
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			errs = append(errs, s.removeNamespace(ctx, list.Items[i].Name))
		}
	}
	errs = append(errs, s.awaitRemoved(ctx, selector))
	if transport, ok := s.kube.CoreV1().RESTClient().(*rest.RESTClient); ok {
		transport.Client.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// awaitRemoved waits until there is no namespace any more.
func (s *Session) awaitRemoved(ctx context.Context, selector metav1.ListOptions) error {
	for {
		list, err := s.kube.CoreV1().Namespaces().List(ctx, selector)
		if err != nil {
			return fmt.Errorf("wait until namespaces are removed: %w", err)
		}
		if len(list.Items) == 0 {
			return nil
		}
		selector := selector
		selector.ResourceVersion = list.ResourceVersion
		if err := s.awaitChange(ctx, selector); err != nil {
			return fmt.Errorf("%d namespaces are not removed yet, %s among them: %w", len(list.Items), list.Items[0].Name, err)
		}
	}
}

// awaitChange waits until a namespace is gone.
func (s *Session) awaitChange(ctx context.Context, selector metav1.ListOptions) error {
	w, err := s.kube.CoreV1().Namespaces().Watch(ctx, selector)
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == "DELETED" {
			return nil
		}
	}
	return ctx.Err() // nil: the watch was over, and is begun anew
}

// namespace makes one that goes with the session.
func (s *Session) namespace(ctx context.Context, name, level string, labels map[string]string) error {
	all := map[string]string{labelRun: s.run, "pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/warn": level}
	for k, v := range labels {
		if k != corev1.LabelMetadataName {
			all[k] = v
		}
	}
	_, err := s.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: all,
		Annotations: map[string]string{annotationLease: s.clock.now().Add(s.options.Lease).Format(time.RFC3339)},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make namespace %s: %w", name, may(err))
	}
	// Pods are refused where the account is not there yet: it is not waited for.
	_, err = s.kube.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make an account in namespace %s: %w", name, err)
	}
	return nil
}

// here is a probe of this process's own.
func (s *Session) here() *probe.Client {
	near, far := net.Pipe()
	go probe.Do(context.Background(), io.ReadWriteCloser(far), "")
	return probe.NewClient(near, "")
}
