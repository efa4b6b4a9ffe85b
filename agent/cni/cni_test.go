// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
)

// The test binary is the plugin when the runtime's environment is there. What
// it does together with an agent is tested beside the agent; here the agent is
// a script.

func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		Main("test")
		return
	}
	os.Exit(m.Run())
}

// script is an agent that answers as it is told, and keeps what it was asked.
type script struct {
	socket string
	mu     sync.Mutex
	asked  []string
}

func newScript(t *testing.T, answer func(asked string, body []byte) (code int, answer any)) *script {
	t.Helper()
	s := &script{socket: filepath.Join(t.TempDir(), "agent.sock")}
	listener, err := net.Listen("unix", s.socket)
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := r.Method + " " + r.URL.Path
		s.mu.Lock()
		s.asked = append(s.asked, asked)
		s.mu.Unlock()
		body := new(bytes.Buffer)
		_, _ = body.ReadFrom(r.Body)
		code, out := answer(asked, body.Bytes())
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(out)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return s
}

// call is one run of the plugin.
type call struct {
	command, args, netns, ifname string
	conf                         map[string]any
	spaced                       bool // in a network namespace of its own
}

const podArguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=1234;K8S_POD_INFRA_CONTAINER_ID=c1"

// run gives what the plugin prints, which is JSON or nothing.
func (c call) run(t *testing.T) (output map[string]any, failed bool) {
	t.Helper()
	input, err := json.Marshal(c.conf)
	require.NoError(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"CNI_COMMAND=" + c.command, "CNI_PATH=/none", "CNI_IFNAME=" + c.ifname, "CNI_CONTAINERID=c1", "CNI_NETNS=" + c.netns, "CNI_ARGS=" + c.args}
	cmd.Stdin = bytes.NewReader(input)
	if c.spaced {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed = cmd.Run() != nil
	require.NotContains(t, stderr.String(), "panic")
	if stdout.Len() > 0 {
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &output), stdout.String())
	}
	return output, failed
}

// conf is the network's configuration. A value of nil takes a key out.
func conf(socket, stateDir string, more map[string]any) map[string]any {
	c := map[string]any{"cniVersion": Version, "name": Network, "type": Type, "socket": socket, "stateDir": stateDir}
	for key, value := range more {
		c[key] = value
		if value == nil {
			delete(c, key)
		}
	}
	return c
}

func TestVersionsAreThoseThatRuntimesSpeak(t *testing.T) {
	output, failed := call{command: "VERSION", conf: map[string]any{"cniVersion": "0.3.0"}}.run(t)
	require.False(t, failed)
	require.Equal(t, []any{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, output["supportedVersions"])
}

func TestAConfigurationThatIsWrongSaysSo(t *testing.T) {
	for _, tt := range []struct {
		name, command string
		more          map[string]any
		code          float64
		want          string
	}{
		{"a version of the future", "ADD", map[string]any{"cniVersion": "9.0.0"}, 1, "9.0.0"},
		{"a version that is none", "ADD", map[string]any{"cniVersion": "one"}, 1, "one"},
		{"a socket that is a number", "ADD", map[string]any{"socket": 7}, 6, "socket"},
		{"a previous result that is none", "CHECK", map[string]any{"prevResult": map[string]any{"cniVersion": "1.0.0", "ips": "many"}}, 6, "prevResult"},
		{"attachments that are none", "GC", map[string]any{"cni.dev/valid-attachments": "all"}, 6, "valid-attachments"},
		{"no name", "ADD", map[string]any{"name": nil}, 7, "name"},
		{"CHECK before there was one", "CHECK", map[string]any{"cniVersion": "0.3.1", "prevResult": map[string]any{"cniVersion": "0.3.1"}}, 1, "CHECK"},
		{"GC before there was one", "GC", map[string]any{"cniVersion": "1.0.0"}, 1, "GC"},
		{"STATUS before there was one", "STATUS", map[string]any{"cniVersion": "1.0.0"}, 1, "STATUS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := call{command: tt.command, args: podArguments, netns: "/none", ifname: "eth0", conf: conf("/none/agent.sock", t.TempDir(), tt.more)}
			output, failed := c.run(t)
			require.True(t, failed)
			require.Equal(t, tt.code, output["code"], output)
			require.Contains(t, output["msg"].(string)+text(output["details"]), tt.want)
		})
	}
}

