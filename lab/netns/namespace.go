// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

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
	n := &namespace{handle: vishnetns.None()}
	err := onOwnThread(func() error {
		handle, err := vishnetns.New()
		if err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		n.handle = handle
		return writeSysctls(settings)
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
			{path: "ipv6/conf/%s/disable_ipv6", value: "0"},
			{path: "ipv6/conf/%s/accept_dad", value: "0"},
			{path: "ipv6/conf/%s/dad_transmits", value: "0"},
			{path: "ipv6/conf/%s/accept_ra", value: "0"},
			{path: "ipv6/conf/%s/autoconf", value: "0"},
			{path: "ipv6/conf/%s/router_solicitations", value: "0"},
			{path: "ipv6/conf/%s/accept_redirects", value: "0"},
			// A report of each multicast group is sent twice, the second one
			// up to a second later. In milliseconds: at once.
			{path: "ipv6/conf/%s/mldv2_unsolicited_report_interval", value: "1"},
			// 1: no link-local address by itself. The world adds the ones
			// that it wants, so that they are there when it says so.
			{path: "ipv6/conf/%s/addr_gen_mode", value: "1"},
		} {
			s.path = fmt.Sprintf(s.path, device)
			settings = append(settings, s)
		}
	}
	return settings
}

// silentSysctls leave a namespace without a stack that could answer.
func silentSysctls() []sysctl {
	return append(hostSysctls(),
		sysctl{path: "ipv6/conf/all/disable_ipv6", value: "1"},
		sysctl{path: "ipv6/conf/default/disable_ipv6", value: "1"},
	)
}

// nodeSysctls are those of the namespace that forwards.
func nodeSysctls() []sysctl {
	return append(hostSysctls(),
		sysctl{path: "ipv4/ip_forward", value: "1"},
		sysctl{path: "ipv6/conf/all/forwarding", value: "1"},
		sysctl{path: "ipv6/conf/default/forwarding", value: "1"},
	)
}

// writeSysctls acts on the calling thread's namespace: /proc/sys/net is that
// of whoever opens it.
func writeSysctls(settings []sysctl) error {
	for _, s := range settings {
		path := filepath.Join("/proc/sys/net", s.path)
		err := os.WriteFile(path, []byte(s.value), 0o644)
		if errors.Is(err, fs.ErrNotExist) && s.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("set sysctl net/%s to %s: %w%s", s.path, s.value, err, sysctlRemedy(s, err))
		}
	}
	return nil
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
