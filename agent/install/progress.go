// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// pollInterval is between two looks at the cluster while something is awaited.
const pollInterval = 500 * time.Millisecond

// WaitReady waits until every node has a ready agent of the DaemonSet as it is
// now, and is ready itself. It tells of each node what changes, and when time
// is up what is wrong with each that is not ready.
func (c *Cluster) WaitReady(ctx context.Context, timeout time.Duration) error {
	start := time.Now()
	last := map[string]string{}
	var states []nodeState
	err := poll(ctx, timeout, func(ctx context.Context) (bool, error) {
		now, err := c.nodeStates(ctx)
		if err != nil {
			return false, err // what was seen last is still worth telling
		}
		states = now
		ready := len(states) > 0
		for _, s := range states {
			ready = ready && s.ready
			if last[s.node] != s.phase {
				last[s.node] = s.phase
				c.tellf("%5.1fs  node %s: %s", time.Since(start).Seconds(), s.node, s.phase)
			}
		}
		return ready, nil
	})
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.explain(ctx, states, timeout)
}

// poll calls done until it is true, for timeout at most: then the error is
// context.DeadlineExceeded. An error of done while the API server is away for
// a moment is not the end.
func poll(ctx context.Context, timeout time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		ok, err := done(ctx)
		if ok && err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// nodeState is how far a node is.
type nodeState struct {
	node  string
	pod   string // "" when there is none
	phase string // for people
	ready bool
	// crashed is whether the agent has ended at least once.
	crashed bool
}

func (c *Cluster) nodeStates(ctx context.Context) ([]nodeState, error) {
	_, _, states, err := c.observe(ctx)
	return states, err
}

// observe reads the nodes, the agents' pods, and what both come to with the DaemonSet.
// It fails with ErrNotInstalled.
func (c *Cluster) observe(ctx context.Context) (nodes []corev1.Node, pods []corev1.Pod, states []nodeState, err error) {
	set, err := c.kube.AppsV1().DaemonSets(Namespace).Get(ctx, Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil, nil, ErrNotInstalled
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read DaemonSet %s/%s: %w", Namespace, Name, err)
	}
	if nodes, err = c.nodes(ctx); err != nil {
		return nil, nil, nil, err
	}
	if pods, err = c.agentPods(ctx); err != nil {
		return nil, nil, nil, err
	}
	return nodes, pods, statesOf(nodes, pods, set), nil
}

func (c *Cluster) agentPods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.kube.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(componentAgent)})
	if err != nil {
		return nil, fmt.Errorf("list agents: %w", err)
	}
	return list.Items, nil
}

// AgentSelector chooses the agents' pods by their labels.
func AgentSelector() string { return selector(componentAgent) }

// selector is of the pods of a part.
func selector(component string) string {
	return fmt.Sprintf("%s=%s,%s=%s", labelName, Name, labelComponent, component)
}

// statesOf gives the state of each Linux node, by name. The generation of the
// DaemonSet says which pods are of it as it is now.
func statesOf(nodes []corev1.Node, pods []corev1.Pod, set *appsv1.DaemonSet) []nodeState {
	var states []nodeState
	for i := range nodes {
		if os := nodes[i].Labels[corev1.LabelOSStable]; os != "" && os != "linux" {
			continue
		}
		states = append(states, stateOf(&nodes[i], newestPod(pods, nodes[i].Name), set))
	}
	slices.SortFunc(states, func(a, b nodeState) int { return cmp.Compare(a.node, b.node) })
	return states
}

// newestPod is a node's agent: of several, as in a moment of an upgrade, the
// one that was made last.
func newestPod(pods []corev1.Pod, node string) *corev1.Pod {
	var newest *corev1.Pod
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName == node && (newest == nil || newest.CreationTimestamp.Before(&p.CreationTimestamp)) {
			newest = p
		}
	}
	return newest
}

func stateOf(node *corev1.Node, pod *corev1.Pod, set *appsv1.DaemonSet) nodeState {
	s := nodeState{node: node.Name}
	if pod == nil {
		s.phase = "no agent yet"
		return s
	}
	s.pod = pod.Name
	for _, status := range pod.Status.ContainerStatuses {
		s.crashed = s.crashed || status.RestartCount > 0
	}
	switch {
	case pod.DeletionTimestamp != nil:
		s.phase = "the agent ends"
	case !isOf(pod, set):
		s.phase = "has the agent of before, and waits for its turn"
	case !podReady(pod):
		s.phase = podPhase(pod)
	case !isReady(node):
		s.phase = "the agent is ready, the node not yet"
	default:
		s.phase, s.ready = "ready", true
	}
	return s
}

