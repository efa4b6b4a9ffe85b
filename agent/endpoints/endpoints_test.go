// SPDX-License-Identifier: Apache-2.0

package endpoints_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/agent/ipam"
	"github.com/weirnet/weir/model"
)

var gateways = model.Gateways()

func open(t *testing.T, dir string) *endpoints.Store {
	t.Helper()
	s, err := endpoints.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Pool.SetPrefixes([]netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}))
	return s
}

func request(id string) api.EndpointRequest {
	return api.EndpointRequest{ContainerID: id, IfName: "eth0", Netns: "/proc/1/ns/net", PodNamespace: "default", PodName: "pod"}
}

func attachment(id string) api.Attachment { return api.Attachment{ContainerID: id, IfName: "eth0"} }

func TestEndpointsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a, err := s.Add(request("a"), gateways, 1500)
	require.NoError(t, err)
	require.Equal(t, gateways[:1], a.Gateways, "of its families alone")
	require.Len(t, a.HostDevice, 15)
	a, err = s.Wire(attachment("a"), 7)
	require.NoError(t, err)
	b, err := s.Add(request("b"), gateways, 1500)
	require.NoError(t, err)
	require.NotEqual(t, a.HostDevice, b.HostDevice)

	again := open(t, dir)
	require.Equal(t, []api.Endpoint{a, b}, again.List())
	c, err := again.Add(request("c"), gateways, 1500)
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.0.1.3")}, c.Addresses, "behind what was given last")
	require.NoError(t, again.Delete(attachment("a")))
	require.NoError(t, again.Delete(attachment("a")), "nothing is there")
	_, err = again.Get(attachment("a"))
	require.ErrorIs(t, err, endpoints.ErrNotFound)
	require.Len(t, open(t, dir).List(), 2)
}

func TestAnInterruptedWriteLeavesTheOldRecord(t *testing.T) {
	dir := t.TempDir()
	_, err := open(t, dir).Add(request("a"), gateways, 1500)
	require.NoError(t, err)
	half := filepath.Join(dir, "endpoints", "a-eth0.json.new")
	require.NoError(t, os.WriteFile(half, []byte(`{"contai`), 0o600))
	require.Len(t, open(t, dir).List(), 1)
	require.NoFileExists(t, half)
}

func TestARecordThatCannotBeReadIsMovedAside(t *testing.T) {
	for _, text := range []string{"", "{", `{"containerID":"../../x","ifname":"eth0","podNamespace":"a","podName":"b"}`} {
		dir := t.TempDir()
		_, err := open(t, dir).Add(request("good"), gateways, 1500)
		require.NoError(t, err)
		path := filepath.Join(dir, "endpoints", "bad-eth0.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		s, err := endpoints.Open(dir)
		require.ErrorContains(t, err, path)
		require.Len(t, s.List(), 1)
		require.FileExists(t, path+".broken")
	}
}

func TestOfTwoRecordsWithOneAddressTheOlderStays(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := s.Add(request("a"), gateways, 1500)
	require.NoError(t, err)
	record := filepath.Join(dir, "endpoints", "a-eth0.json")
	data, err := os.ReadFile(record)
	require.NoError(t, err)
	thief := []byte(string(data[:len(`{"containerID":"`)]) + "z" + string(data[len(`{"containerID":"a`):]))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "endpoints", "z-eth0.json"), thief, 0o600))
	s, err = endpoints.Open(dir)
	require.ErrorContains(t, err, "10.0.1.1")
	require.Len(t, s.List(), 1)
}

func TestWhatCannotBeAddedLeavesNothing(t *testing.T) {
	s, err := endpoints.Open(t.TempDir())
	require.NoError(t, err)
	_, err = s.Add(request("a"), gateways, 1500)
	require.ErrorIs(t, err, ipam.ErrNoPrefix)
	_, err = s.Add(request("a/b"), gateways, 1500)
	require.ErrorIs(t, err, endpoints.ErrInvalid)
	_, err = s.Wire(attachment("a"), 7)
	require.ErrorIs(t, err, endpoints.ErrNotFound)
	require.Empty(t, s.List())
	require.Zero(t, s.Pool.Used())
}

func FuzzCheck(f *testing.F) {
	f.Add("0123abcd", "eth0")
	f.Add("../x", "a/b")
	f.Fuzz(func(t *testing.T, id, ifname string) {
		if endpoints.Check(api.Attachment{ContainerID: id, IfName: ifname}) != nil {
			return
		}
		name := id + "-" + ifname + ".json"
		require.Equal(t, name, filepath.Base(name), "a name of one file")
	})
}

func TestWhatWasTakenOverIsKeptAsItIs(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	e := api.Endpoint{
		EndpointRequest: request("a"), Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.1")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.1.254")},
		HostDevice: "veth1234", HostMAC: "02:00:00:00:00:01", PodMAC: "02:00:00:00:00:02", Ifindex: 7, MTU: 1400,
	}
	require.NoError(t, s.TakeOver(e))
	again := open(t, dir)
	e.TakenOver, e.Created = true, again.List()[0].Created
	require.Equal(t, []api.Endpoint{e}, again.List())
	require.Equal(t, "veth1234", endpoints.RecordedDevice(dir, attachment("a")))
	require.Equal(t, endpoints.Device(attachment("b")), endpoints.RecordedDevice(dir, attachment("b")))
	b, err := again.Add(request("b"), gateways, 1500)
	require.NoError(t, err)
	require.NotEqual(t, e.Addresses, b.Addresses)
	e.ContainerID = "c"
	require.ErrorContains(t, again.TakeOver(e), "10.0.1.1")
	require.Len(t, again.List(), 2)
	e.ContainerID = "../c"
	require.ErrorIs(t, again.TakeOver(e), endpoints.ErrInvalid)
}
