// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace that lives as long as its descriptor is
// open, or a socket, device link or thread of it exists.
type namespace struct {
	handle vishnetns.NsHandle
}

// newNamespace makes an empty namespace and sets its sysctls.
func newNamespace(settings []sysctl) (*namespace, error) {
	return makeNamespace(func() error { return writeSysctls(settings) })
}

// makeNamespace makes an empty namespace, and calls f on a thread in it.
func makeNamespace(f func() error) (*namespace, error) {
	n := &namespace{handle: vishnetns.None()}
	err := onOwnThread(func() error {
		handle, err := vishnetns.New()
		if err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		n.handle = handle
		return f()
	})
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// run calls f on a thread that is in the namespace. What f creates (sockets,
// BPF links) belongs to the namespace for good; f may block.
func (n *namespace) run(f func() error) error {
	return onOwnThread(func() error {
		if err := vishnetns.Set(n.handle); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

func (n *namespace) close() error {
	if !n.handle.IsOpen() {
		return nil
	}
	return n.handle.Close()
}

// onOwnThread calls f on a thread that nobody else uses and that ends with
// it, so that no other goroutine ever runs in a namespace that f entered.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			// Never unlocked: the runtime ends the thread with the goroutine.
			done <- f()
			return
		}
		// The runtime cannot end the process' first thread, it would keep it
		// in the namespace for ever. While this goroutine holds that thread,
		// another one is bound to get a different one.
		defer runtime.UnlockOSThread()
		done <- onOwnThread(f)
	}()
	return <-done
}

// sysctl is a setting below /proc/sys/net.
type sysctl struct {
	path, value string
	optional    bool // some kernels do not have it
	locks       bool // needs the kernel's lock of devices: see spinning
}

// lacking are those of the hostSysctls that a new namespace does not have by
// itself: each one costs three system calls in each namespace.
var lacking = sync.OnceValues(func() (lacking []sysctl, err error) {
	probe, err := makeNamespace(func() error {
		lacking = slices.DeleteFunc(hostSysctls(), sysctl.holds)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lacking, probe.close()
})

// holds says whether the calling thread's namespace has the setting.
func (s sysctl) holds() bool {
	value, err := os.ReadFile(filepath.Join(sysctls, s.path))
	return err == nil && slices.Equal(strings.Fields(string(value)), strings.Fields(s.value))
}

// Own gives this machine's own namespace the settings of the worlds' hosts, and
// has new namespaces take them over. It is for a guest that is there for worlds
// alone; call it before the first world is built.
func Own() error {
	inherit := sysctl{path: "core/devconf_inherit_init_net", value: "1"}
	return writeSysctls(append(hostSysctls(), inherit))
}

// hostSysctls make a namespace quiet and usable at once: nothing is sent
// before somebody asks for it, no address waits for duplicate detection, and
// answers are not limited in rate.
func hostSysctls() []sysctl {
	settings := []sysctl{
		{path: "ipv4/ping_group_range", value: "0 2147483647"},
		// One ICMP error a second to a peer is the default.
		{path: "ipv4/icmp_ratelimit", value: "0"},
		{path: "ipv6/icmp/ratelimit", value: "0", optional: true},
	}
	// A new device takes its settings from "default"; "all" is ored or
	// maximized with it, as each setting has it.
	for _, device := range []string{"all", "default"} {
		for _, s := range []sysctl{
			{path: "ipv4/conf/%s/rp_filter", value: "0"},
			{path: "ipv4/conf/%s/accept_redirects", value: "0"},
			{path: "ipv4/conf/%s/send_redirects", value: "0"},
			{path: "ipv6/conf/%s/disable_ipv6", value: "0", locks: true},
			{path: "ipv6/conf/%s/accept_dad", value: "0"},
			{path: "ipv6/conf/%s/dad_transmits", value: "0"},
			{path: "ipv6/conf/%s/accept_ra", value: "0"},
			{path: "ipv6/conf/%s/autoconf", value: "0"},
			{path: "ipv6/conf/%s/router_solicitations", value: "0"},
			{path: "ipv6/conf/%s/accept_redirects", value: "0"},
			// A report of each multicast group is sent twice, the second one
			// up to a second later. In milliseconds: a tick of most kernels.
			{path: "ipv6/conf/%s/mldv2_unsolicited_report_interval", value: "4"},
		} {
			s.path = fmt.Sprintf(s.path, device)
			settings = append(settings, s)
		}
	}
	return settings
}

// silentSysctls leave a namespace without a stack that could answer. They and the
// nodeSysctls come after the hostSysctls.
func silentSysctls() []sysctl {
	return []sysctl{
		{path: "ipv6/conf/all/disable_ipv6", value: "1", locks: true},
		{path: "ipv6/conf/default/disable_ipv6", value: "1", locks: true},
	}
}

// nodeSysctls are those of the namespace that forwards. Of IPv6, "default" follows
// "all": see addrconf_fixup_forwarding() in the kernel.
func nodeSysctls() []sysctl {
	return []sysctl{
		{path: "ipv4/ip_forward", value: "1", locks: true},
		{path: "ipv6/conf/all/forwarding", value: "1", locks: true},
	}
}

// writeSysctls acts on the calling thread's namespace: /proc/sys/net is that
// of whoever opens it.
func writeSysctls(settings []sysctl) error {
	for _, s := range settings {
		err := s.write()
		if errors.Is(err, fs.ErrNotExist) && s.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("set sysctl net/%s to %s: %w%s", s.path, s.value, err, sysctlRemedy(s, err))
		}
	}
	return nil
}

// sysctls is the calling thread's namespace's.
const sysctls = "/proc/sys/net"

// spinning has one thread at a time write what needs the kernel's lock of devices:
// the kernel does not wait for the lock, it begins the system call again and again
// (rtnl_trylock() and restart_syscall()), and somebody else may hold it for long.
var spinning sync.Mutex

func (s sysctl) write() error {
	if s.locks {
		spinning.Lock()
		defer spinning.Unlock()
	}
	return writeFile(filepath.Join(sysctls, s.path), s.value)
}

// writeFile writes to a file that is there. What package os does beside that, to
// wait for files that may block, is half of the time.
func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

func sysctlRemedy(s sysctl, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(s.path) > 4 && s.path[:4] == "ipv6":
		return " (this kernel has no IPv6: boot one with CONFIG_IPV6 and without ipv6.disable=1)"
	case errors.Is(err, unix.EROFS):
		return " (/proc/sys is read-only here: run outside of a container, or in a privileged one)"
	}
	return ""
}
