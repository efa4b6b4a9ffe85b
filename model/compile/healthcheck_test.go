// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/model/manifest"
)

const healthCheckObjects = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.11
  ports: [{port: 80, nodePort: 30081}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.0.0.10], nodeName: here, targetRef: {kind: Pod, name: a}}
- {addresses: [10.0.0.11], nodeName: here, conditions: {ready: false}}
- {addresses: [10.0.0.12], nodeName: here, conditions: {ready: true, terminating: true}}
- {addresses: [10.0.0.13], nodeName: there}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints:
- {addresses: ["fd00:10::10"], nodeName: here, targetRef: {kind: Pod, name: a}}
`

func TestAHealthCheckCountsReadyPodsOfTheNodeOnce(t *testing.T) {
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(healthCheckObjects))
	require.NoError(t, err)
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	require.Equal(t, []HealthCheck{{Service: web, Port: 32000, Local: 1}}, HealthChecks(objs, "here"))
	require.Equal(t, []HealthCheck{{Service: web, Port: 32000, Local: 1}}, HealthChecks(objs, "there"))
	require.Equal(t, []HealthCheck{{Service: web, Port: 32000}}, HealthChecks(objs, "elsewhere"))
}
