// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/weirnet/weir/agent/api"
)

// ErrNotInstalled is of a cluster without the DaemonSet.
var ErrNotInstalled = errors.New("there is no Weir in this cluster: 'weir install' brings it there")

// NodeStatus is how Weir is on one node.
type NodeStatus struct {
	Node    string `json:"node"`
	Pod     string `json:"pod,omitempty"`
	Phase   string `json:"phase"`   // of the pod, for people
	Healthy bool   `json:"healthy"` // ready, and nothing is wrong
	Kernel  string `json:"kernel,omitempty"`
	// Agent is what the agent answers; nil when it does not.
	Agent *api.Status `json:"agent,omitempty"`
	// Problems are sentences for people; some of them with the remedy.
	Problems []string `json:"problems"`
	// Notes are sentences about fields of objects that are not in force, by which
	// nobody is harmed but their own objects.
	Notes []string `json:"notes,omitempty"`
}

// Asked at once, so that a cluster of many nodes answers in seconds and its
// API server does not notice.
const concurrentAsks = 16

// askTimeout is for one agent's answer.
const askTimeout = 15 * time.Second

// Status asks the agents of all nodes. It fails with ErrNotInstalled; that an
// agent does not answer is a problem of its node and no error.
func (c *Cluster) Status(ctx context.Context) ([]NodeStatus, error) {
	nodes, pods, states, err := c.observe(ctx)
	if err != nil {
		return nil, err
	}
	status := make([]NodeStatus, 0, len(nodes))
	for _, s := range states {
		status = append(status, NodeStatus{Node: s.node, Pod: s.pod, Phase: s.phase, Healthy: s.ready, Kernel: kernelOf(nodes, s.node), Problems: []string{}})
		if !s.ready {
			last := &status[len(status)-1]
			last.Problems = append(last.Problems, s.phase)
		}
	}
	c.askAll(ctx, status, pods)
	return status, nil
}

func kernelOf(nodes []corev1.Node, name string) string {
	for i := range nodes {
		if nodes[i].Name == name {
			return nodes[i].Status.NodeInfo.KernelVersion
		}
	}
	return ""
}

func (c *Cluster) askAll(ctx context.Context, status []NodeStatus, pods []corev1.Pod) {
	var wait sync.WaitGroup
	turn := make(chan struct{}, concurrentAsks)
	for i := range status {
		if status[i].Pod == "" || !isRunning(pods, status[i].Pod) {
			continue
		}
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			c.ask(ctx, &status[i])
		})
	}
	wait.Wait()
}

func isRunning(pods []corev1.Pod, name string) bool {
	for i := range pods {
		if pods[i].Name != name {
			continue
		}
		for _, s := range pods[i].Status.ContainerStatuses {
			if s.Name == containerAgent {
				return s.State.Running != nil
			}
		}
	}
	return false
}

// ask lets the agent's own program ask it, in its pod.
func (c *Cluster) ask(ctx context.Context, status *NodeStatus) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	text, err := c.Exec(ctx, Namespace, status.Pod, containerAgent, "/weir", "status", "--local", "--output", "json")
	var local LocalStatus
	if err == nil {
		err = json.Unmarshal([]byte(text), &local)
	}
	if err != nil {
		status.Healthy = false
		status.Problems = append(status.Problems, fmt.Sprintf("the agent does not answer: %v", err))
		return
	}
	status.Agent = &local.Status
	problems := agentProblems(&local)
	status.Problems = append(status.Problems, problems...)
	status.Notes = agentNotes(&local)
	status.Healthy = status.Healthy && len(problems) == 0
}

// agentProblems are what is wrong by an agent's own words.
func agentProblems(s *LocalStatus) []string {
	var problems []string
	if !s.Ready {
		problems = append(problems, cmp.Or(s.NotReady, "the agent is not ready"))
	}
	for i := range s.Refused {
		if r := &s.Refused[i]; !r.FieldOnly && !isOverOwnBudget(r) {
			problems = append(problems, fmt.Sprintf("left out: %s: %s", r.Place(), r.Problem))
		}
	}
	for _, p := range s.Errors {
		problems = append(problems, fmt.Sprintf("%s: %s (since %s)", p.What, p.Error, p.Since.Format(time.RFC3339)))
	}
	for _, f := range s.Conflists {
		problems = append(problems, fmt.Sprintf("kubelet takes %s before Weir's configuration: remove it from the node", f))
	}
	return problems
}

// isOverOwnBudget is whether an object of a namespace has no room in a table. Whoever
// may write there could have no node healthy otherwise. What is of no namespace is the
// operator's, who has to know that it is not in force.
func isOverOwnBudget(r *api.Refused) bool {
	return r.Table != "" && r.Object.Namespace != ""
}

// agentNotes are of tables that are nearly full, of tenants' objects that have no room
// in one, of fields that are left out alone, and of tables that the last comparison
// repaired: the node works.
func agentNotes(s *LocalStatus) []string {
	var notes []string
	for i := range s.Refused {
		switch r := &s.Refused[i]; {
		case r.FieldOnly:
			notes = append(notes, fmt.Sprintf("claim lost: %s: %s", r.Place(), r.Problem))
		case isOverOwnBudget(r):
			notes = append(notes, fmt.Sprintf("over budget: %s: %s", r.Place(), r.Problem))
		}
	}
	for i := range s.Ignored {
		notes = append(notes, fmt.Sprintf("ignored: %s: %s", s.Ignored[i].Place(), s.Ignored[i].Problem))
	}
	for i := range s.Tables {
		if table := &s.Tables[i]; table.IsNearlyFull() {
			notes = append(notes, "nearly full: "+table.String())
		}
	}
	for i := range s.Repair.Tables {
		notes = append(notes, "repaired: "+s.Repair.Tables[i].String())
	}
	return notes
}

// Exec runs a command in a container and gives what it printed. A command that
// fails is an error with what it printed on stderr.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, command ...string) (string, error) {
	var stdout bytes.Buffer
	err := c.ExecTo(ctx, &stdout, namespace, pod, container, command...)
	return stdout.String(), err
}

// ExecTo is Exec that writes what the command prints as it comes.
func (c *Cluster) ExecTo(ctx context.Context, out io.Writer, namespace, pod, container string, command ...string) error {
	request := c.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	if err != nil {
		return fmt.Errorf("exec in pod %s/%s: %w", namespace, pod, err)
	}
	var stderr bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: &stderr}); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return fmt.Errorf("exec %s in pod %s/%s: %w", command[0], namespace, pod, err)
	}
	return nil
}

// WaitHealthy waits until all nodes are healthy, for timeout at most, and gives
// the last status, whatever it is.
func (c *Cluster) WaitHealthy(ctx context.Context, timeout time.Duration) ([]NodeStatus, error) {
	var status []NodeStatus
	err := poll(ctx, timeout, func(ctx context.Context) (bool, error) {
		now, err := c.Status(ctx)
		if err != nil {
			return false, err
		}
		status = now
		return Healthy(status), nil
	})
	if status != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return status, nil
	}
	return status, err
}

// Healthy is whether all nodes are, and there is one at least.
func Healthy(status []NodeStatus) bool {
	for i := range status {
		if !status[i].Healthy {
			return false
		}
	}
	return len(status) > 0
}
