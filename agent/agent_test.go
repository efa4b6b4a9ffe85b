// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent"
	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/cni"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model"
)

// The tests run in a process of their own, in network and mount namespaces of
// its own: that is the node. The same binary is the plugin when the runtime's
// environment is there.

const inNode = "WEIR_TEST_IN_NODE"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("CNI_COMMAND") != "":
		cni.Main("test")
	case os.Getenv(inNode) != "":
		os.Exit(m.Run())
	case os.Geteuid() != 0:
		// Each test fails with its reason.
		os.Exit(m.Run())
	default:
		os.Exit(enterNode())
	}
}

// enterNode runs this binary again, in new namespaces.
func enterNode() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNode+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const (
	nodeName = "node-1"
	uplink   = "uplink"
)

// objects of a cluster of two nodes.
const nodes = `
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.0.1.0/24, podCIDRs: [10.0.1.0/24, "fd00:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
spec: {podCIDR: 10.0.2.0/24, podCIDRs: [10.0.2.0/24, "fd00:2::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: "2001:db8::2"}]}
---
`

func podObject(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, uid: uid-of-%s, labels: {app: %s}}
spec: {nodeName: node-1, containers: [{name: main, image: none}]}
---
`, name, name, name)
}

// source is a cluster without an API server.
type source struct {
	changed func()
	mu      sync.Mutex
	text    string
}

func (s *source) set(text string) {
	s.mu.Lock()
	s.text = text
	s.mu.Unlock()
	if s.changed != nil {
		s.changed()
	}
}

func (s *source) Objects() (*model.Objects, []watch.Refused) {
	s.mu.Lock()
	defer s.mu.Unlock()
	objs, err := model.Parse("objects", strings.NewReader(s.text))
	if err != nil {
		panic(err)
	}
	return objs, nil
}

func (s *source) Errors() (map[string]error, map[string]time.Time) { return nil, nil }
func (s *source) Run(ctx context.Context)                          { <-ctx.Done() }
func (s *source) WaitForSync(context.Context) error                { return nil }

// node is a node under test.
type node struct {
	t       *testing.T
	source  *source
	paths   agent.Paths
	options agent.Options
	client  *api.Client
	stop    func()
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces")
	}
	dir := t.TempDir()
	bpffs := filepath.Join(dir, "bpf")
	require.NoError(t, os.Mkdir(bpffs, 0o700))
	require.NoError(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(bpffs, 0)) })
	n := &node{t: t, source: new(source), paths: agent.Paths{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Pins: filepath.Join(bpffs, "weir"), NetDir: filepath.Join(dir, "net.d"),
	}}
	n.makeUplink()
	n.client = api.NewClient(filepath.Join(n.paths.RunDir, "agent.sock"))
	n.options = agent.Options{
		Node: nodeName, Version: "test", Paths: n.paths,
		Source: func(changed func()) (agent.Source, error) { n.source.changed = changed; return n.source, nil },
	}
	t.Cleanup(n.leavesNothing)
	return n
}

// makeUplink is the device towards others, with nobody there.
func (n *node) makeUplink() {
	t := n.t
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = uplink
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "others", PeerTxQLen: -1}))
	for _, name := range []string{uplink, "others"} {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(link))
	}
	link, err := netlink.LinkByName(uplink)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, netlink.LinkDel(link)) })
	for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(text)
		require.NoError(t, err)
		addr.Flags = unix.IFA_F_NODAD
		require.NoError(t, netlink.AddrAdd(link, addr))
	}
}

func (n *node) start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx, n.options) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(n.t, <-ended)
	})
	n.t.Cleanup(n.stop)
	require.Eventually(n.t, func() bool {
		select {
		case err := <-ended:
			n.t.Errorf("the agent has ended: %v", err)
			ended <- err
			return true
		default:
		}
		var s api.Status
		return n.client.Get(n.t.Context(), api.PathStatus, &s) == nil && s.Apply.Count > 0
	}, 20*time.Second, 10*time.Millisecond)
}

// leavesNothing cleans up as 'weir agent cleanup' does, and looks.
func (n *node) leavesNothing() {
	n.stop()
	require.NoError(n.t, agent.Cleanup(agent.Left{Paths: n.paths, Plugin: filepath.Join(n.paths.RunDir, "none")}, func(string) {}))
	require.Empty(n.t, podDevices(n.t))
	require.Empty(n.t, n.routes())
	require.NoDirExists(n.t, n.paths.Pins)
	require.NoDirExists(n.t, n.paths.StateDir)
	require.NoFileExists(n.t, filepath.Join(n.paths.NetDir, agent.ConflistName))
}

func (n *node) status() (s api.Status) {
	n.t.Helper()
	require.NoError(n.t, n.client.Get(n.t.Context(), api.PathStatus, &s))
	return s
}

func (n *node) endpoints() (list []api.Endpoint) {
	n.t.Helper()
	require.NoError(n.t, n.client.Get(n.t.Context(), api.PathEndpoints, &list))
	return list
}

func (n *node) routes() (list []string) {
	found, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routes.Protocol}, netlink.RT_FILTER_PROTOCOL)
	require.NoError(n.t, err)
	for _, r := range found {
		list = append(list, r.Dst.String())
	}
	return list
}

func podDevices(t *testing.T) (names []string) {
	links, err := netlink.LinkList()
	require.NoError(t, err)
	for _, link := range links {
		if name := link.Attrs().Name; strings.HasPrefix(name, "weir") {
			names = append(names, name)
		}
	}
	return names
}

// sandbox is a pod's network namespace, as a runtime makes it.
type sandbox struct {
	n    *node
	pod  string
	id   string
	path string
}

func (n *node) sandbox(pod, id string) *sandbox {
	n.t.Helper()
	path := filepath.Join(n.t.TempDir(), "netns")
	require.NoError(n.t, os.WriteFile(path, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	require.NoError(n.t, <-done)
	s := &sandbox{n, pod, id, path}
	n.t.Cleanup(s.destroy)
	return s
}

func (s *sandbox) destroy() { _ = unix.Unmount(s.path, unix.MNT_DETACH) }

// in runs f in the sandbox's namespace.
func (s *sandbox) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(s.path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// call runs the plugin as a runtime does.
func (s *sandbox) call(command string, more map[string]any) (map[string]any, error) {
	conf := map[string]any{
		"cniVersion": "1.1.0", "name": "weir", "type": "weir",
		"socket": filepath.Join(s.n.paths.RunDir, "agent.sock"), "stateDir": s.n.paths.StateDir,
	}
	for key, value := range more {
		conf[key] = value
	}
	input, err := json.Marshal(conf)
	require.NoError(s.n.t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_PATH=/none", "CNI_IFNAME=eth0", "CNI_CONTAINERID=" + s.id, "CNI_NETNS=" + s.path,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + s.pod + ";K8S_POD_UID=uid-of-" + s.pod,
	}
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run()
	var output map[string]any
	if stdout.Len() > 0 {
		require.NoError(s.n.t, json.Unmarshal(stdout.Bytes(), &output), "%s %s", &stdout, &stderr)
	}
	if failed != nil {
		return output, fmt.Errorf("code %v: %v %s", output["code"], output["msg"], &stderr)
	}
	return output, nil
}

func (s *sandbox) add() []netip.Addr {
	s.n.t.Helper()
	result, err := s.call("ADD", nil)
	require.NoError(s.n.t, err)
	var addrs []netip.Addr
	for _, ip := range result["ips"].([]any) {
		prefix := netip.MustParsePrefix(ip.(map[string]any)["address"].(string))
		require.True(s.n.t, prefix.IsSingleIP(), prefix)
		addrs = append(addrs, prefix.Addr())
	}
	return addrs
}

// reach has a pod speak TCP to another one, or to the node.
func (s *sandbox) reach(to *sandbox, at netip.Addr) error {
	const port = 8080
	var listener net.Listener
	err := to.in(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(at, port).String())
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return s.in(func() error {
		conn, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", netip.AddrPortFrom(at, port).String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func TestPodsAreConnectedAndTakenAway(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	require.True(t, n.status().Ready, n.status().NotReady)
	require.FileExists(t, filepath.Join(n.paths.NetDir, agent.ConflistName))
	require.ElementsMatch(t, []string{"10.0.1.0/24", "fd00:1::/64", "10.0.2.0/24", "fd00:2::/64"}, n.routes())

	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	addrs := a.add()
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")}, addrs)
	other := b.add()
	for _, at := range other {
		require.NoError(t, a.reach(b, at), at)
	}
	for _, at := range addrs {
		require.NoError(t, b.reach(a, at), at)
	}
	for _, e := range n.endpoints() {
		require.True(t, e.Ready, e.PodName)
	}
	_, err := a.call("CHECK", map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}})
	require.NoError(t, err)

	for _, s := range []*sandbox{a, b, a} {
		_, err := s.call("DEL", nil)
		require.NoError(t, err)
	}
	require.Empty(t, n.endpoints())
	require.Empty(t, podDevices(t))
	require.Eventually(t, func() bool { return len(n.routes()) == 4 }, 5*time.Second, 10*time.Millisecond, "routes to the pods")
}
