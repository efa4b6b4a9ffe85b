// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a live cluster, as whoever the kubeconfig says.
type Cluster struct {
	config  *rest.Config
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	// tell says what goes on, a line each.
	tell func(line string)
}

// Connect reads a kubeconfig: the file, or where it is empty KUBECONFIG's or
// ~/.kube/config; and of it the context, or where that is empty the current
// one. Progress goes to tell, which may be nil. It sends nothing yet.
func Connect(kubeconfig, kubeContext string, tell func(line string)) (*Cluster, error) {
	config, err := ReadConfig(kubeconfig, kubeContext)
	if err != nil {
		return nil, err
	}
	return New(config, tell)
}

// ReadConfig says how the cluster of a kubeconfig is reached: see Connect.
func ReadConfig(kubeconfig, kubeContext string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: kubeContext})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w: name the file by --kubeconfig and the cluster in it by --context", err)
	}
	return config, nil
}

// New is a cluster whose API is reached as config says.
func New(config *rest.Config, tell func(line string)) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = fieldManager
	// What is asked of many nodes at once is not held back for seconds.
	config.QPS, config.Burst = 50, 100
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", config.Host, err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", config.Host, err)
	}
	if tell == nil {
		tell = func(string) {}
	}
	return &Cluster{config: config, kube: kube, dynamic: dyn, tell: tell}, nil
}

func (c *Cluster) tellf(format string, args ...any) { c.tell(fmt.Sprintf(format, args...)) }
