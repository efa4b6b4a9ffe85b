// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/weirnet/weir/lab/probe"
)

// Member is a pod with a probe, for who goes by the cluster's own names and addresses
// and needs no World.
type Member struct {
	*probe.Client
	Name      string
	Node      string
	Addresses []netip.Addr
}

// Address is that of a family, or the zero Addr.
func (m *Member) Address(v6 bool) netip.Addr {
	for _, a := range m.Addresses {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// Order is for a Member.
type Order struct {
	Name, Node string
	Labels     map[string]string
	// HostPorts are ports of the node that lead to the pod's port beside each.
	HostPorts map[uint16]uint16
	// Host is for a pod with the node's network. It is told what to do on a port of
	// the node's loopback, which other sessions do not take.
	Host bool
}

// Namespace makes one that goes with the session, and gives its whole name. A
// privileged one takes pods with nodes' networks and ports.
func (s *Session) Namespace(ctx context.Context, suffix string, privileged bool, labels map[string]string) (string, error) {
	level := "baseline"
	if privileged {
		level = "privileged"
	}
	name := fmt.Sprintf("%s-%s-%s", s.options.Prefix, s.run, suffix)
	return name, s.namespace(ctx, name, level, labels)
}

// Start runs a pod and reaches its probe.
func (s *Session) Start(ctx context.Context, namespace string, o Order) (*Member, error) {
	port := probePort
	if o.Host {
		port = s.controlPort()
	}
	pod := s.pod(o.Name, o.Node, port)
	pod.Labels, pod.Spec.HostNetwork = o.Labels, o.Host
	for node, inside := range o.HostPorts {
		for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
			pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports,
				corev1.ContainerPort{HostPort: int32(node), ContainerPort: int32(inside), Protocol: protocol})
		}
	}
	if !o.Host {
		pod.Spec.SecurityContext = mayPing()
	}
	running, err := s.runPod(ctx, namespace, pod)
	if err != nil {
		return nil, err
	}
	client, err := s.reach(ctx, namespace, o.Name, port)
	if err != nil {
		return nil, err
	}
	return &Member{Client: client, Name: o.Name, Node: o.Node, Addresses: addressesOfPod(running)}, nil
}

// Here is a probe of this machine's own.
func (s *Session) Here() *probe.Client { return s.here() }

// Outside is the address by which this machine is the nodes' neighbour; the zero Addr
// where it is none.
func (s *Session) Outside(v6 bool) netip.Addr { return s.outside[v6] }

// Kube is the cluster's API.
func (s *Session) Kube() kubernetes.Interface { return s.kube }

// Host is where the API server is.
func (s *Session) Host() string { return s.config.Host }

// Number is the word in all names of the session as a number below 2^24, for what
// sessions must not share.
func (s *Session) Number() uint32 {
	n, err := strconv.ParseUint(s.run, 16, 32)
	if err != nil {
		panic("kube: the word of a session is no number: " + err.Error())
	}
	return uint32(n)
}

// Selector chooses the session's namespaces by their labels.
func (s *Session) Selector() string { return labelRun + "=" + s.run }

// Until is when the session's lease is over.
func (s *Session) Until() time.Time { return s.clock.now().Add(s.options.Lease) }

// ClockAhead is how much the API server's clock is ahead of this machine's, to a
// second.
func (s *Session) ClockAhead() time.Duration { return s.clock.aheadBy() }

// Ready are the nodes that are ready, workers first, and Waiting the names of the
// others.
func (s *Session) Ready() []corev1.Node { return slices.Clone(s.nodes) }
func (s *Session) Waiting() []string    { return slices.Clone(s.waiting) }

// NodeAddress is the one of a family by which others reach a node; the zero Addr: it
// has none.
func NodeAddress(n *corev1.Node, v6 bool) netip.Addr {
	for _, a := range addressesOf(n) {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// mayPing is that of a pod that may ping without privileges.
func mayPing() *corev1.PodSecurityContext {
	return &corev1.PodSecurityContext{
		Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ping_group_range", Value: "0 2147483647"}},
	}
}

// may adds the remedy to an error of who may not.
func may(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w: use a kubeconfig of an administrator, or ask the cluster's for leave", err)
	}
	return err
}
