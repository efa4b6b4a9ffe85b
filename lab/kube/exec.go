// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container that somebody else has made, and writes what it
// prints as it comes, until it or ctx ends.
func (s *Session) Exec(ctx context.Context, namespace, pod, container string, out io.Writer, command ...string) error {
	request := s.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(s.config, "GET", request.URL().String())
	var said bytes.Buffer
	if err == nil {
		err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: &said})
	}
	if err != nil {
		return fmt.Errorf("exec %s in pod %s/%s: %w: %s", command[0], namespace, pod, err, strings.TrimSpace(said.String()))
	}
	return nil
}
