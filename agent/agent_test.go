// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
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
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/agent/inputs"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// patience is how long a test waits for what must come.
const patience = time.Minute // a machine may be busy

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
	tables  *inputs.Inputs
	mu      sync.Mutex
	text    string
	refused []manifest.Unread
	// alter makes objects that manifest.Parse would refuse.
	alter func(*manifest.Objects)
}

func (s *source) set(text string) {
	s.mu.Lock()
	s.text = text
	s.mu.Unlock()
	s.write()
}

// change sets what the cluster has beside its text.
func (s *source) change(alter func(*manifest.Objects), refused ...manifest.Unread) {
	s.mu.Lock()
	s.alter, s.refused = alter, refused
	s.mu.Unlock()
	s.write()
}

// write has the tables say what the cluster has.
func (s *source) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	objs, err := manifest.Parse("objects", strings.NewReader(s.text))
	if err != nil {
		panic(err)
	}
	if s.alter != nil {
		s.alter(objs)
	}
	before, unread := s.tables.Objects()
	for _, ref := range before.Refs() {
		if objs.Find(ref) == nil {
			s.tables.Delete(ref)
		}
	}
	for _, ref := range objs.Refs() {
		if object := objs.Find(ref); !reflect.DeepEqual(object, before.Find(ref)) {
			if err := s.tables.Put(object); err != nil {
				panic(err)
			}
		}
	}
	for _, u := range unread {
		s.tables.Unread.Delete(u.Object.String())
	}
	for _, u := range s.refused {
		s.tables.Unread.Put(u.Object.String(), u)
	}
	if s.changed != nil {
		s.changed()
	}
}

func (s *source) Inputs() *inputs.Inputs { return s.tables }

func (s *source) Errors() (map[string]error, map[string]time.Time) { return nil, nil }
func (s *source) Run(ctx context.Context)                          { <-ctx.Done() }
func (s *source) WaitForSync(context.Context) error                { return nil }

// node is a node under test.
type node struct {
	t       testing.TB
	source  *source
	paths   agent.Paths
	options agent.Options
	client  *api.Client
	stop    func()
}

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces")
	}
	dir := t.TempDir()
	bpffs := filepath.Join(dir, "bpf")
	require.NoError(t, os.Mkdir(bpffs, 0o700))
	require.NoError(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(bpffs, 0)) })
	n := &node{t: t, source: &source{tables: inputs.New()}, paths: agent.Paths{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Pins: filepath.Join(bpffs, "weir"), NetDir: filepath.Join(dir, "net.d"),
	}}
	n.makeUplink()
	n.client = api.NewClient(filepath.Join(n.paths.RunDir, "agent.sock"))
	n.options = agent.Options{
		Node: nodeName, Version: "test", Paths: n.paths, Config: config.Default(),
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
		return n.client.Get(n.t.Context(), api.PathStatus, &s) == nil && s.MTU > 0
	}, patience, 10*time.Millisecond)
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

func podDevices(t testing.TB) (names []string) {
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // devices come and go
		links, err = netlink.LinkList()
	}
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
	n         *node
	pod       string
	id        string
	path      string
	namespace string // of the pod; empty: default
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
	s := &sandbox{n: n, pod: pod, id: id, path: path}
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
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + cmp.Or(s.namespace, "default") + ";K8S_POD_NAME=" + s.pod + ";K8S_POD_UID=uid-of-" + s.pod,
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

// reach has a pod speak TCP to another one, or to the node, which has to answer.
func (s *sandbox) reach(to *sandbox, at netip.Addr) error { return s.dial(to, at, patience) }

// miss has a pod speak TCP to another one that nothing may come to: the error is of
// its not being answered.
func (s *sandbox) miss(to *sandbox, at netip.Addr) error { return s.dial(to, at, 2*time.Second) }

func (s *sandbox) dial(to *sandbox, at netip.Addr, timeout time.Duration) error {
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
		conn, err := (&net.Dialer{Timeout: timeout}).Dial("tcp", netip.AddrPortFrom(at, port).String())
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
	require.Eventually(t, func() bool { return len(n.routes()) == 4 }, patience, 10*time.Millisecond, "routes to the pods")
}

