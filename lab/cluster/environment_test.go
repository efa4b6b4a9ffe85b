// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/weirnet/weir/lab/cluster/traffic"
)

// What the tests take from the environment. WEIR_CLUSTER_TEST is asked for
// beside KUBECONFIG, which may name a cluster that somebody needs.
const (
	envTest = "WEIR_CLUSTER_TEST" // 1: the cluster of KUBECONFIG is empty, and may be changed
	envLoad = "CLUSTER_LOAD"      // command that brings an archive, its last word, to the nodes; empty: they pull
	envTool = "AGNHOST"           // image with a shell, that nodes have or pull
	envWeir = "WEIR"              // program under test; empty: bin/weir of this tree
	envImg  = "WEIR_IMAGE"        // of the agent; empty: weir:dev
	// envRestart is a command that restarts the node that is its last word.
	envRestart = "CLUSTER_RESTART"
	envKeep    = "CLUSTER_KEEP" // 1: Weir stays in the cluster, and so does what a failed test made
)

// environment is the live cluster under test.
type environment struct {
	start   time.Time
	weir    string // path
	image   string
	tool    string
	config  *rest.Config
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	nodes   []corev1.Node
	ns      string
	before  map[string]string // nodeState of nodes without Weir
}

func newEnvironment(t *testing.T) *environment {
	if os.Getenv(envTest) != "1" {
		t.Skipf("needs an empty Kubernetes cluster: 'make cluster-test' with KUBECONFIG (%s=1 says that it may be changed)", envTest)
	}
	e := &environment{start: time.Now(), weir: os.Getenv(envWeir), image: os.Getenv(envImg), tool: os.Getenv(envTool), before: map[string]string{}}
	require.NotEmpty(t, os.Getenv("KUBECONFIG"), "KUBECONFIG names the cluster to test on")
	require.NotEmpty(t, e.tool, envTool+" names an image with a shell, as agnhost, that nodes have or can pull")
	if e.weir == "" {
		e.weir = "../../bin/weir"
	}
	if e.image == "" {
		e.image = "weir:dev"
	}
	var err error
	e.weir, err = filepath.Abs(e.weir)
	require.NoError(t, err)
	require.FileExists(t, e.weir, "build it by 'make build', or name it by "+envWeir)
	e.config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	require.NoError(t, err)
	e.config.QPS, e.config.Burst = 50, 100
	e.kube, err = kubernetes.NewForConfig(e.config)
	require.NoError(t, err)
	e.dynamic, err = dynamic.NewForConfig(e.config)
	require.NoError(t, err)
	list, err := e.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err, "the cluster of KUBECONFIG does not answer")
	e.nodes = list.Items
	return e
}

// say prints a line of progress at once: a test that waits for minutes is
// looked at.
func (e *environment) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(e.start).Seconds(), fmt.Sprintf(format, args...))
}

// families are those of the nodes' pods.
func (e *environment) families() []corev1.IPFamily {
	var families []corev1.IPFamily
	for _, cidr := range e.nodes[0].Spec.PodCIDRs {
		family := corev1.IPv4Protocol
		if strings.Contains(cidr, ":") {
			family = corev1.IPv6Protocol
		}
		families = append(families, family)
	}
	return families
}

// run runs a command of this machine, shows what it prints as it comes, and
// gives its stdout.
func (e *environment) run(ctx context.Context, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	lines := &prefixed{say: func(line string) { e.say("  %s: %s", filepath.Base(name), line) }}
	command.Stdout = io.MultiWriter(&out, lines)
	command.Stderr = lines
	err := command.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return out.String(), err
}

// prefixed says each whole line.
type prefixed struct {
	say  func(string)
	rest []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		p.say(string(line))
		p.rest = rest
	}
}

// exec runs a command in a pod's first container. What it printed is given
// even when it failed.
func (e *environment) exec(ctx context.Context, namespace, pod string, command ...string) (string, error) {
	found, err := e.kube.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	request := e.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: found.Spec.Containers[0].Name, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(e.config, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		err = fmt.Errorf("%s in %s/%s: %w: %s", strings.Join(command, " "), namespace, pod, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// load asks from a pod. Its error is of the attempt, not of what was lost.
func (e *environment) load(ctx context.Context, pod string, l traffic.Load) (*traffic.Report, error) {
	return e.loadFrom(ctx, e.ns, pod, l)
}

func (e *environment) loadFrom(ctx context.Context, namespace, pod string, l traffic.Load) (*traffic.Report, error) {
	text, err := e.exec(ctx, namespace, pod, "/weir", "lab", "traffic", "load", "-o", "json", "--target", l.Target,
		"--rate", fmt.Sprint(l.Rate), "--connections", fmt.Sprint(l.Connections), "--duration", l.Duration.String(),
		"--timeout", l.Timeout.String())
	report := new(traffic.Report)
	if text == "" {
		return report, errors.Join(errors.New("no report"), err)
	}
	return report, json.Unmarshal([]byte(text), report)
}

// eventually awaits a state of the cluster, which says why it is not there yet.
func (e *environment) eventually(t *testing.T, timeout time.Duration, what string, done func(context.Context) (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	seen, last, said := "", "", time.Time{}
	for {
		ok, state := done(ctx)
		if ok {
			e.say("  %s", what)
			return
		}
		if ctx.Err() == nil && !strings.Contains(state, "context deadline") {
			seen = state // and not that there is no time left to ask
		}
		if seen != last && time.Since(said) > 2*time.Second {
			e.say("  waiting until %s: %s", what, seen)
			last, said = seen, time.Now()
		}
		select {
		case <-ctx.Done():
			require.Failf(t, "timed out", "%s: not within %s: %s", what, timeout, cmp.Or(seen, state))
		case <-tick.C:
		}
	}
}

// podsReady awaits n ready pods of a label.
func (e *environment) podsReady(t *testing.T, namespace, selector string, n int, timeout time.Duration) []corev1.Pod {
	t.Helper()
	var ready []corev1.Pod
	e.eventually(t, timeout, fmt.Sprintf("%d pods %s are ready", n, selector), func(ctx context.Context) (bool, string) {
		list, err := e.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return false, err.Error()
		}
		ready = nil
		why := ""
		for i := range list.Items {
			if p := &list.Items[i]; p.DeletionTimestamp == nil && isPodReady(p) {
				ready = append(ready, *p)
			} else {
				why = cmp.Or(why, waitsFor(p))
			}
		}
		return len(ready) >= n, fmt.Sprintf("%d are%s", len(ready), why)
	})
	return ready
}

func (e *environment) podsOf(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	list, err := e.kube.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	require.NoError(t, err)
	return list.Items
}

// waitsFor says what keeps a pod from running; "" where that is not known.
func waitsFor(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Message != "" {
			return fmt.Sprintf("; %s: %s: %s", pod.Name, w.Reason, w.Message)
		}
	}
	return ""
}

func isPodReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
