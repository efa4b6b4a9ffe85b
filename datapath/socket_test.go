// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/soil"
	"github.com/weirnet/weir/model"
)

// coarseTick is the longest by which the kernel's coarse clock is behind the other: one
// of its timer's ticks (CONFIG_HZ is 100 at least).
const coarseTick = 10 * time.Millisecond

// cgroupVariable tells a test that it runs in a cgroup of its own, and where
// that is.
const cgroupVariable = "WEIR_TEST_CGROUP"

// inCgroup runs the calling test or benchmark again, in a process of its own
// that is in a cgroup of its own, and gives that cgroup there. To the caller it
// gives nothing: it is done.
func inCgroup(t testing.TB, filter ...string) string {
	t.Helper()
	if path := os.Getenv(cgroupVariable); path != "" {
		if _, measures := t.(*testing.B); !measures {
			soiled, err := soil.Attach(path)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, soiled.Close()) })
		}
		return path
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes a cgroup and loads BPF programs")
	}
	runtime.LockOSThread() // and never unlock: its mounts die with the thread
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := t.TempDir()
	require.NoError(t, unix.Mount("cgroup2", dir, "cgroup2", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	path, err := os.MkdirTemp(dir, "weir-test-")
	require.NoError(t, err)
	defer func() { require.NoError(t, removeCgroup(path)) }()
	group, err := os.Open(path)
	require.NoError(t, err)
	defer group.Close()

	if len(filter) == 0 {
		filter = []string{"-test.v", "-test.run", "^" + t.Name() + "$"}
	}
	again := exec.Command("/proc/self/exe", append([]string{"-test.timeout", "5m"}, filter...)...)
	again.Env = append(os.Environ(), cgroupVariable+"="+path)
	again.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	said, err := again.CombinedOutput()
	require.NoErrorf(t, err, "%s", said)
	require.NotContains(t, string(said), "no tests to run")
	if _, ok := t.(*testing.B); ok {
		for line := range bytes.Lines(said) {
			if bytes.HasPrefix(line, []byte("Benchmark")) {
				os.Stdout.Write(line)
			}
		}
	} else if bytes.Contains(said, []byte("--- SKIP: "+t.Name()+" ")) {
		t.Skipf("%s", said)
	}
	return ""
}

// removeCgroup removes a cgroup with those below it, once what has ended there
// has left: that is a little after it was waited for.
func removeCgroup(path string) (err error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(patience * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = os.Remove(path); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// withSockets is a namespace for sockets: all that is a backend, and all of the
// node's addresses, are on its loopback device.
func withSockets(t testing.TB) *node {
	t.Helper()
	n := newNode(t)
	loopback(t, "192.0.2.1/32", "2001:db8::1/128", "10.1.0.1/32", "10.1.0.2/32", "10.1.0.3/32", "fd01::1/128", "fd01::2/128", "fd01::3/128", "fd01:8:9:a:b:c:d:e/128")
	n.state.Services = model.List[model.Service]{}
	return n
}

// loopback brings the loopback device up, with addresses.
func loopback(t testing.TB, addresses ...string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	for _, a := range addresses {
		address, err := netlink.ParseAddr(a)
		require.NoError(t, err)
		address.Flags = unix.IFA_F_NODAD
		require.NoError(t, netlink.AddrAdd(lo, address))
		awaitAddress(t, address.IP)
	}
}

// awaitAddress waits until an address can be spoken to: the kernel gives one of
// IPv6 its route a little later, by a worker that tells nobody.
func awaitAddress(t testing.TB, ip net.IP) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err = netlink.RouteGet(ip); err == nil {
			return
		}
	}
	require.NoError(t, err, "%s is not usable", ip)
}

func socketOptions(cgroup string) Options {
	opts := small()
	opts.Attach, opts.Cgroup, opts.Seed = true, cgroup, 7
	return opts
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func serve(protocol model.Protocol, kind model.ServiceKind, frontend string, backends ...string) model.Service {
	s := model.Service{
		Name: model.PortRef{Namespace: "default", Name: frontend}, Kind: kind, Address: at(frontend).Addr(), Port: at(frontend).Port(), Protocol: protocol,
	}
	for _, b := range backends {
		s.Backends = append(s.Backends, model.Backend{Address: at(b).Addr(), Port: at(b).Port()})
	}
	return s
}

// socket is a file descriptor of the kernel's, without Go's poller before it:
// it is made on the calling thread, in its namespace.
type socket struct {
	t      testing.TB
	fd     int
	family int
}

// monotonicNow is the time by the clock that events are of.
func monotonicNow(t testing.TB) time.Duration {
	t.Helper()
	var now unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return time.Duration(now.Nano())
}

const patience = 60 // seconds that a socket waits: a machine may be busy

// uninterrupted calls again what a signal has interrupted: Go stops threads by signals,
// and the kernel does not begin a call anew that has a limit of time (signal(7)).
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receiveFrom reads a datagram, or what came on a connection.
func receiveFrom(fd int, buf []byte) (n int, from unix.Sockaddr, err error) {
	err = uninterrupted(func() (err error) {
		n, from, err = unix.Recvfrom(fd, buf, 0)
		return err
	})
	return n, from, err
}

func newSocket(t testing.TB, family, kind int) *socket {
	t.Helper()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	s := &socket{t, fd, family}
	t.Cleanup(s.close)
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}))
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: patience}))
	return s
}

