// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
)

// forward opens a port of a pod's loopback by the API server and the node's runtime:
// no network of the pods' is asked, so that no policy stops it.
func (s *Session) forward(namespace, pod string, port int) (io.ReadWriteCloser, error) {
	url := s.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(url, s.config)
	if err != nil {
		return nil, fmt.Errorf("reach %s/%s: %w", namespace, pod, err)
	}
	connection, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("reach %s/%s by the API server: %w", namespace, pod, err)
	}
	f := &forwarded{connection: connection}
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	problems, err := connection.CreateStream(headers)
	if err == nil {
		err = problems.Close() // nothing is said there
	}
	if err == nil {
		headers.Set(corev1.StreamType, corev1.StreamTypeData)
		f.stream, err = connection.CreateStream(headers)
	}
	if err != nil {
		connection.Close()
		return nil, fmt.Errorf("reach port %d of %s/%s: %w", port, namespace, pod, err)
	}
	f.reading.Go(func() {
		text, _ := io.ReadAll(problems) // its end is that of the stream
		if said := strings.TrimSpace(string(text)); said != "" {
			f.problem = said
			connection.Close()
		}
	})
	return f, nil
}

// stream is what is used of client-go's streams.
type stream interface {
	io.ReadWriteCloser
	Reset() error
}

// forwarded is a stream to a pod's port, with a connection to the API server of its
// own.
type forwarded struct {
	stream
	connection io.Closer
	reading    sync.WaitGroup
	problem    string // what the runtime said against it
}

// Close ends the stream and its connection.
func (f *forwarded) Close() error {
	_ = f.stream.Reset() // what is on its way is nobody's any more
	err := f.connection.Close()
	f.reading.Wait()
	return err
}
