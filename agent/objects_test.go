// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model/manifest"
)

func parse(t *testing.T, text string) *manifest.Objects {
	t.Helper()
	objs, err := manifest.Parse("objects", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}

func record(id, pod, uid string, addrs ...string) api.Endpoint {
	e := api.Endpoint{EndpointRequest: api.EndpointRequest{ContainerID: id, IfName: "eth0", PodNamespace: "default", PodName: pod, PodUID: uid}}
	for _, addr := range addrs {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(addr))
	}
	return e
}

func TestWhoHasAnAddressWhenStatusesAreLate(t *testing.T) {
	for _, tt := range []struct {
		name, pods string
		records    []api.Endpoint
		want       map[string]string // address by pod
	}{
		{
			"a pod has its recorded address before its status says so",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1")}, map[string]string{"a": "10.0.0.1"},
		},
		{
			"the newest sandbox of a pod counts",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1"), record("y", "a", "1", "10.0.0.2")}, map[string]string{"a": "10.0.0.2"},
		},
		{
			"a record of an earlier pod of that name is not the pod's",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "2"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1")}, map[string]string{"a": ""},
		},
		{
			"a static pod is known by the hash of its file",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "2", annotations: {kubernetes.io/config.hash: "1"}}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1")}, map[string]string{"a": "10.0.0.1"},
		},
		{
			"an address goes to whom it is recorded for",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "b", "2", "10.0.0.1")}, map[string]string{"a": "", "b": "10.0.0.1"},
		},
		{
			"of two pods elsewhere the one that is going loses",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1", creationTimestamp: "2026-01-02T00:00:00Z", deletionTimestamp: "2026-01-02T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2", creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			nil, map[string]string{"a": "", "b": "10.0.0.1"},
		},
		{
			"of two pods elsewhere the newer one wins",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1", creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2", creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			nil, map[string]string{"a": "", "b": "10.0.0.1"},
		},
		{
			"a finished pod keeps nothing from others",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1", creationTimestamp: "2026-01-03T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {phase: Succeeded, podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2", creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			nil, map[string]string{"b": "10.0.0.1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objs := parse(t, tt.pods)
			overlay(objs, "self", tt.records)
			for name, want := range tt.want {
				got := ""
				for _, ip := range objs.Pods["default/"+name].Status.PodIPs {
					got += ip.IP
				}
				require.Equal(t, want, got, name)
			}
		})
	}
}
