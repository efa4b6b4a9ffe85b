// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestAPodsAddressKeepsTheIdentityThatTheStateGivesIt(t *testing.T) {
	const native = uint8(bpf.ContainerIpcacheFlagsIPCACHE_NATIVE)
	for name, tt := range map[string]struct {
		listed   []model.Address
		endpoint model.Identity
		want     ipcacheHalf
	}{
		"listed":                            {[]model.Address{{Prefix: netip.PrefixFrom(addr("10.0.0.1"), 32), Identity: 900, Native: true}}, 300, ipcacheHalf{Identity: 900, Ifindex: 7, Flags: native}},
		"not listed":                        {nil, 300, ipcacheHalf{Identity: 300, Ifindex: 7}},
		"without an identity: not the host": {nil, model.IdentityUnknown, ipcacheHalf{Identity: uint32(model.IdentityUnmanaged), Ifindex: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			state := &model.State{Addresses: model.ListOf(tt.listed...), Endpoints: []model.Endpoint{{IPv4: addr("10.0.0.1"), Identity: tt.endpoint, Device: model.Device{Ifindex: 7}}}}
			want := &desired{}
			planIPCache(state, want)
			require.Equal(t, tt.want, want.ipcache[encodeAddr(addr("10.0.0.1"))])
		})
	}
}

func TestAnAddressOfAnotherNodeIsFlagged(t *testing.T) {
	want := &desired{}
	planIPCache(&model.State{Addresses: model.ListOf(model.Address{Prefix: netip.PrefixFrom(addr("192.0.2.9"), 32), Identity: 400, Node: true})}, want)
	require.Equal(t, ipcacheHalf{Identity: 400, Flags: uint8(bpf.ContainerIpcacheFlagsIPCACHE_NODE)}, want.ipcache[encodeAddr(addr("192.0.2.9"))])
}