func TestAskingAgainGivesTheSame(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	first := a.add()
	require.Equal(t, first, a.add())
	b.add()
	require.NoError(t, b.reach(a, first[0]))
	require.Len(t, n.endpoints(), 2)
	require.Len(t, podDevices(t), 2)
}

func TestAPodThatIsMadeAnewUnderItsNameIsTheNewOne(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	b := n.sandbox("b", "bbbb")
	b.add()
	old := n.sandbox("a", "a-old")
	gone := old.add()
	renewed := n.sandbox("a", "a-new")
	addrs := renewed.add()
	require.NotEqual(t, gone, addrs)
	require.NoError(t, b.reach(renewed, addrs[1]))
	_, err := old.call("DEL", nil)
	require.NoError(t, err)
	require.NoError(t, b.reach(renewed, addrs[0]))
}

func TestPoliciesHoldFromTheFirstPacketOn(t *testing.T) {
	const policy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-b, namespace: default}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]
`
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b") + podObject("c") + policy)
	n.start()
	a, b, c := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb"), n.sandbox("c", "cccc")
	addrs := a.add()
	b.add()
	c.add()
	for _, at := range addrs {
		require.NoError(t, b.reach(a, at), at)
		require.ErrorContains(t, c.miss(a, at), "timeout", at)
	}
	var policies []api.Policy
	require.NoError(t, n.client.Get(t.Context(), api.PathPolicies, &policies))
	require.Len(t, policies, 1)
	require.Equal(t, model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "only-b"}, policies[0].Object)
	require.Positive(t, policies[0].Rules)
}

func TestTheDatapathGoesOnWithoutTheAgent(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b") + podObject("c"))
	n.start()
	a, b, c := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb"), n.sandbox("c", "cccc")
	addrs := a.add()
	b.add()
	c.add()
	n.stop()
	require.NoError(t, b.reach(a, addrs[0]))

	// What cannot be done without it says so, or waits.
	_, err := a.call("STATUS", nil)
	require.ErrorContains(t, err, "code 50")
	_, err = n.sandbox("d", "dddd").call("ADD", nil)
	require.ErrorContains(t, err, "code 11")
	_, err = a.call("GC", map[string]any{"cni.dev/valid-attachments": []any{}})
	require.ErrorContains(t, err, "code 11")
	_, err = c.call("DEL", nil)
	require.NoError(t, err)
	require.Len(t, podDevices(t), 2)

	n.start()
	require.Len(t, n.endpoints(), 2, "the deletion was waiting")
	require.NoError(t, b.reach(a, addrs[1]))
	require.Equal(t, addrs, a.add())
}

func TestADeletionThatWasLeftToABusyAgentIsDone(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	a.add()
	leave := map[string]any{"socket": "/none/agent.sock"}
	_, err := a.call("DEL", leave)
	require.NoError(t, err)
	b.add() // it has the agent look
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(filepath.Join(n.paths.StateDir, "deletions"))
		return err == nil && len(left) == 0
	}, patience, 10*time.Millisecond)
	require.Len(t, n.endpoints(), 1)
	_, err = b.call("DEL", leave)
	require.NoError(t, err)
	n.source.changed() // it looks while the endpoint is asked for again
	require.NotEmpty(t, b.add(), "asked for again: nothing is deleted")
	n.source.set(nodes + podObject("a") + podObject("b"))
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		require.Len(t, n.endpoints(), 1)
	}
}

func TestAnEndpointWhoseDeviceIsGoneIsForgottenAtTheStart(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	a.add()
	b.add()
	n.stop()
	link, err := netlink.LinkByName(podDevices(t)[0])
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(link))
	n.start()
	require.Len(t, n.endpoints(), 1)
}

func TestADeletionNeedsNoNamespace(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a"))
	n.start()
	a := n.sandbox("a", "aaaa")
	a.add()
	a.destroy()
	require.NoError(t, os.Remove(a.path))
	_, err := a.call("DEL", nil)
	require.NoError(t, err)
	require.Empty(t, podDevices(t))
	_, err = a.call("CHECK", map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}})
	require.ErrorContains(t, err, "there is no such endpoint")
}

func TestGarbageIsWhatTheRuntimeDoesNotName(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes + podObject("a") + podObject("b"))
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	a.add()
	b.add()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "weir0123456789a"
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "orphan", PeerTxQLen: -1}))
	_, err := a.call("GC", map[string]any{"cni.dev/valid-attachments": []map[string]any{{"containerID": "aaaa", "ifname": "eth0"}}})
	require.NoError(t, err)
	list := n.endpoints()
	require.Len(t, list, 1)
	require.Equal(t, "a", list[0].PodName)
	require.Equal(t, []string{list[0].HostDevice}, podDevices(t))
	_, err = a.call("STATUS", nil)
	require.NoError(t, err)
}

func TestAPodThatTheAPIDoesNotHaveIsNotConnected(t *testing.T) {
	n := newNode(t)
	n.options.Patience = 200 * time.Millisecond
	n.source.set(nodes)
	n.start()
	_, err := n.sandbox("a", "aaaa").call("ADD", nil)
	require.ErrorContains(t, err, "code 11")
	require.ErrorContains(t, err, "the API has no such pod on Node node-1")
	require.Empty(t, n.endpoints(), "what was made is undone")
	require.Empty(t, podDevices(t))
}

func TestAPodIsConnectedWhenItsObjectComesLater(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes)
	n.start()
	added := make(chan error, 1)
	a := n.sandbox("a", "aaaa")
	go func() {
		_, err := a.call("ADD", nil)
		added <- err
	}()
	require.Eventually(t, func() bool { return len(podDevices(t)) == 1 }, patience, time.Millisecond)
	require.Empty(t, added)
	link, err := netlink.LinkByName(podDevices(t)[0])
	require.NoError(t, err)
	require.Zero(t, link.Attrs().Flags&net.FlagUp, "nothing passes before the datapath has the pod")
	n.source.set(nodes + podObject("a"))
	require.NoError(t, <-added)
}

func TestOneRefusedObjectDoesNotStopTheOthers(t *testing.T) {
	const bad = `