// kernelAddr is an address as a socket of a family names it: IPv6 sockets name
// IPv4 as mapped addresses.
func kernelAddr(family int, a netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func goAddr(t testing.TB, sa unix.Sockaddr) netip.AddrPort {
	t.Helper()
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	require.Failf(t, "no address", "%#v", sa)
	return netip.AddrPort{}
}

func (s *socket) connect(to string) error {
	return unix.Connect(s.fd, kernelAddr(s.family, at(to)))
}

func (s *socket) sendTo(to, what string) error {
	return unix.Sendto(s.fd, []byte(what), 0, kernelAddr(s.family, at(to)))
}

func (s *socket) send(what string) {
	s.t.Helper()
	require.NoError(s.t, unix.Send(s.fd, []byte(what), 0))
}

// receive gives what came, and from whom as the kernel tells it.
func (s *socket) receive() (what string, from unix.Sockaddr) {
	s.t.Helper()
	buf := make([]byte, 64)
	n, from, err := receiveFrom(s.fd, buf)
	require.NoError(s.t, err)
	return string(buf[:n]), from
}

func (s *socket) peer() netip.AddrPort {
	s.t.Helper()
	peer, err := unix.Getpeername(s.fd)
	require.NoError(s.t, err)
	return goAddr(s.t, peer)
}

func (s *socket) name() netip.AddrPort {
	s.t.Helper()
	name, err := unix.Getsockname(s.fd)
	require.NoError(s.t, err)
	return goAddr(s.t, name)
}

func familyOf(a string) int {
	if at(a).Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// listen makes a server's socket.
func listen(t testing.TB, kind int, where string) *socket {
	t.Helper()
	s := newSocket(t, familyOf(where), kind)
	require.NoError(t, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	require.NoError(t, unix.Bind(s.fd, kernelAddr(s.family, at(where))))
	if kind == unix.SOCK_STREAM {
		require.NoError(t, unix.Listen(s.fd, 1024))
	}
	return s
}

func (s *socket) accept() *socket {
	s.t.Helper()
	var fd int
	require.NoError(s.t, uninterrupted(func() (err error) {
		fd, _, err = unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		return err
	}))
	accepted := &socket{s.t, fd, s.family}
	s.t.Cleanup(accepted.close)
	return accepted
}

func (s *socket) close() {
	if s.fd >= 0 {
		require.NoError(s.t, unix.Close(s.fd))
		s.fd = -1
	}
}

// disconnect is a connect to AF_UNSPEC.
func (s *socket) disconnect() {
	s.t.Helper()
	var unspec unix.RawSockaddrInet4
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	require.Zero(s.t, errno)
}

// echo answers one datagram.
func (s *socket) echo() (what string) {
	s.t.Helper()
	what, from := s.receive()
	require.NoError(s.t, unix.Sendto(s.fd, []byte(what), 0, from))
	return what
}

// reaches lets a process reach a backend by its frontend, in every way that
// there is: and all that it sees of its peer is the frontend.
func reaches(t testing.TB, family int, frontend, backend string) {
	t.Helper()
	server := listen(t, unix.SOCK_STREAM, backend)
	client := newSocket(t, family, unix.SOCK_STREAM)
	require.NoError(t, client.connect(frontend))
	accepted := server.accept()
	require.Equal(t, at(frontend), client.peer(), "TCP")
	require.Equal(t, client.name(), accepted.peer(), "the server sees the client")
	require.Equal(t, at(backend), accepted.name())
	client.send("there")
	got, _ := accepted.receive()
	require.Equal(t, "there", got)
	accepted.send("back")
	got, _ = client.receive()
	require.Equal(t, "back", got)

	datagrams := listen(t, unix.SOCK_DGRAM, backend)
	client = newSocket(t, family, unix.SOCK_DGRAM)
	require.NoError(t, client.connect(frontend))
	require.Equal(t, at(frontend), client.peer(), "connected UDP")
	client.send("connected")
	require.Equal(t, "connected", datagrams.echo())
	got, from := client.receive()
	require.Equal(t, "connected", got)
	require.Equal(t, at(frontend), goAddr(t, from))

	client = newSocket(t, family, unix.SOCK_DGRAM)
	for _, what := range []string{"first", "second"} {
		require.NoError(t, client.sendTo(frontend, what))
		require.Equal(t, what, datagrams.echo())
		got, from = client.receive()
		require.Equal(t, what, got)
		require.Equal(t, at(frontend), goAddr(t, from), "UDP that is not connected")
	}
	server.close()
	datagrams.close()
}

func TestTheNodesSocketsReachServices(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	cases := map[string]struct {
		kind              model.ServiceKind
		family            int
		frontend, backend string
	}{
		"a cluster IP":                          {model.KindClusterIP, unix.AF_INET, "10.96.0.1:80", "10.1.0.1:8080"},
		"a cluster IP over IPv6":                {model.KindClusterIP, unix.AF_INET6, "[fd96::1]:80", "[fd01::1]:8080"},
		"a cluster IP from an IPv6 socket":      {model.KindClusterIP, unix.AF_INET6, "10.96.0.1:80", "10.1.0.1:8080"},
		"a node port":                           {model.KindNodePort, unix.AF_INET, "192.0.2.1:30080", "10.1.0.1:8080"},
		"a node port over IPv6":                 {model.KindNodePort, unix.AF_INET6, "[2001:db8::1]:30080", "[fd01::1]:8080"},
		"a node port from an IPv6 socket":       {model.KindNodePort, unix.AF_INET6, "192.0.2.1:30080", "10.1.0.1:8080"},
		"a load balancer's address":             {model.KindLoadBalancer, unix.AF_INET, "203.0.113.1:80", "10.1.0.1:8080"},
		"an external address over IPv6":         {model.KindExternalIP, unix.AF_INET6, "[2001:db8:3::1]:80", "[fd01::1]:80"},
		"a cluster IP of the node itself":       {model.KindClusterIP, unix.AF_INET, "10.96.0.1:443", "192.0.2.1:6443"},
		"one of the node itself over IPv6":      {model.KindClusterIP, unix.AF_INET6, "[fd96::1]:443", "[2001:db8::1]:6443"},
		"a node port of the node itself":        {model.KindNodePort, unix.AF_INET, "192.0.2.1:30443", "192.0.2.1:6443"},
		"addresses with all of their words":     {model.KindClusterIP, unix.AF_INET6, "[fd96:1:2:3:4:5:6:7]:80", "[fd01:8:9:a:b:c:d:e]:8080"},
		"a frontend that is its backend's, too": {model.KindClusterIP, unix.AF_INET, "10.1.0.1:80", "10.1.0.1:80"},
	}
	n := withSockets(t)
	have := map[string]bool{}
	for _, tt := range cases {
		if have[tt.frontend] {
			continue
		}
		have[tt.frontend] = true
		for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
			n.state.Services = n.state.Services.With(serve(protocol, tt.kind, tt.frontend, tt.backend))
		}
	}
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for name, tt := range cases {
		t.Log(name)
		reaches(t, tt.family, tt.frontend, tt.backend)
	}
	// An IPv6 socket may name IPv4 as such: it is led by connect4, and asks getpeername6.
	client := newSocket(t, unix.AF_INET6, unix.SOCK_DGRAM)
	require.NoError(t, unix.Connect(client.fd, kernelAddr(unix.AF_INET, at("10.96.0.1:80"))))
	peer, err := unix.Getpeername(client.fd)
	require.NoError(t, err)
	require.Equal(t, netip.AddrPortFrom(netip.AddrFrom16(addr("10.96.0.1").As16()), 80), netip.AddrPortFrom(netip.AddrFrom16(peer.(*unix.SockaddrInet6).Addr), uint16(peer.(*unix.SockaddrInet6).Port)))
}

// refusal is what the kernel says in place of an error: those before 6.1 know
// but one.
func refusal(t testing.TB, want unix.Errno) unix.Errno {
	t.Helper()
	found, err := probe()
	require.NoError(t, err)
	if !found.setRetval {
		return unix.EPERM
	}
	return want
}

func TestAServiceWithoutABackendRefusesAtOnce(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
		for _, frontend := range []string{"10.96.0.1:80", "[fd96::1]:80"} {
			n.state.Services = n.state.Services.With(serve(protocol, model.KindClusterIP, frontend))
		}
		for _, frontend := range []string{"10.96.0.2:80", "[fd96::2]:80"} {
			local := serve(protocol, model.KindClusterIP, frontend)
			local.Local = true
			n.state.Services = n.state.Services.With(local)
		}
	}
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	began := monotonicNow(t)
	for frontend, want := range map[string]unix.Errno{
		"10.96.0.1:80": unix.ECONNREFUSED, "[fd96::1]:80": unix.ECONNREFUSED,
		"10.96.0.2:80": unix.EHOSTUNREACH, "[fd96::2]:80": unix.EHOSTUNREACH,
	} {
		want = refusal(t, want)
		for _, family := range []int{familyOf(frontend), unix.AF_INET6} {
			require.Equal(t, want, newSocket(t, family, unix.SOCK_STREAM).connect(frontend), frontend)
			require.Equal(t, want, newSocket(t, family, unix.SOCK_DGRAM).connect(frontend), frontend)
			require.Equal(t, want, newSocket(t, family, unix.SOCK_DGRAM).sendTo(frontend, "lost"), frontend)
		}
	}
	counters, err := d.Counters()
	require.NoError(t, err)
	counters = slices.DeleteFunc(counters, func(c Counter) bool { return c.Hook != Socket })
	require.ElementsMatch(t, []Counter{
		{Reason: "no-backend", Hook: Socket, Packets: 12}, {Reason: "no-local-backend", Hook: Socket, Packets: 12},
	}, counters)
	var events []Event
	require.NoError(t, d.eachEvent(func(raw *bpf.ContainerEvent) {
		e := d.event(raw, &d.labels)
		if e.Hook != Socket {
			return
		}
		events = append(events, e)
		// What nobody has written of it is zero: names of numbers would hide others.
		require.Zero(t, raw.Out)
		require.Zero(t, raw.Lookup)
		require.Zero(t, raw.OutIfindex)
		require.Zero(t, raw.Origin)
		require.Zero(t, raw.Key.Family)
		require.Zero(t, raw.Key.Pad)
		require.Zero(t, raw.Key.Ifindex)
		require.Equal(t, uint64(0xc0), raw.Tables, "services were asked, and nothing else")
	}))
	require.Len(t, events, 24)
	ended := monotonicNow(t)
	sources := map[string]string{"10.96.0.1": "127.0.0.1", "10.96.0.2": "127.0.0.1", "fd96::1": "::1", "fd96::2": "::1"}
	told := map[model.Tuple]int{}
	for _, e := range events {
		told[e.Tuple]++
		require.Equal(t, "node", e.Endpoint)
		require.Equal(t, model.Drop, e.Decision.Action)
		require.Equal(t, sources[e.Tuple.Dst.String()], e.Tuple.Src.String(), e.Tuple)
		require.Zero(t, e.Tuple.Sport, "no number of a socket is told")
		require.Equal(t, uint16(80), e.Tuple.Dport)
		require.Zero(t, e.Length)
		require.Zero(t, e.DstIdentity)
		require.Zero(t, e.Decision.Origin)
		require.InDelta(t, began+(ended-began)/2, e.Time, float64(ended-began)/2+float64(coarseTick), "the time is the event's")
		require.Equal(t, model.IdentityHost, e.SrcIdentity)
		require.Equal(t, "bpf/lib/service.h", e.Decision.File)
		local := e.Tuple.Dst == addr("10.96.0.2") || e.Tuple.Dst == addr("fd96::2")
		require.Equal(t, map[bool]string{false: "no-backend", true: "no-local-backend"}[local], fmt.Sprint(e.Decision.Reason))
	}
	require.Len(t, told, 8, "%v", told)
	for tuple, times := range told {
		want := map[model.Protocol]int{model.ProtocolTCP: 2, model.ProtocolUDP: 4}[tuple.Protocol]
		require.Equal(t, want, times, tuple)
	}
}

// Kernels before 6.1 know no other refusal than what a program returns.
func TestAServiceWithoutABackendRefusesByWhatIsReturned(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
		n.state.Services = n.state.Services.With(serve(protocol, model.KindClusterIP, "10.96.0.1:80"), serve(protocol, model.KindClusterIP, "[fd96::1]:80"))
	}
	opts := socketOptions(group)
	opts.Without = []string{FeatureSetRetval}
	d := openDatapath(t, opts)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for _, frontend := range []string{"10.96.0.1:80", "[fd96::1]:80"} {
		require.Equal(t, unix.EPERM, newSocket(t, familyOf(frontend), unix.SOCK_STREAM).connect(frontend))
		require.Equal(t, unix.EPERM, newSocket(t, familyOf(frontend), unix.SOCK_DGRAM).connect(frontend))
		require.Equal(t, unix.EPERM, newSocket(t, familyOf(frontend), unix.SOCK_DGRAM).sendTo(frontend, "lost"))
	}
}