func text(v any) string { s, _ := v.(string); return s }

func TestArgumentsThatNameNoPodSaySo(t *testing.T) {
	for _, tt := range []struct{ name, args, ifname, want string }{
		{"none", "", "eth0", "K8S_POD_NAME"},
		{"no namespace", "K8S_POD_NAME=web", "eth0", "K8S_POD_NAMESPACE"},
		{"an empty name", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=", "eth0", "K8S_POD_NAME"},
		{"no pairs", "web", "eth0", "CNI_ARGS"},
		{"an interface with a slash", podArguments, "a/b", "name"},
		{"an interface with a long name", podArguments, "abcdefghijklmnop", "name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			output, failed := call{command: "ADD", args: tt.args, netns: "/none", ifname: tt.ifname, conf: conf("/none/agent.sock", t.TempDir(), nil)}.run(t)
			require.True(t, failed)
			require.Equal(t, float64(4), output["code"], output)
			require.Contains(t, output["msg"], tt.want)
		})
	}
}

func TestErrorsOfTheAgentAreTheSpecifications(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		code   float64
	}{
		{"it is not ready yet: try again", http.StatusInternalServerError, 11},
		{"no address is free now: try again", http.StatusServiceUnavailable, 11},
		{"the request is wrong: trying again does not help", http.StatusBadRequest, 999},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t, func(string, []byte) (int, any) { return tt.status, api.Error{Message: "for a reason"} })
			c := call{command: "ADD", args: podArguments, netns: "/none", ifname: "eth0", conf: conf(s.socket, t.TempDir(), nil)}
			output, failed := c.run(t)
			require.True(t, failed)
			require.Equal(t, tt.code, output["code"], output)
			require.Contains(t, output["msg"], "Pod default/web")
			require.Contains(t, output["msg"], "for a reason")
			require.Equal(t, []string{"POST " + api.PathEndpoints}, s.asked, "nothing was given: nothing is to be taken away")
			c.command = "STATUS"
			output, failed = c.run(t)
			require.True(t, failed)
			require.Equal(t, float64(50), output["code"], "the plugin cannot ADD")
		})
	}
}

func TestAnAnswerThatIsNoneOfAnAgentsIsAnError(t *testing.T) {
	s := newScript(t, func(string, []byte) (int, any) { return http.StatusOK, "hello" })
	output, failed := call{command: "ADD", args: podArguments, netns: "/none", ifname: "eth0", conf: conf(s.socket, t.TempDir(), nil)}.run(t)
	require.True(t, failed)
	require.Equal(t, float64(999), output["code"])
}

// scripted is what an agent gives c1.
func scripted(netnsPath string) api.Endpoint {
	at := api.Attachment{ContainerID: "c1", IfName: "eth0"}
	return api.Endpoint{
		EndpointRequest: api.EndpointRequest{ContainerID: "c1", IfName: "eth0", Netns: netnsPath, PodNamespace: "default", PodName: "web"},
		Addresses:       []netip.Addr{netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")},
		Gateways:        []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::57:1")},
		MTU:             1400, HostDevice: endpoints.Device(at), HostMAC: "02:57:01:00:00:01", PodMAC: "02:57:02:00:00:01",
	}
}

// adding answers ADD, but the last step as it is told.
func adding(netnsPath string, connect int) func(string, []byte) (int, any) {
	return func(asked string, body []byte) (int, any) {
		switch {
		case strings.HasPrefix(asked, "POST "+api.PathReady):
			if connect != http.StatusOK {
				return connect, api.Error{Message: "the datapath does not take it"}
			}
			return connect, scripted(netnsPath)
		case strings.HasPrefix(asked, "POST"):
			return http.StatusOK, scripted(netnsPath)
		}
		return http.StatusOK, struct{}{}
	}
}

// in runs the rest of a test on a node of its own: a network namespace.
func inNode(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // it ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
}

// podSpace is the path of a new network namespace.
func podSpace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	require.NoError(t, <-done)
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func devices(t *testing.T) (names []string) {
	t.Helper()
	links, err := netlink.LinkList()
	require.NoError(t, err)
	for _, link := range links {
		if link.Attrs().Flags&net.FlagLoopback == 0 && link.Type() == "veth" {
			names = append(names, link.Attrs().Name)
		}
	}
	return names
}

func TestResultsAreOfTheVersionThatTheRuntimeSpeaks(t *testing.T) {
	inNode(t)
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			inNode(t)
			space := podSpace(t)
			s := newScript(t, adding(space, http.StatusOK))
			c := call{command: "ADD", args: podArguments, netns: space, ifname: "eth0", conf: conf(s.socket, t.TempDir(), map[string]any{"cniVersion": version})}
			output, failed := c.run(t)
			require.False(t, failed, output)
			require.Equal(t, version, output["cniVersion"])
			var addresses, gateways []string
			for _, ip := range output["ips"].([]any) {
				entry := ip.(map[string]any)
				addresses, gateways = append(addresses, entry["address"].(string)), append(gateways, entry["gateway"].(string))
				require.Equal(t, float64(1), entry["interface"])
				_, hasFamily := entry["version"]
				require.Equal(t, version < "1", hasFamily, "until 1.0.0 an address says its family")
			}
			require.Equal(t, []string{"10.0.1.1/32", "fd00:1::1/128"}, addresses)
			require.Equal(t, []string{"169.254.1.1", "fe80::57:1"}, gateways)
			interfaces := output["interfaces"].([]any)
			require.Equal(t, space, interfaces[1].(map[string]any)["sandbox"])
			require.Equal(t, devices(t)[0], interfaces[0].(map[string]any)["name"])
			require.Len(t, output["routes"], 2)
		})
	}
}

func TestAddThatFailsLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		name    string
		space   func(t *testing.T) string
		connect int
		code    float64
		want    string
	}{
		{"the pod's namespace is gone", func(*testing.T) string { return "/none/netns" }, http.StatusOK, 999, "/none/netns"},
		{"the pod's namespace was unmounted", func(t *testing.T) string {
			path := podSpace(t)
			require.NoError(t, unix.Unmount(path, unix.MNT_DETACH))
			return path
		}, http.StatusOK, 999, "it is gone"},
		{"the datapath does not take it", podSpace, http.StatusInternalServerError, 11, "the datapath does not take it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inNode(t)
			space := tt.space(t)
			s := newScript(t, adding(space, tt.connect))
			stateDir := t.TempDir()
			output, failed := call{command: "ADD", args: podArguments, netns: space, ifname: "eth0", conf: conf(s.socket, stateDir, nil)}.run(t)
			require.True(t, failed)
			require.Equal(t, tt.code, output["code"], output)
			require.Contains(t, output["msg"], tt.want)
			require.Equal(t, "DELETE "+api.PathEndpoint+"c1/eth0", s.asked[len(s.asked)-1], "what was given is given back")
			// The scripted agent removes no device, and left it is down.
			for _, name := range devices(t) {
				link, err := netlink.LinkByName(name)
				require.NoError(t, err)
				require.Zero(t, link.Attrs().Flags&net.FlagUp)
			}
			left, err := os.ReadDir(stateDir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestAPodThatHasTheInterfaceOfAnotherPluginKeepsIt(t *testing.T) {
	inNode(t)
	space := podSpace(t)
	s := newScript(t, adding(space, http.StatusOK))
	c := call{command: "ADD", args: podArguments, netns: space, ifname: "lo", conf: conf(s.socket, t.TempDir(), nil)}
	other := scripted(space)
	other.IfName = "lo"
	s2 := newScript(t, func(asked string, body []byte) (int, any) { return http.StatusOK, other })
	c.conf["socket"] = s2.socket
	output, failed := c.run(t)
	require.True(t, failed)
	require.Contains(t, output["msg"], "the pod has a device lo already, which is not Weir's")
	require.Empty(t, devices(t))
}

func TestDelIsDoneAsFarAsItGoes(t *testing.T) {
	inNode(t)
	device := endpoints.Device(api.Attachment{ContainerID: "c1", IfName: "eth0"})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = device
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "pod", PeerTxQLen: -1}))
	stateDir := filepath.Join(t.TempDir(), "not-there-yet")
	for range 2 {
		// Neither arguments nor a namespace are needed.
		output, failed := call{command: "DEL", ifname: "eth0", conf: conf("/none/agent.sock", stateDir, nil)}.run(t)
		require.False(t, failed, output)
		require.Empty(t, devices(t))
		data, err := os.ReadFile(filepath.Join(stateDir, "deletions", "c1-eth0"))
		require.NoError(t, err)
		require.JSONEq(t, `{"containerID": "c1", "ifname": "eth0"}`, string(data))
	}
	_, failed := call{command: "DEL", ifname: "eth0", conf: conf("/none/agent.sock", "/proc/none", nil)}.run(t)
	require.True(t, failed, "a deletion that nobody will know of is an error")
}

