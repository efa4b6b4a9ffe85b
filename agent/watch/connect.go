// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
)

// Clients ask a cluster's API.
type Clients struct {
	Typed   kubernetes.Interface
	Dynamic dynamic.Interface
}

// Connect makes clients by a kubeconfig, or with the account of the pod that
// the process is in when that is empty. It does not ask anything yet.
func Connect(kubeconfig string) (*Clients, error) {
	config, err := readKubeconfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	return ConnectBy(config)
}

// ConnectBy makes clients by a configuration.
func ConnectBy(config *rest.Config) (*Clients, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "weir-agent"
	// Many pods at once may have as many sets of labels, which want an object
	// each.
	config.QPS, config.Burst = 50, 100
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	custom, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	return &Clients{Typed: typed, Dynamic: custom}, nil
}

func readKubeconfig(path string) (*rest.Config, error) {
	if path != "" {
		config, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("find the API server: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: name a kubeconfig by --kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("read the pod's account: %w", err)
	}
	return config, nil
}

// Recorder tells a cluster's users of an object, by Events.
type Recorder struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// NewRecorder tells in a node's name.
func (c *Clients) NewRecorder(node string) *Recorder {
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.Typed.CoreV1().Events("")})
	return &Recorder{broadcaster, broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "weir", Host: node})}
}

// Warn tells something that is wrong with an object of a kind.
func (r *Recorder) Warn(kind, apiVersion string, obj metav1.Object, reason, message string) {
	r.recorder.Event(&corev1.ObjectReference{
		Kind: kind, APIVersion: apiVersion, Namespace: obj.GetNamespace(), Name: obj.GetName(),
		UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
	}, corev1.EventTypeWarning, reason, message)
}

// Close ends the telling.
func (r *Recorder) Close() { r.broadcaster.Shutdown() }
