// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is a node's, a pod's, the API server's or another proxy's has other ports
// than a service's.
func TestAddressesThatAreServicesAlone(t *testing.T) {
	objs := overlay(t, frontsYAML+`
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.10, "fd96::10"]
  externalIPs: [198.51.100.1, 10.0.1.1, 192.0.2.6]
  ports: [{port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.2}, {ip: 172.18.0.3}, {ip: 203.0.113.2}, {ip: 198.51.100.3, ipMode: Proxy}]}}
---
apiVersion: v1
kind: Service
metadata: {name: others, labels: {service.kubernetes.io/service-proxy-name: other}}
spec:
  clusterIP: 10.96.0.11
  externalIPs: [198.51.100.4]
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec:
  clusterIP: None
  externalIPs: [198.51.100.5]
  ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{port: 6443}]
endpoints: [{addresses: [192.0.2.6]}]
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec:
  clusterIP: 10.96.0.1
  ports: [{port: 443}]
`)
	delete(objs.Services, "default/nobody")
	state, _, err := All(objs, "node-a", withUplink())
	require.NoError(t, err)
	var want []netip.Addr
	for _, text := range []string{"10.96.0.1", "10.96.0.10", "198.51.100.1", "198.51.100.2", "fd96::10"} {
		want = append(want, netip.MustParseAddr(text))
	}
	require.Equal(t, want, state.ServiceAddresses)
	require.True(t, state.AnswersPings)
}