func TestDelRemovesADeviceThatWasTakenOverByItsRecord(t *testing.T) {
	inNode(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "veth1234"
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "pod", PeerTxQLen: -1}))
	stateDir := t.TempDir()
	store, err := endpoints.Open(stateDir)
	require.NoError(t, err)
	e := scripted("")
	e.HostDevice = "veth1234"
	require.NoError(t, store.TakeOver(e))
	_, failed := call{command: "DEL", ifname: "eth0", conf: conf("/none/agent.sock", stateDir, nil)}.run(t)
	require.False(t, failed)
	require.Empty(t, devices(t))
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	inNode(t)
	space := podSpace(t)
	s := newScript(t, adding(space, http.StatusOK))
	c := call{command: "ADD", args: podArguments, netns: space, ifname: "eth0", conf: conf(s.socket, t.TempDir(), nil)}
	_, failed := c.run(t)
	require.False(t, failed)
	host, err := netlink.LinkByName(devices(t)[0])
	require.NoError(t, err)

	ready := scripted(space)
	ready.Ready = true
	checking := newScript(t, func(string, []byte) (int, any) { return http.StatusOK, ready })
	c.command = "CHECK"
	c.conf = conf(checking.socket, t.TempDir(), map[string]any{"prevResult": map[string]any{"cniVersion": Version}})
	check := func(want string) {
		t.Helper()
		output, failed := c.run(t)
		if want == "" {
			require.False(t, failed, output)
			return
		}
		require.True(t, failed)
		require.Contains(t, output["msg"], want)
	}
	check("is down") // it is the agent who brings it up
	require.NoError(t, netlink.LinkSetUp(host))
	check("")
	ready.Addresses[0] = netip.MustParseAddr("10.0.1.9")
	check("has not address 10.0.1.9")
	ready.Addresses[0] = netip.MustParseAddr("10.0.1.1")
	ready.Gateways[0] = netip.MustParseAddr("169.254.1.2")
	check("no route by 169.254.1.2")
	ready.Gateways[0] = netip.MustParseAddr("169.254.1.1")
	ready.Ready = false
	check("the datapath does not have it")
	ready.Ready = true
	require.NoError(t, netlink.LinkDel(host))
	check("find device " + host.Attrs().Name)
}

func TestGarbageIsTheAgentsToFind(t *testing.T) {
	var told api.GCRequest
	s := newScript(t, func(_ string, body []byte) (int, any) {
		told = api.GCRequest{}
		if err := json.Unmarshal(body, &told); err != nil {
			return http.StatusBadRequest, api.Error{Message: err.Error()}
		}
		return http.StatusOK, struct{}{}
	})
	for _, tt := range []struct {
		name string
		list any
		want []api.Attachment
	}{
		{"of some", []map[string]any{{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}}, []api.Attachment{{ContainerID: "a", IfName: "eth0"}, {ContainerID: "b", IfName: "net1"}}},
		{"of none", []map[string]any{}, []api.Attachment{}},
		{"of none, as Go writes it", []map[string]any(nil), []api.Attachment{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			output, failed := call{command: "GC", conf: conf(s.socket, t.TempDir(), map[string]any{"cni.dev/valid-attachments": tt.list})}.run(t)
			require.False(t, failed, output)
			require.Equal(t, tt.want, told.Valid)
		})
	}
}

func TestGarbageIsNotCollectedWithoutAList(t *testing.T) {
	s := newScript(t, func(string, []byte) (int, any) { return http.StatusOK, struct{}{} })
	output, failed := call{command: "GC", conf: conf(s.socket, t.TempDir(), nil)}.run(t)
	require.True(t, failed, "an absent list would take all pods away")
	require.Contains(t, output["msg"], "cni.dev/valid-attachments")
	require.Empty(t, s.asked)
}