func TestWhatIsNoFrontendIsLeftAlone(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolTCP, model.KindClusterIP, "10.1.0.1:80", "10.1.0.2:80")}...)
	outside := serve(model.ProtocolUDP, model.KindLoadBalancer, "10.1.0.1:80", "10.1.0.2:80")
	outside.Scope = model.ScopeOutside
	n.state.Services = n.state.Services.With(outside)
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	reaches(t, unix.AF_INET, "10.1.0.1:81", "10.1.0.1:81")    // another port
	reaches(t, unix.AF_INET, "10.1.0.3:80", "10.1.0.3:80")    // another address
	reaches(t, unix.AF_INET6, "[fd01::1]:80", "[fd01::1]:80") // another family
	server := listen(t, unix.SOCK_DGRAM, "10.1.0.1:80")       // another protocol
	client := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM)
	require.NoError(t, client.sendTo("10.1.0.1:80", "as it is"))
	require.Equal(t, "as it is", server.echo())
	_, from := client.receive()
	require.Equal(t, at("10.1.0.1:80"), goAddr(t, from))
}

func TestNodePortsAnswerOnLoopbackOnlyWhereAsked(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	for name, asked := range map[string]bool{"asked": true, "not asked": false} {
		t.Run(name, func(t *testing.T) {
			n := withSockets(t)
			for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
				n.state.Services = n.state.Services.With(
					serve(protocol, model.KindNodePort, "192.0.2.1:30080", "10.1.0.1:8080"),
					serve(protocol, model.KindNodePort, "192.0.2.2:30080", "10.1.0.1:8080"),
					serve(protocol, model.KindNodePort, "[2001:db8::1]:30080", "[fd01::1]:8080"),
					serve(protocol, model.KindClusterIP, "10.96.0.1:80", "10.1.0.1:8080"))
			}
			opts := socketOptions(group)
			opts.LoopbackNodePorts = asked
			d := openDatapath(t, opts)
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			if asked {
				reaches(t, unix.AF_INET, "127.0.0.1:30080", "10.1.0.1:8080")
				reaches(t, unix.AF_INET6, "[::1]:30080", "[fd01::1]:8080")
			} else {
				listen(t, unix.SOCK_STREAM, "10.1.0.1:8080")
				require.Equal(t, unix.ECONNREFUSED, newSocket(t, unix.AF_INET, unix.SOCK_STREAM).connect("127.0.0.1:30080"))
				require.Equal(t, unix.ECONNREFUSED, newSocket(t, unix.AF_INET6, unix.SOCK_STREAM).connect("[::1]:30080"))
			}
			require.Equal(t, unix.ECONNREFUSED, newSocket(t, unix.AF_INET, unix.SOCK_STREAM).connect("127.0.0.1:80"))
		})
	}
}

