// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"
)

func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion": "1.1.0", "name": "weir", "type": "weir", "socket": "/run/weir/agent.sock", "stateDir": "/var/lib/weir"}`,
		`{"cniVersion": "0.3.1", "name": "weir", "type": "weir", "prevResult": {"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.1/24"}]}}`,
		`{"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}`,
		`{"socket": "", "stateDir": ""}`, `{"prevResult": null}`, `{"prevResult": {}}`, `null`, `[]`, `7`, `{`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		conf, err := readConfig(data)
		if err != nil {
			_, told := errors.AsType[*types.Error](err)
			require.True(t, told, "the runtime is told by the specification's codes: %v", err)
			return
		}
		require.NotEmpty(t, conf.Socket)
		require.NotEmpty(t, conf.StateDir)
	})
}

func FuzzArguments(f *testing.F) {
	for _, seed := range []string{
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=1234",
		"K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c", "IgnoreUnknown=perhaps", "CommonArgs=1", "=", ";;", "a=b=c", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, args string) {
		req, err := request(&skel.CmdArgs{ContainerID: "c1", IfName: "eth0", Args: args})
		if err != nil {
			_, told := errors.AsType[*types.Error](err)
			require.True(t, told, "the runtime is told by the specification's codes: %v", err)
			return
		}
		require.NotEmpty(t, req.PodNamespace)
		require.NotEmpty(t, req.PodName)
	})
}