// isOf is whether a pod is made of a DaemonSet's template as it is now. A
// status that lags behind the DaemonSet decides nothing.
func isOf(pod *corev1.Pod, set *appsv1.DaemonSet) bool {
	return set.Status.ObservedGeneration == set.Generation &&
		pod.Labels[labelTemplate] == set.Annotations[appsv1.DeprecatedTemplateGeneration]
}

// labelTemplate is what the controller of DaemonSets puts on their pods: the
// number of the template that they are made of.
const labelTemplate = "pod-template-generation"

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podPhase says what a pod that is not ready does, or what is wrong with it.
func podPhase(pod *corev1.Pod) string {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if phase := containerPhase(&status); phase != "" {
			return phase
		}
	}
	if pod.Spec.NodeName == "" {
		return "the agent is not scheduled"
	}
	return "the agent's pod is " + strings.ToLower(cmp.Or(string(pod.Status.Phase), "new"))
}

// containerPhase is "" of a container that is done.
func containerPhase(s *corev1.ContainerStatus) string {
	what := s.Name
	switch {
	case s.State.Waiting != nil && s.State.Waiting.Reason == "PodInitializing":
		return ""
	case s.State.Waiting != nil && s.LastTerminationState.Terminated != nil:
		return fmt.Sprintf("%s ended %d times, and is started anew: %s", what, s.RestartCount, farewell(s.LastTerminationState.Terminated))
	case s.State.Waiting != nil:
		phase := fmt.Sprintf("%s waits: %s", what, cmp.Or(s.State.Waiting.Reason, "no reason given"))
		if message := s.State.Waiting.Message; message != "" {
			phase += ": " + message
		}
		if remedy := waitingRemedy(s.State.Waiting.Reason, s.Image); remedy != "" {
			phase += ": " + remedy
		}
		return phase
	case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
		return what + " ended: " + farewell(s.State.Terminated)
	case s.State.Terminated != nil:
		return ""
	case !s.Ready && s.State.Running != nil && s.LastTerminationState.Terminated != nil:
		return what + " runs, and is not ready yet; before it ended: " + farewell(s.LastTerminationState.Terminated)
	case !s.Ready && s.State.Running != nil:
		return what + " runs, and is not ready yet"
	}
	return ""
}

// farewell is why a container ended: its last line, if it said something.
func farewell(t *corev1.ContainerStateTerminated) string {
	lines := strings.Split(strings.TrimSpace(t.Message), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	reason := fmt.Sprintf("exit status %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		reason += " (" + t.Reason + ")"
	}
	return reason
}

func waitingRemedy(reason, image string) string {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
		return fmt.Sprintf("load the image %s on the nodes (weir image -o weir.tar), or name one in a registry by --image", image)
	}
	return ""
}

// explain says what is wrong with each node that is not ready, with the last
// words of agents that ended.
func (c *Cluster) explain(ctx context.Context, states []nodeState, timeout time.Duration) error {
	errs := []error{}
	missing := false
	for _, s := range states {
		if s.ready {
			continue
		}
		missing = missing || s.pod == ""
		problem := fmt.Sprintf("node %s: %s", s.node, s.phase)
		if words := c.lastWords(ctx, s); words != "" {
			problem += "\n  the agent said: " + strings.ReplaceAll(words, "\n", "\n  ")
		}
		errs = append(errs, errors.New(problem))
	}
	if missing {
		for _, w := range c.setWarnings(ctx) {
			errs = append(errs, fmt.Errorf("DaemonSet %s/%s: %s", Namespace, Name, w))
		}
	}
	return fmt.Errorf("%d of %d nodes are not ready after %s:\n%w", notReady(states), len(states), timeout, errors.Join(errs...))
}

func notReady(states []nodeState) int {
	n := 0
	for _, s := range states {
		if !s.ready {
			n++
		}
	}
	return n
}

// lastWords are the last lines of a pod's log; of the container before if the
// agent has ended.
func (c *Cluster) lastWords(ctx context.Context, s nodeState) string {
	if s.pod == "" {
		return ""
	}
	text, err := c.kube.CoreV1().Pods(Namespace).GetLogs(s.pod, &corev1.PodLogOptions{
		Container: containerAgent, Previous: s.crashed, TailLines: ptr.To[int64](5),
	}).DoRaw(ctx)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// setWarnings say why the DaemonSet makes no pods.
func (c *Cluster) setWarnings(ctx context.Context) []string {
	events, err := c.kube.CoreV1().Events(Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=DaemonSet,type=Warning,involvedObject.name=" + Name,
	})
	if err != nil {
		return nil
	}
	var warnings []string
	for i := range events.Items {
		if m := events.Items[i].Message; !slices.Contains(warnings, m) {
			warnings = append(warnings, m)
		}
	}
	return warnings
}