func TestHostPortsAnswerOnLoopback(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
		n.state.Services = n.state.Services.With(serve(protocol, model.KindHostPort, "192.0.2.1:8888", "10.1.0.1:8080"))
		n.state.Loopback = append(n.state.Loopback,
			serve(protocol, model.KindHostPort, "127.0.0.1:8888", "10.1.0.1:8080"), serve(protocol, model.KindHostPort, "[::1]:8888", "[fd01::1]:8080"))
	}
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	reaches(t, unix.AF_INET, "127.0.0.1:8888", "10.1.0.1:8080")
	reaches(t, unix.AF_INET6, "[::1]:8888", "[fd01::1]:8080")
	n.state.Loopback = nil
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	listen(t, unix.SOCK_STREAM, "10.1.0.1:8080")
	require.Equal(t, unix.ECONNREFUSED, newSocket(t, unix.AF_INET, unix.SOCK_STREAM).connect("127.0.0.1:8888"))
}

// answering answers as many datagrams as are to come, and gives which of the
// servers got them.
func answering(t testing.TB, servers []*socket, datagrams int) []int {
	t.Helper()
	fds := make([]unix.PollFd, len(servers))
	for i, s := range servers {
		fds[i] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	}
	var who []int
	for len(who) < datagrams {
		n, err := unix.Poll(fds, patience*1000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		require.NoError(t, err)
		require.NotZero(t, n, "%d of %d datagrams have come", len(who), datagrams)
		for i := range fds {
			if fds[i].Revents&unix.POLLIN != 0 {
				servers[i].echo()
				who = append(who, i)
			}
		}
	}
	return who
}

var threeBackends = []string{"10.1.0.1:53", "10.1.0.2:53", "10.1.0.3:53"}

func listenAtAll(t testing.TB, kind int, where []string) []*socket {
	t.Helper()
	var servers []*socket
	for _, w := range where {
		servers = append(servers, listen(t, kind, w))
	}
	return servers
}

// ways are those in which a socket of the node may name a service.
var ways = map[string]struct {
	family   int
	frontend string
	backends []string
}{
	"IPv4":                 {unix.AF_INET, "10.96.0.10:53", threeBackends},
	"IPv6":                 {unix.AF_INET6, "[fd96:1:2:3:4:5:6:7]:53", []string{"[fd01::1]:53", "[fd01::2]:53", "[fd01::3]:53"}},
	"IPv4 by IPv6 sockets": {unix.AF_INET6, "10.96.0.10:53", threeBackends},
}

func TestDatagramsStayWithABackendAndMoveWhenItIsGone(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	d := openDatapath(t, socketOptions(group))
	for name, way := range ways {
		t.Log(name)
		staysAndMoves(t, n, d, way.family, way.frontend, way.backends)
	}
}

// spread is how many sockets are shared out by chance, and leastOfThree what each of
// three backends has of them: on average it is a third, which is 6 standard deviations
// more.
const spread, leastOfThree = 200, 26

// staysAndMoves lets many sockets ask a service again and again while its backends
// come and go.
func staysAndMoves(t *testing.T, n *node, d *Datapath, family int, frontend string, backends []string) {
	t.Helper()
	lead := func(to ...string) {
		t.Helper()
		n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolUDP, model.KindClusterIP, frontend, to...)}...)
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
	}
	servers := listenAtAll(t, unix.SOCK_DGRAM, backends)
	lead(backends...)
	clients := make([]*socket, spread)
	with := make([]int, len(clients))
	load := make([]int, len(servers))
	ask := func(i int) int {
		t.Helper()
		require.NoError(t, clients[i].sendTo(frontend, "query"))
		who := answering(t, servers, 1)
		_, from := clients[i].receive()
		require.Equal(t, frontend, goAddr(t, from).String())
		return who[0]
	}
	for i := range clients {
		clients[i] = newSocket(t, family, unix.SOCK_DGRAM)
		with[i] = ask(i)
		load[with[i]]++
	}
	require.GreaterOrEqual(t, slices.Min(load), leastOfThree, "sockets are spread: %v", load)
	for i := range clients {
		require.Equal(t, with[i], ask(i), "a socket stays with its backend")
	}
	other := at(backends[0]).Addr().String()
	lead(backends[0], backends[2], netip.AddrPortFrom(addr(other), 54).String())
	for i := range clients {
		if with[i] == 1 {
			continue // the second is gone, and may be replaced by one that does not answer
		}
		require.Equal(t, with[i], ask(i), "it stays while others come and go")
	}
	lead(backends[0])
	for i := range clients {
		require.Equal(t, 0, ask(i), "it moves when its backend is gone")
	}
	lead(backends...)
	for i := range clients {
		require.Equal(t, 0, ask(i), "it stays there when that is back")
	}
	lead(backends[0])
	n.state.Services.At(0).Backends[0].Terminating = true
	n.state.Services.At(0).Backends = append(n.state.Services.At(0).Backends, model.Backend{Address: at(backends[1]).Addr(), Port: 53})
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for i := range clients {
		require.Equal(t, 1, ask(i), "it moves when its backend takes no new flows")
	}
	// Another service takes the address: the old one's backend is not its own.
	n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolUDP, model.KindClusterIP, frontend, backends[2])}...)
	n.state.Services.At(0).Name = model.PortRef{Namespace: "default", Name: "another"}
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	for i := range clients {
		require.Equal(t, 2, ask(i), "it moves when the service is another")
	}
	lead()
	require.Equal(t, refusal(t, unix.ECONNREFUSED), clients[0].sendTo(frontend, "query"))
	for _, s := range append(clients, servers...) {
		s.close()
	}
}

