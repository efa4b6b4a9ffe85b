// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/lab/probe"
)

// probePort is where probes are told what to do: on their pod's loopback.
const probePort = 61780

// EnvToken is the variable that tells a probe the word that streams begin with.
const EnvToken = "WEIR_PROBE_TOKEN"

// lifetime is how long a pod that is being deleted goes on, where a scenario needs
// it so.
const lifetime = 10 * time.Minute

// podPatience is how long the cluster may take to run pods.
const podPatience = 90 * time.Second

// pod is a probe that runs on a node.
func (s *Session) pod(name, node string, port int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			Containers: []corev1.Container{{
				Name: "probe", Image: s.image, ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"lab", "probe", "--port", strconv.Itoa(port)},
				Env:  []corev1.EnvVar{{Name: EnvToken, Value: s.token}},
			}},
		},
	}
}

// run makes a pod and waits until it is ready, with its addresses.
func (s *Session) runPod(ctx context.Context, namespace string, pod *corev1.Pod) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, podPatience)
	defer cancel()
	made, err := s.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make pod %s/%s: %w", namespace, pod.Name, may(err))
	}
	running, err := s.awaitPod(ctx, made, func(p *corev1.Pod) (bool, error) {
		switch {
		case p.Status.Phase == corev1.PodFailed, p.Status.Phase == corev1.PodSucceeded:
			return false, fmt.Errorf("it ended: %s", stateOf(p))
		case cannotStart(p):
			return false, errors.New(stateOf(p))
		}
		return isPodReady(p) && len(p.Status.PodIPs) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("run pod %s/%s on node %s: %w", namespace, pod.Name, pod.Spec.NodeName, err)
	}
	return running, nil
}

// awaitPod follows a pod until done says so; where that takes too long, the error
// tells how the pod is.
func (s *Session) awaitPod(ctx context.Context, pod *corev1.Pod, done func(*corev1.Pod) (bool, error)) (*corev1.Pod, error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String(), ResourceVersion: pod.ResourceVersion}
	for {
		w, err := s.kube.CoreV1().Pods(pod.Namespace).Watch(ctx, options)
		if err != nil {
			return nil, err
		}
		for event := range w.ResultChan() {
			now, ok := event.Object.(*corev1.Pod)
			if event.Type == watch.Deleted {
				w.Stop()
				return nil, errGone
			}
			if !ok {
				continue // the watch has to begin anew
			}
			pod = now
			if ok, err := done(pod); ok || err != nil {
				w.Stop()
				return pod, err
			}
			options.ResourceVersion = pod.ResourceVersion
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %s", ctx.Err(), stateOf(pod))
		}
	}
}

var errGone = errors.New("it was deleted")

func isPodReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// hopeless are reasons for which a container waits that waiting does not mend.
var hopeless = map[string]bool{"ErrImageNeverPull": true, "InvalidImageName": true, "CreateContainerConfigError": true, "ErrImagePull": true, "ImagePullBackOff": true}

func cannotStart(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Waiting != nil && hopeless[c.State.Waiting.Reason] {
			return true
		}
	}
	return false
}

// stateOf says in words how far a pod is.
func stateOf(pod *corev1.Pod) string {
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Message != "" {
			return w.Reason + ": " + w.Message
		}
		if t := c.State.Terminated; t != nil {
			return fmt.Sprintf("%s, exit status %d: %s", t.Reason, t.ExitCode, t.Message)
		}
	}
	if pod.Status.Message != "" {
		return pod.Status.Reason + ": " + pod.Status.Message
	}
	return "it is " + string(pod.Status.Phase)
}

// reach speaks to a pod's probe, which may take a moment to listen.
func (s *Session) reach(ctx context.Context, namespace, pod string, port int) (*probe.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, podPatience)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		stream, err := s.forward(namespace, pod, port)
		if err == nil {
			c := probe.NewClient(stream, s.token)
			if err = c.Welcome(ctx); err == nil {
				return c, nil
			}
			err = errors.Join(err, problemOf(stream), ignoreErr(c.Close()))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reach the probe of %s/%s: %w", namespace, pod, err)
		case <-time.After(wait): // nothing tells when a process listens
		}
	}
}

// problemOf is what the runtime said against a stream that has ended.
func problemOf(stream io.ReadWriteCloser) error {
	f := stream.(*forwarded)
	f.Close()
	if f.problem == "" {
		return nil
	}
	return errors.New(f.problem)
}

// ignoreErr is for ends of what has ended.
func ignoreErr(error) error { return nil }

// addressesOfPod are those that the cluster gave it.
func addressesOfPod(pod *corev1.Pod) (all []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// onNode is a probe with a node's network, made when it is first needed.
type onNode struct {
	once      sync.Once
	namespace string
	port      int
	err       error
}

// node speaks to the probe of a node. Each stream to it has what it opens for itself,
// so that worlds do not end each other's conversations.
func (s *Session) node(ctx context.Context, name string) (*probe.Client, error) {
	s.mu.Lock()
	n := s.ways[name]
	if n == nil {
		n = new(onNode)
		s.ways[name] = n
	}
	s.mu.Unlock()
	n.once.Do(func() { n.err = s.startOnNode(ctx, name, n) })
	if n.err != nil {
		return nil, n.err
	}
	return s.reach(ctx, n.namespace, probeOfNode, n.port)
}

const probeOfNode = "probe"

func (s *Session) startOnNode(ctx context.Context, node string, n *onNode) error {
	n.namespace, n.port = fmt.Sprintf("%s-%s-%s", s.options.Prefix, s.run, node), s.controlPort()
	if err := s.namespace(ctx, n.namespace, "privileged", nil); err != nil {
		return err
	}
	pod := s.pod(probeOfNode, node, n.port)
	pod.Spec.HostNetwork = true
	_, err := s.runPod(ctx, n.namespace, pod)
	return err
}

// controlPort is where probes with nodes' networks are told what to do: those of other
// sessions are on the same nodes.
func (s *Session) controlPort() int { return 61800 + int(s.Number()%3000) }
