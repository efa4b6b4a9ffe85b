// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// boot makes a bare kernel a place where programs can live.
func boot() error {
	if err := mount("devtmpfs", "/dev", 0, ""); err != nil {
		return err
	}
	if err := loadFirstModules("/modules"); err != nil {
		return err
	}
	if err := leaveInitramfs(); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	for _, s := range settings {
		// A kernel built without a watchdog has no setting for it.
		if err := os.WriteFile("/proc/sys/"+s.name, []byte(s.value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("exempt init from the out-of-memory killer: %w", err)
	}
	if err := interfaceUp("lo"); err != nil {
		return err
	}
	os.Clearenv()
	return os.Setenv("PATH", searchPath)
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// settings make the kernel say what is wrong, and soon.
var settings = []struct{ name, value string }{
	{"kernel/panic_on_oops", "1"},
	{"kernel/unknown_nmi_panic", "1"}, // the host sends one to a guest that hangs, for its stack
	{"kernel/watchdog_thresh", "4"},   // seconds; a soft lockup is told after twice that
	{"kernel/hung_task_timeout_secs", "20"},
	{"kernel/modprobe", "/sbin/modprobe"},
	{"net/ipv6/conf/all/accept_dad", "0"}, // an address works at once, as in every other test network
	{"net/ipv6/conf/default/accept_dad", "0"},
}

func mount(kind, at string, flags uintptr, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", kind, err)
	}
	err := syscall.Mount(kind, at, kind, flags, options)
	if err != nil && err != syscall.EBUSY { // the kernel may have mounted devtmpfs itself
		return fmt.Errorf("mount %s at %s: %w", kind, at, err)
	}
	return nil
}

// leaveInitramfs moves to a tmpfs, since the root of an initramfs can be
// neither unmounted nor pivoted away, which container runtimes insist on.
// Kernel threads share the root of process 1, so that the kernel finds
// /sbin/modprobe there.
func leaveInitramfs() error {
	if err := mount("tmpfs", "/new", 0, "size=90%,mode=755"); err != nil {
		return err
	}
	program, err := os.ReadFile("/init")
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	for _, dir := range []string{"dev", "sbin", "tmp", "etc", "root"} {
		if err := os.Mkdir(filepath.Join("/new", dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/new/sbin/weir-init", program, 0o755); err != nil {
		return fmt.Errorf("copy init: %w", err)
	}
	if err := os.Symlink("weir-init", "/new/sbin/modprobe"); err != nil {
		return err
	}
	if err := os.RemoveAll("/modules"); err != nil {
		return err
	}
	os.Remove("/init")
	if err := syscall.Mount("/dev", "/new/dev", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := os.Chdir("/new"); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	return os.Chdir("/")
}

func mountAll() error {
	const safe = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	for _, m := range []struct {
		kind, at string
		flags    uintptr
		options  string
		optional bool // a kernel may lack it, and what needs it will say so
	}{
		{"proc", "/proc", safe, "", false},
		{"sysfs", "/sys", safe, "", false},
		{"devpts", "/dev/pts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "mode=620,ptmxmode=666", true},
		{"tmpfs", "/dev/shm", syscall.MS_NOSUID | syscall.MS_NODEV, "", false},
		{"tmpfs", "/run", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=755", false},
		{"cgroup2", "/sys/fs/cgroup", safe, "", true},
		{"bpf", "/sys/fs/bpf", safe, "mode=700", true},
		{"debugfs", "/sys/kernel/debug", safe, "", true},
		{"tracefs", "/sys/kernel/tracing", safe, "", true},
		{"securityfs", "/sys/kernel/security", safe, "", true},
	} {
		if err := mount(m.kind, m.at, m.flags, m.options); err != nil && !m.optional {
			return err
		}
	}
	// Mounts made in a namespace must not spread, and others expect that
	// those of the first namespace do.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	os.Chmod("/tmp", 0o777|os.ModeSticky)
	for name, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2", "/etc/mtab": "/proc/self/mounts", "/var/run": "/run",
	} {
		os.MkdirAll(filepath.Dir(name), 0o755)
		os.Symlink(to, name)
	}
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"/etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		"/etc/hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// loadFirstModules loads those modules without which there is no port to the
// host, in the order of their names.
func loadFirstModules(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	for _, name := range names {
		image, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read module: %w", err)
		}
		if err := loadModule(image, ""); err != nil {
			return fmt.Errorf("load %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

// openPort waits for the port to the host: its driver finds it in its own time.
func openPort() (int, error) {
	for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(time.Millisecond) {
		ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range ports {
			name, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(name)) != wire.PortName {
				continue
			}
			device := filepath.Join("/dev", filepath.Base(filepath.Dir(file)))
			fd, err := syscall.Open(device, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
			if err == syscall.ENOENT {
				continue
			}
			if err != nil {
				return -1, fmt.Errorf("open %s: %w", device, err)
			}
			return fd, nil
		}
	}
	return -1, errors.New("no virtio-serial port named " + wire.PortName + " within 30 seconds")
}

// interfaceUp is `ip link set NAME up`.
func interfaceUp(name string) error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	defer syscall.Close(socket)
	var request struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], name)
	request.flags = syscall.IFF_UP
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return fmt.Errorf("set %s up: %w", name, errno)
	}
	return nil
}

// loadedModules reads the names of the modules that the kernel has.
func loadedModules() []string {
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		return nil
	}
	var names []string
	for line := range bytes.Lines(text) {
		name, _, _ := bytes.Cut(line, []byte(" "))
		names = append(names, string(name))
	}
	return names
}
