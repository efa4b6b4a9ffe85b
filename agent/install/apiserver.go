// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// ErrNoAPIServer is of a cluster that does not say where nodes reach its API.
var ErrNoAPIServer = errors.New("the cluster does not say where its nodes reach the API server: give HOST:PORT by --api-server")

// APIServer finds HOST:PORT where nodes reach the API server without the help
// of services: the one server that there is; of several what kubeadm calls the
// control plane's endpoint. It fails with ErrNoAPIServer.
func (c *Cluster) APIServer(ctx context.Context) (string, error) {
	servers, err := c.apiServers(ctx)
	if err != nil {
		return "", err
	}
	if len(servers) == 1 {
		return servers[0], nil
	}
	endpoint, err := c.controlPlaneEndpoint(ctx)
	switch {
	case err != nil:
		return "", err
	case endpoint != "":
		return endpoint, nil
	case len(servers) == 0:
		return "", ErrNoAPIServer
	}
	c.tellf("warning: there are %d API servers, and agents will use %s alone: give a load balancer's address by --api-server", len(servers), servers[0])
	return servers[0], nil
}

// apiServers are the backends of the Service default/kubernetes.
func (c *Cluster) apiServers(ctx context.Context) ([]string, error) {
	slices, err := c.kube.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
	})
	if err != nil {
		return nil, fmt.Errorf("list API servers: %w", err)
	}
	var servers []string
	for i := range slices.Items {
		slice := &slices.Items[i]
		for _, port := range slice.Ports {
			if port.Port == nil || port.Name != nil && *port.Name != "" && *port.Name != "https" {
				continue
			}
			for _, e := range slice.Endpoints {
				for _, address := range e.Addresses {
					servers = append(servers, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	return servers, nil
}

// controlPlaneEndpoint is what kubeadm wrote down; "" where it did not.
func (c *Cluster) controlPlaneEndpoint(ctx context.Context) (string, error) {
	config, err := c.kube.CoreV1().ConfigMaps(Namespace).Get(ctx, "kubeadm-config", metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read kubeadm's configuration: %w", err)
	}
	return endpointOf(config), nil
}

func endpointOf(config *corev1.ConfigMap) string {
	var fields struct {
		ControlPlaneEndpoint string `json:"controlPlaneEndpoint"`
	}
	if yaml.Unmarshal([]byte(config.Data["ClusterConfiguration"]), &fields) != nil || fields.ControlPlaneEndpoint == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(fields.ControlPlaneEndpoint); err != nil {
		return net.JoinHostPort(fields.ControlPlaneEndpoint, "6443") // kubeadm's default
	}
	return fields.ControlPlaneEndpoint
}
