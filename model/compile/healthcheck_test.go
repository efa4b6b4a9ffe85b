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
- {addresses: [10.0.0.12], nodeName: here, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.13], nodeName: there}
- {addresses: [10.0.0.14], nodeName: retiring, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.15], nodeName: published, conditions: {ready: true, serving: true, terminating: true}}
- {addresses: [10.0.0.16], nodeName: published, conditions: {ready: true, serving: false, terminating: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints:
- {addresses: ["fd00:10::10"], nodeName: here, targetRef: {kind: Pod, name: a}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-names, labels: {kubernetes.io/service-name: web}}
addressType: FQDN
ports: [{port: 8080}]
endpoints:
- {addresses: [web.example], nodeName: here}
- {addresses: [web.example], nodeName: named}
`

func TestAHealthCheckCountsReadyPodsOfTheNodeOnce(t *testing.T) {
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(healthCheckObjects))
	require.NoError(t, err)
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	for node, local := range map[string]int{
		"here": 1, "there": 1, "elsewhere": 0,
		"retiring":  0, // the balancer is to go elsewhere, whoever still serves
		"published": 2, // ready whatever their pods are, by publishNotReadyAddresses
		"named":     0, // nobody is reached by a name
	} {
		require.Equal(t, []HealthCheck{{Service: web, Port: 32000, Local: local}}, HealthChecks(objs, node), node)
	}
}