apiVersion: v1
kind: Service
metadata: {name: first, namespace: default}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: second, namespace: default, uid: uid-of-second}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80}]}
---
`
	n := newNode(t)
	told := make(chan api.Refused, 10)
	n.options.Events = func(r api.Refused) { told <- r }
	n.source.set(nodes + podObject("a") + bad)
	n.start()
	n.sandbox("a", "aaaa").add()
	s := n.status()
	require.True(t, s.Ready)
	require.Len(t, s.Refused, 1)
	require.Equal(t, "Service default/second", s.Refused[0].Object.String())
	require.Contains(t, s.Refused[0].Problem, "default/first")
	require.Equal(t, "spec.clusterIPs[0]", s.Refused[0].Field)
	require.True(t, s.Refused[0].FieldOnly)
	require.Equal(t, 1, s.Services, "the first is in force")
	require.Len(t, told, 1, "once, however often it is compiled")
	require.Equal(t, "uid-of-second", (<-told).UID)
	n.source.set(nodes + podObject("a"))
	require.Eventually(t, func() bool { return len(n.status().Refused) == 0 }, patience, 10*time.Millisecond)
}

func TestANodeWithoutBlocksOfAddressesIsNotReady(t *testing.T) {
	n := newNode(t)
	n.source.set(strings.ReplaceAll(strings.ReplaceAll(nodes, `podCIDR: 10.0.1.0/24, podCIDRs: [10.0.1.0/24, "fd00:1::/64"]`, ""), "spec: {}", "spec: {unschedulable: false}") + podObject("a"))
	n.start()
	s := n.status()
	require.False(t, s.Ready)
	require.Contains(t, s.NotReady, "--allocate-node-cidrs")
	_, err := n.sandbox("a", "aaaa").call("ADD", nil)
	require.ErrorContains(t, err, "code 11")
	require.ErrorContains(t, err, "no podCIDR")
	require.NoFileExists(t, filepath.Join(n.paths.NetDir, agent.ConflistName))
	n.source.set(nodes + podObject("a"))
	require.Eventually(t, func() bool { return n.status().Ready }, patience, 10*time.Millisecond)
	require.FileExists(t, filepath.Join(n.paths.NetDir, agent.ConflistName))
}

func TestBadRequestsSayWhatIsWrong(t *testing.T) {
	n := newNode(t)
	n.source.set(nodes)
	n.start()
	for _, tt := range []struct {
		name, want string
		req        api.EndpointRequest
	}{
		{"an ID that is a path", "containerID", api.EndpointRequest{ContainerID: "../x", IfName: "eth0", PodNamespace: "default", PodName: "a"}},
		{"an interface that is a path", "ifname", api.EndpointRequest{ContainerID: "x", IfName: "a/b", PodNamespace: "default", PodName: "a"}},
		{"an interface with a long name", "ifname", api.EndpointRequest{ContainerID: "x", IfName: "abcdefghijklmnop", PodNamespace: "default", PodName: "a"}},
		{"no pod", "podName", api.EndpointRequest{ContainerID: "x", IfName: "eth0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := n.client.Post(t.Context(), api.PathEndpoints, tt.req, nil)
			require.ErrorContains(t, err, tt.want)
			refusal, ok := errorsAs(err)
			require.True(t, ok)
			require.False(t, refusal.Again)
		})
	}
	_, err := (&sandbox{n: n, id: "aaaa", path: "/proc/self/ns/net"}).call("DEL", map[string]any{"socket": 7})
	require.ErrorContains(t, err, "code 6")
}

func errorsAs(err error) (*api.Error, bool) { return errors.AsType[*api.Error](err) }

// isUp looks whether the host's side of an ADD's devices can be used.
func isUp(result map[string]any) error {
	name := result["interfaces"].([]any)[0].(map[string]any)["name"].(string)
	link, err := netlink.LinkByName(name)
	if err == nil && link.Attrs().Flags&net.FlagUp == 0 {
		err = fmt.Errorf("device %s is down behind its ADD", name)
	}
	return err
}

func TestManyPodsComeAndGoAndLeaveNothing(t *testing.T) {
	const pods = 30
	n := newNode(t)
	text := nodes
	for i := range pods {
		text += podObject(fmt.Sprint("pod-", i))
	}
	n.source.set(text)
	n.start()
	var all sync.WaitGroup
	failed := make(chan error, pods)
	boxes := make([]*sandbox, pods)
	for i := range boxes {
		boxes[i] = n.sandbox(fmt.Sprint("pod-", i), fmt.Sprint("id-", i))
	}
	for _, command := range []string{"ADD", "DEL"} {
		for _, box := range boxes {
			all.Go(func() {
				result, err := box.call(command, nil)
				if err == nil && command == "ADD" {
					err = isUp(result)
				}
				if err != nil {
					failed <- err
				}
			})
		}
		all.Wait()
		require.Empty(t, failed)
	}
	require.Empty(t, podDevices(t))
	require.Empty(t, n.endpoints())
	require.Eventually(t, func() bool {
		s := n.status()
		return s.Endpoints == api.EndpointCount{} && len(n.routes()) == 4 && len(s.Errors) == 0
	}, patience, 10*time.Millisecond)
}

func TestTheNodeForwardsTheFamiliesOfItsPods(t *testing.T) {
	const v4, v6 = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"
	forwards := func(path string) string {
		value, err := os.ReadFile(path)
		require.NoError(t, err)
		return strings.TrimSpace(string(value))
	}
	for _, path := range []string{v4, v6} {
		require.NoError(t, os.WriteFile(path, []byte("0"), 0o600))
	}
	n := newNode(t)
	n.source.set(strings.ReplaceAll(nodes, `, "fd00:1::/64"`, ""))
	n.start()
	require.Equal(t, []string{"1", "0"}, []string{forwards(v4), forwards(v6)})
	n.source.set(nodes)
	require.Eventually(t, func() bool { return forwards(v6) == "1" }, patience, 10*time.Millisecond)
}