// TestASocketHasABackendOfEachServiceThatItAsks has sockets ask services by turns
// whose addresses are alike but for a word or the port.
func TestASocketHasABackendOfEachServiceThatItAsks(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	d := openDatapath(t, socketOptions(group))
	for _, way := range []struct {
		frontends, backends []string
	}{
		{[]string{"10.96.0.10:53", "10.96.0.11:53", "10.96.0.10:54"}, threeBackends},
		{[]string{"[fd96::1]:53", "[fd96:0:0:1::1]:53", "[fd96::1:0:0:1]:53", "[fd96::2]:53", "[fd97::1]:53", "[fd96::1]:54"}, ways["IPv6"].backends},
	} {
		n.state.Services = model.List[model.Service]{}
		for _, f := range way.frontends {
			n.state.Services = n.state.Services.With(serve(model.ProtocolUDP, model.KindClusterIP, f, way.backends...))
		}
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
		servers := listenAtAll(t, unix.SOCK_DGRAM, way.backends)
		apart := map[[2]int]bool{}
		for range 20 {
			client := newSocket(t, familyOf(way.frontends[0]), unix.SOCK_DGRAM)
			ask := func() (with []int) {
				for _, f := range way.frontends {
					require.NoError(t, client.sendTo(f, "query"))
					with = append(with, answering(t, servers, 1)[0])
					_, from := client.receive()
					require.Equal(t, at(f), goAddr(t, from))
				}
				return with
			}
			first := ask()
			require.Equal(t, first, ask(), "it stays with each")
			for i := range first {
				for j := range i {
					apart[[2]int{j, i}] = apart[[2]int{j, i}] || first[i] != first[j]
				}
			}
			client.close()
		}
		for pair, differ := range apart {
			require.True(t, differ, "%s and %s are led as one", way.frontends[pair[0]], way.frontends[pair[1]])
		}
		for _, s := range servers {
			s.close()
		}
	}
}

// TestSocketsAreSpreadAndStickInEveryWay asks how sockets are led that have sent
// nothing before, by all programs.
func TestSocketsAreSpreadAndStickInEveryWay(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	d := openDatapath(t, socketOptions(group))
	for name, way := range ways {
		servers := listenAtAll(t, unix.SOCK_DGRAM, way.backends)
		for _, connects := range []bool{true, false} {
			load := func() []int {
				load := make([]int, len(servers))
				for range spread {
					client := newSocket(t, way.family, unix.SOCK_DGRAM)
					if connects {
						require.NoError(t, client.connect(way.frontend))
						client.send("query")
					} else {
						require.NoError(t, client.sendTo(way.frontend, "query"))
					}
					load[answering(t, servers, 1)[0]]++
					client.close()
				}
				return load
			}
			n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolUDP, model.KindClusterIP, way.frontend, way.backends...)}...)
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.GreaterOrEqual(t, slices.Min(load()), leastOfThree, "%s, connected %t", name, connects)
			found, err := d.Residue()
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprint(found), bpf.ContainerMapAffinities, "nobody is to stay")
			n.state.Services.At(0).Affinity = time.Minute
			_, err = d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.Equal(t, spread, slices.Max(load()), "%s, connected %t: all are one client", name, connects)
			require.NoError(t, d.Reset())
		}
		for _, s := range servers {
			s.close()
		}
	}
	// However it names the service, the node is one client.
	servers := listenAtAll(t, unix.SOCK_DGRAM, threeBackends)
	sticky := serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.10:53", threeBackends...)
	sticky.Affinity = time.Minute
	n.state.Services = model.ListOf([]model.Service{sticky}...)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for range 5 {
		require.NoError(t, d.Advance(2*time.Minute))
		with := map[int]bool{}
		for range 2 {
			for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
				client := newSocket(t, family, unix.SOCK_DGRAM)
				require.NoError(t, client.connect("10.96.0.10:53"))
				client.send("query")
				with[answering(t, servers, 1)[0]] = true
				require.NoError(t, newSocket(t, family, unix.SOCK_DGRAM).sendTo("10.96.0.10:53", "query"))
				with[answering(t, servers, 1)[0]] = true
			}
		}
		require.Len(t, with, 1, "all are one client")
	}
	for _, s := range servers {
		s.close()
	}
	for _, way := range ways {
		sticksWhileItServes(t, n, d, way.family, way.frontend, way.backends)
	}
}

// sticksWhileItServes takes a client's backend away: whichever half of the tables
// tells that it is gone.
func sticksWhileItServes(t *testing.T, n *node, d *Datapath, family int, frontend string, backends []string) {
	t.Helper()
	servers := listenAtAll(t, unix.SOCK_DGRAM, backends)
	lead := func(to ...string) {
		n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolUDP, model.KindClusterIP, frontend, to...)}...)
		n.state.Services.At(0).Affinity = time.Minute
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
	}
	ask := func() int {
		client := newSocket(t, family, unix.SOCK_DGRAM)
		require.NoError(t, client.connect(frontend))
		client.send("query")
		return answering(t, servers, 1)[0]
	}
	lead(backends...)
	for range 4 {
		gone := ask()
		lead(slices.Delete(slices.Clone(backends), gone, gone+1)...)
		require.NotEqual(t, gone, ask())
		lead(backends...)
		require.NotEqual(t, gone, ask())
	}
	for _, s := range servers {
		s.close()
	}
}

// ended is what a socket says of itself once, when it was ended.
func (s *socket) ended() error {
	s.t.Helper()
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	require.NoError(s.t, err)
	if code == 0 {
		return nil
	}
	return unix.Errno(code)
}

func TestConnectedDatagramSocketsEndWhenTheirBackendIsGone(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	d := openDatapath(t, socketOptions(group))
	lead := func(to, to6 string) {
		t.Helper()
		n.state.Services = model.ListOf([]model.Service{
			serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:53", to),
			serve(model.ProtocolUDP, model.KindClusterIP, "[fd96::1]:53", to6),
			serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.2:53", "10.1.0.3:53"),
		}...)
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
	}
	servers := listenAtAll(t, unix.SOCK_DGRAM, []string{"10.1.0.1:53", "10.1.0.2:53", "10.1.0.3:53", "[fd01::1]:53", "[fd01::2]:53"})
	lead("10.1.0.1:53", "[fd01::1]:53")
	connect := func(family int, to string) *socket {
		t.Helper()
		s := newSocket(t, family, unix.SOCK_DGRAM)
		require.NoError(t, s.connect(to))
		return s
	}
	gone := []*socket{connect(unix.AF_INET, "10.96.0.1:53"), connect(unix.AF_INET6, "10.96.0.1:53"), connect(unix.AF_INET6, "[fd96::1]:53")}
	stay := []*socket{
		connect(unix.AF_INET, "10.96.0.2:53"), connect(unix.AF_INET6, "10.96.0.2:53"), // another backend
		connect(unix.AF_INET, "10.1.0.1:53"), connect(unix.AF_INET6, "[fd01::1]:53"), // no service's
	}
	lead("10.1.0.2:53", "[fd01::2]:53")
	for i, s := range stay {
		require.NoError(t, s.ended(), i)
		s.send("still there")
	}
	answering(t, servers, len(stay))
	for i, s := range gone {
		require.Equal(t, unix.ECONNABORTED, s.ended(), i)
	}
	for i, to := range []string{"10.96.0.1:53", "10.96.0.1:53", "[fd96::1]:53"} {
		require.NoError(t, gone[i].connect(to), "it connects anew")
		gone[i].send("again")
	}
	require.ElementsMatch(t, []int{1, 1, 4}, answering(t, servers, 3))
}

func TestAConnectionStaysWhileItsServiceChanges(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	d := openDatapath(t, socketOptions(group))
	servers := listenAtAll(t, unix.SOCK_STREAM, []string{"10.1.0.1:80", "10.1.0.2:80"})
	client := newSocket(t, unix.AF_INET, unix.SOCK_STREAM)
	n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolTCP, model.KindClusterIP, "10.96.0.1:80", "10.1.0.1:80")}...)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, client.connect("10.96.0.1:80"))
	accepted := servers[0].accept()
	for _, services := range [][]model.Service{
		{serve(model.ProtocolTCP, model.KindClusterIP, "10.96.0.1:80", "10.1.0.2:80")}, {},
	} {
		n.state.Services = model.ListOf(services...)
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
		client.send("still there")
		got, _ := accepted.receive()
		require.Equal(t, "still there", got)
		require.Equal(t, at("10.96.0.1:80"), client.peer())
	}
}

func TestASocketThatSpeaksToABackendAsItIsSeesIt(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	n.state.Services = model.ListOf([]model.Service{
		serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:53", "10.1.0.1:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:54", "10.1.0.1:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.2:53", "10.1.0.1:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "[fd96::1]:53", "[fd01::1]:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "[fd96::1]:54", "[fd01::1]:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "[fd96:0:0:1::1]:53", "[fd01::1]:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "[fd96::1:0:0:1]:53", "[fd01::1]:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "[fd96::2]:53", "[fd01::1]:53"),
		serve(model.ProtocolUDP, model.KindClusterIP, "[fd97::1]:53", "[fd01::1]:53"),
	}...)
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	four := []string{"10.96.0.1:53", "10.1.0.1:53", "10.96.0.2:53", "10.96.0.1:53", "10.96.0.1:54", "10.96.0.1:53"}
	six := []string{"[fd96::1]:53", "[fd01::1]:53", "[fd96::2]:53", "[fd96::1:0:0:1]:53", "[fd96:0:0:1::1]:53", "[fd96::1]:53", "[fd97::1]:53", "[fd96::1]:53", "[fd96::1]:54", "[fd96::1]:53"}
	for _, way := range []struct {
		family int
		server string
		asks   []string
	}{{unix.AF_INET, "10.1.0.1:53", four}, {unix.AF_INET6, "10.1.0.1:53", four}, {unix.AF_INET6, "[fd01::1]:53", six}} {
		server := listen(t, unix.SOCK_DGRAM, way.server)
		sends, both := newSocket(t, way.family, unix.SOCK_DGRAM), newSocket(t, way.family, unix.SOCK_DGRAM)
		connects := newSocket(t, way.family, unix.SOCK_DGRAM)
		for _, to := range way.asks {
			require.NoError(t, connects.connect(to), "it may connect again and again")
			require.Equal(t, at(to), connects.peer())
			for _, client := range []*socket{sends, both} {
				require.NoError(t, client.sendTo(to, to))
				require.Equal(t, to, server.echo())
				_, from := client.receive()
				require.Equal(t, at(to), goAddr(t, from))
			}
			require.NoError(t, both.connect(to))
			require.Equal(t, at(to), both.peer())
			both.send(to)
			require.Equal(t, to, server.echo())
			_, from := both.receive()
			require.Equal(t, at(to), goAddr(t, from))
			require.Equal(t, at(to), both.peer())
			require.NoError(t, both.sendTo(way.server, "as it is"))
			require.Equal(t, "as it is", server.echo())
			both.receive()
			require.Equal(t, at(to), both.peer(), "it knows whom it is connected to by the name that it asked for")
			both.disconnect()
		}
		server.close()
	}
}

// TestOnlySocketsThatSpeakTCPOrUDPAreLed: of another protocol there is no service,
// whatever port its addresses have.
func TestOnlySocketsThatSpeakTCPOrUDPAreLed(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
		n.state.Services = n.state.Services.With(
			serve(protocol, model.KindClusterIP, "10.1.0.1:80", "10.1.0.2:80"), serve(protocol, model.KindClusterIP, "[fd01::1]:80", "[fd01::2]:80"))
	}
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0))
	for _, other := range []struct {
		where    string
		protocol int
	}{
		{"10.1.0.1:80", unix.IPPROTO_ICMP}, {"[fd01::1]:80", unix.IPPROTO_ICMPV6},
		{"10.1.0.1:80", unix.IPPROTO_UDPLITE}, {"[fd01::1]:80", unix.IPPROTO_UDPLITE},
	} {
		for _, connects := range []bool{true, false} {
			fd, err := unix.Socket(familyOf(other.where), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, other.protocol)
			if errors.Is(err, unix.EPROTONOSUPPORT) {
				t.Logf("this kernel has no sockets of protocol %d", other.protocol)
				continue
			}
			require.NoError(t, err)
			client := &socket{t, fd, familyOf(other.where)}
			t.Cleanup(client.close)
			if connects {
				require.NoError(t, client.connect(other.where))
				require.Equal(t, at(other.where).Addr(), client.peer().Addr())
			} else {
				// Its content need not be right to leave.
				_ = client.sendTo(other.where, "no service's")
			}
		}
	}
	residue, err := d.Residue()
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(residue), bpf.ContainerMapPeers, "none was led")
	for _, where := range []string{"10.1.0.2:80", "[fd01::2]:80"} {
		server := listen(t, unix.SOCK_STREAM, where)
		fd, err := unix.Socket(familyOf(where), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			t.Log("this kernel has no MPTCP")
			continue
		}
		require.NoError(t, err)
		client := &socket{t, fd, familyOf(where)}
		t.Cleanup(client.close)
		require.NoError(t, client.connect(netip.AddrPortFrom(map[bool]netip.Addr{true: addr("10.1.0.1"), false: addr("fd01::1")}[at(where).Addr().Is4()], 80).String()))
		server.accept()
	}
}

func TestSocketsChooseBackendsAsPacketsDo(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	weighted := serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:53", threeBackends...)
	weighted.Backends[0].Weight, weighted.Backends[1].Weight = 8, 1
	weighted.Backends[2].Terminating = true
	table := weighted
	table.Address, table.MaglevSize = addr("10.96.0.2"), 251
	sticky := serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.3:53", threeBackends...)
	sticky.Affinity = time.Minute
	ranged := serve(model.ProtocolUDP, model.KindLoadBalancer, "203.0.113.1:53", threeBackends...)
	ranged.Sources = []netip.Prefix{prefix("198.51.100.0/24")}
	n.state.Services = model.ListOf([]model.Service{weighted, table, sticky, ranged}...)
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	servers := listenAtAll(t, unix.SOCK_DGRAM, threeBackends)
	ask := func(frontend string, sockets int) []int {
		t.Helper()
		load := make([]int, len(servers))
		for range sockets {
			client := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM)
			require.NoError(t, client.connect(frontend))
			client.send("query")
			who := answering(t, servers, 1)
			load[who[0]]++
			client.close()
		}
		return load
	}
	for _, frontend := range []string{"10.96.0.1:53", "10.96.0.2:53"} {
		const sockets = 540
		load := ask(frontend, sockets)
		// By chance, with a standard deviation of 7.3.
		require.InDelta(t, sockets*8/9, load[0], 48, "%s: %v", frontend, load)
		require.Zero(t, load[2], "nobody new for one that terminates")
	}
	const sockets = 180
	require.Contains(t, ask("10.96.0.3:53", sockets), sockets, "all of the node's sockets are one client")
	require.NotContains(t, ask("203.0.113.1:53", sockets), sockets, "the node is none of those that are kept out")

	before := slices.Index(ask("10.96.0.3:53", sockets), sockets)
	require.NoError(t, d.Advance(2*time.Minute))
	after := make([]int, len(servers))
	for range 20 {
		after[slices.Index(ask("10.96.0.3:53", sockets), sockets)]++
		require.NoError(t, d.Advance(2*time.Minute))
	}
	require.Less(t, after[before], 20, "after the timeout a client may meet another backend: %v", after)
}

// TestSocketsOfPodsAreLeftAlone has a server at the very address of the service
// in a pod's namespace: who is led elsewhere does not meet it.
func TestSocketsOfPodsAreLeftAlone(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	n.state.Services = model.ListOf([]model.Service{
		serve(model.ProtocolTCP, model.KindClusterIP, "10.96.0.1:80"), serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:80"),
		serve(model.ProtocolTCP, model.KindClusterIP, "[fd96::1]:80"), serve(model.ProtocolUDP, model.KindClusterIP, "[fd96::1]:80"),
	}...)
	home, err := netns.Get()
	require.NoError(t, err)
	defer home.Close()
	pod, err := netns.New()
	require.NoError(t, err)
	defer pod.Close()
	loopback(t, "10.96.0.1/32", "fd96::1/128")
	require.NoError(t, netns.Set(home))
	d := openDatapath(t, socketOptions(group))
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, netns.Set(pod))
	reaches(t, unix.AF_INET, "10.96.0.1:80", "10.96.0.1:80")
	reaches(t, unix.AF_INET6, "10.96.0.1:80", "10.96.0.1:80")
	reaches(t, unix.AF_INET6, "[fd96::1]:80", "[fd96::1]:80")
	require.NoError(t, netns.Set(home))
	require.Equal(t, refusal(t, unix.ECONNREFUSED), newSocket(t, unix.AF_INET, unix.SOCK_STREAM).connect("10.96.0.1:80"))
}

// TestTheNodeReachesAPodByItsService is the whole way: the packets meet
// to-container and from-container as the pod's own address.
func TestTheNodeReachesAPodByItsService(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := newNode(t)
	withUplink(t, n)
	web, err := netlink.LinkByName(n.web.Name)
	require.NoError(t, err)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: web.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: netlink.NewIPNet(addr("10.0.0.2").AsSlice())}))
	home, err := netns.Get()
	require.NoError(t, err)
	defer home.Close()
	pod := movePod(t, n.web, "10.0.0.2")
	d := openDatapath(t, socketOptions(group))
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, netns.Set(pod))
	server := listen(t, unix.SOCK_STREAM, "10.0.0.2:8080")
	require.NoError(t, netns.Set(home))
	for _, frontend := range []string{"10.96.0.1:80", "192.0.2.1:30080"} {
		client := newSocket(t, unix.AF_INET, unix.SOCK_STREAM)
		require.NoError(t, client.connect(frontend))
		accepted := server.accept()
		require.Equal(t, at(frontend), client.peer())
		require.Equal(t, client.name(), accepted.peer())
		client.send("there")
		got, _ := accepted.receive()
		require.Equal(t, "there", got)
	}
}

// attachedIn counts the programs that a cgroup has beside soil, by asking the
// kernel.
func attachedIn(t testing.TB, path string) int {
	t.Helper()
	group, err := os.Open(path)
	require.NoError(t, err)
	defer group.Close()
	total := 0
	for attach := range attachedTo[roleSocket] {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(group.Fd()), Attach: attach})
		require.NoError(t, err)
		for _, p := range result.Programs {
			if !isSoil(t, p.ID) {
				total++
			}
		}
	}
	return total
}

func isSoil(t testing.TB, id ebpf.ProgramID) bool {
	t.Helper()
	prog, err := ebpf.NewProgramFromID(id)
	require.NoError(t, err)
	defer prog.Close()
	info, err := prog.Info()
	require.NoError(t, err)
	return info.Name == soil.Name
}

func TestSocketsKeepTheirProgramsWhenTheLoaderIsReplaced(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	n.state.Services = model.ListOf([]model.Service{
		serve(model.ProtocolTCP, model.KindClusterIP, "10.96.0.1:80", "10.1.0.1:80"),
		serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:80", "10.1.0.1:80"),
	}...)
	opts := socketOptions(group)
	opts.PinPath = pinDir(t)
	hooks := len(attachedTo[roleSocket])
	d, err := Open(opts)
	require.NoError(t, err)
	require.Zero(t, attachedIn(t, group), "nothing is attached before a state is applied")
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Equal(t, hooks, attachedIn(t, group))
	server := listen(t, unix.SOCK_STREAM, "10.1.0.1:80")
	client := newSocket(t, unix.AF_INET, unix.SOCK_STREAM)
	require.NoError(t, client.connect("10.96.0.1:80"))
	server.accept()
	require.NoError(t, d.Close())
	server.close()
	require.Equal(t, at("10.96.0.1:80"), client.peer())
	reaches(t, unix.AF_INET, "10.96.0.1:80", "10.1.0.1:80") // without a loader

	before := programsAt(t, opts.PinPath)
	d, err = Open(opts)
	require.NoError(t, err)
	require.Equal(t, hooks, attachedIn(t, group))
	require.NotEqual(t, before, programsAt(t, opts.PinPath), "the new loader's programs are in the old links")
	require.Equal(t, at("10.96.0.1:80"), client.peer())
	reaches(t, unix.AF_INET, "10.96.0.1:80", "10.1.0.1:80")
	require.NoError(t, d.Close())

	other := filepath.Join(group, "other")
	require.NoError(t, os.Mkdir(other, 0o755))
	opts.Cgroup = other
	d, err = Open(opts)
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Zero(t, attachedIn(t, group), "another cgroup is asked for")
	require.Equal(t, hooks, attachedIn(t, other))
	require.NoError(t, os.Remove(other))
	_, err = d.Apply(n.state.Clone())
	require.ErrorIs(t, err, fs.ErrNotExist, "the cgroup is gone, and said to be")
	require.NoError(t, os.Mkdir(other, 0o755))
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Equal(t, hooks, attachedIn(t, other), "another cgroup under its name")
	require.NoError(t, d.Close())
	require.NoError(t, os.Remove(other))

	opts.Cgroup = group
	d, err = Open(opts)
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Close())
	opts.Cgroup = ""
	d, err = Open(opts)
	require.NoError(t, err)
	require.Equal(t, hooks, attachedIn(t, group), "they stay until a state says otherwise")
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Zero(t, attachedIn(t, group), "none is asked for")
	require.NoError(t, d.Close())

	opts.Cgroup = group
	d, err = Open(opts)
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Remove())
	require.Zero(t, attachedIn(t, group))
}

// programsAt are those in the pinned links of sockets.
func programsAt(t testing.TB, pins string) []ebpf.ProgramID {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(pins, "links"))
	require.NoError(t, err)
	var ids []ebpf.ProgramID
	for _, entry := range entries {
		if point, ok := pointOfLink(entry.Name()); ok && point.role == roleSocket {
			l, err := link.LoadPinnedLink(filepath.Join(pins, "links", entry.Name()), nil)
			require.NoError(t, err)
			info, err := l.Info()
			require.NoError(t, err)
			require.NoError(t, l.Close())
			ids = append(ids, info.Program)
		}
	}
	require.Len(t, ids, len(attachedTo[roleSocket]))
	return ids
}

func TestNoSocketMeetsNeitherProgramWhileTheyAreReplaced(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:53", "10.1.0.1:53")}...)
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	server := listen(t, unix.SOCK_DGRAM, "10.1.0.1:53")
	client := newSocket(t, unix.AF_INET, unix.SOCK_DGRAM)
	stop, done := make(chan struct{}), make(chan error)
	go func() { done <- askUntil(stop, client.fd, server.fd, "10.96.0.1:53") }()
	for range 3 {
		require.NoError(t, d.Replace())
	}
	close(stop)
	require.NoError(t, <-done)
}

// askUntil sends to a frontend and answers, over and over.
func askUntil(stop <-chan struct{}, client, server int, frontend string) error {
	buf := make([]byte, 64)
	for n := 0; ; n++ {
		select {
		case <-stop:
			if n == 0 {
				return errors.New("nothing was asked")
			}
			return nil
		default:
		}
		if err := unix.Sendto(client, []byte("query"), 0, kernelAddr(unix.AF_INET, at(frontend))); err != nil {
			return fmt.Errorf("ask: %w", err)
		}
		_, from, err := receiveFrom(server, buf)
		if err != nil {
			return fmt.Errorf("be asked: %w", err)
		}
		if err := unix.Sendto(server, []byte("answer"), 0, from); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		_, from, err = receiveFrom(client, buf)
		if err != nil {
			return fmt.Errorf("be answered: %w", err)
		}
		if want := kernelAddr(unix.AF_INET, at(frontend)); !reflect.DeepEqual(want, from) {
			return fmt.Errorf("answered by %v, not by %v", from, want)
		}
	}
}

func TestAResetLeavesNothingOfSocketsAndServesAnotherNamespace(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	for range 2 {
		n := withSockets(t)
		n.state.Services = model.ListOf([]model.Service{serve(model.ProtocolTCP, model.KindClusterIP, "10.96.0.1:80", "10.1.0.1:80"), serve(model.ProtocolUDP, model.KindClusterIP, "10.96.0.1:80", "10.1.0.1:80")}...)
		d := openDatapath(t, socketOptions(group))
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
		reaches(t, unix.AF_INET, "10.96.0.1:80", "10.1.0.1:80")
		residue, err := d.Residue()
		require.NoError(t, err)
		require.Contains(t, fmt.Sprint(residue), "peers")
		require.NoError(t, d.Reset())
		residue, err = d.Residue()
		require.NoError(t, err)
		require.Empty(t, residue)
		require.Zero(t, attachedIn(t, group))

		again := withSockets(t)
		again.state.Services = n.state.Services
		_, err = d.Apply(again.state)
		require.NoError(t, err)
		reaches(t, unix.AF_INET, "10.96.0.1:80", "10.1.0.1:80")
		require.NoError(t, d.Reset())
	}
}

func TestWhatIsNoCgroupIsRefused(t *testing.T) {
	newNode(t)
	opts := small()
	opts.Attach = true
	for path, want := range map[string]string{
		t.TempDir(): "not on a cgroup2", filepath.Join(t.TempDir(), "none"): "no such file",
	} {
		opts.Cgroup = path
		_, err := Open(opts)
		require.ErrorContains(t, err, want)
	}
}

// manyServices are n frontends with a backend each.
func manyServices(n int, protocol model.Protocol, backend string) []model.Service {
	services := make([]model.Service, n)
	for i := range services {
		services[i] = serve(protocol, model.KindClusterIP, "10.96.0.1:80", backend)
		services[i].Address = netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)})
	}
	return services
}

func TestSocketsReachAnyOf10000Services(t *testing.T) {
	group := inCgroup(t)
	if group == "" {
		return
	}
	n := withSockets(t)
	n.state.Services = model.ListOf(manyServices(10000, model.ProtocolTCP, "10.1.0.1:80")...)
	d := openDatapath(t, socketOptions(group))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	server := listen(t, unix.SOCK_STREAM, "10.1.0.1:80")
	for i := 0; i < n.state.Services.Len(); i += 101 {
		frontend := netip.AddrPortFrom(n.state.Services.At(i).Address, 80)
		client := newSocket(t, unix.AF_INET, unix.SOCK_STREAM)
		require.NoError(t, client.connect(frontend.String()))
		server.accept()
		require.Equal(t, frontend, client.peer())
	}
}
