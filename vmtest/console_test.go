// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatKernelsComplainOfIsRecognized(t *testing.T) {
	for _, test := range []struct {
		name string
		line string
		kind SplatKind // empty: no complaint
	}{
		{"panic", "[    1.2] Kernel panic - not syncing: sysrq triggered crash", Panic},
		{"panic with the caller of 6.x", "[    1.2][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs", Panic},
		{"warning before 6.18", "[   12.3] WARNING: CPU: 0 PID: 77 at net/core/dev.c:3417 skb_warn_bad_offload+0x91/0xa0", Warning},
		{"warning since 6.18", "[   12.3] WARNING: net/core/dev.c:3417 at skb_warn_bad_offload+0x91/0xa0, CPU#0: test/77", Warning},
		{"null pointer", "[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000010", Oops},
		{"page fault", "[   12.3] BUG: unable to handle page fault for address: ffffc90000000000", Oops},
		{"oops of 6.12", "[   12.3] Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT SMP NOPTI", Oops},
		{"protection fault of 5.10", "[   12.3] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP NOPTI", Oops},
		{"BUG()", "[   12.3] kernel BUG at mm/slub.c:4038!", Bug},
		{"sleeping in atomic context", "[   12.3] BUG: sleeping function called from invalid context at kernel/locking/mutex.c:283", Bug},
		{"soft lockup", "[   12.3] watchdog: BUG: soft lockup - CPU#0 stuck for 10s! [test:126]", SoftLockup},
		{"hard lockup", "[   12.3] watchdog: Watchdog detected hard LOCKUP on cpu 1", HardLockup},
		{"RCU stall", "[   12.3] rcu: INFO: rcu_preempt self-detected stall on CPU", RCUStall},
		{"RCU stall of others", "[   12.3] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", RCUStall},
		{"expedited RCU stall", "[   12.3] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... } 21 jiffies s: 77 root: 0x1/.", RCUStall},
		{"hung task", "[   12.3] INFO: task test:77 blocked for more than 20 seconds.", HungTask},
		{"out of memory", "[   12.3] Out of memory: Killed process 77 (test) total-vm:1kB, anon-rss:1kB", OutOfMemory},
		{"out of memory in a cgroup", "[   12.3] Memory cgroup out of memory: Killed process 77 (test)", OutOfMemory},
		{"KASAN", "[   12.3] BUG: KASAN: slab-out-of-bounds in foo+0x1/0x2", Sanitizer},
		{"lockdep", "[   12.3] WARNING: possible circular locking dependency detected", Sanitizer},
		{"init gives up", "[    1.2] weir-init: cannot go on: no port", Panic},
		{"a taint is none", "[    1.0] virtio_ring: module verification failed: signature and/or required key missing - tainting kernel", ""},
		{"a device that is removed is none", "[    1.0] device eth0 left promiscuous mode", ""},
		{"a program that says warning is none", "[    1.0] test[77]: WARNING: this is not the kernel's", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newConsole(nil)
			c.Write([]byte(test.line + "\r\n"))
			_, splats := c.since(position{})
			if test.kind == "" {
				require.Empty(t, splats)
				return
			}
			require.Len(t, splats, 1)
			require.Equal(t, test.kind, splats[0].Kind)
		})
	}
}

func TestASplatEndsWhereTheKernelSaysSo(t *testing.T) {
	c := newConsole(nil)
	before := c.position()
	for _, part := range []string{"[1.0] WARN", "ING: CPU: 0 PID: 1 at a.c:1 f+0x0/0x1\n[1.0] Call Trace:\n", "[1.0] ---[ end trace 0 ]---\n[1.1] all is well\n"} {
		c.Write([]byte(part))
	}
	_, splats := c.since(before)
	require.Len(t, splats, 1)
	require.Equal(t, "WARNING: CPU: 0 PID: 1 at a.c:1 f+0x0/0x1", splats[0].Title)
	require.NotContains(t, splats[0].Text, "all is well")
	require.Contains(t, splats[0].Text, "Call Trace")
}

func TestAPanicAfterAWarningIsASplatOfItsOwn(t *testing.T) {
	var told []Splat
	c := newConsole(func(s Splat) { told = append(told, s) })
	c.Write([]byte("[1.0] WARNING: a.c:1 at f, CPU#0: x/1\n[1.0] Kernel panic - not syncing: panic_on_warn set\n[1.0] Rebooting\n"))
	_, splats := c.since(position{})
	require.Len(t, splats, 2)
	require.Len(t, told, 2)
	require.Equal(t, Panic, told[1].Kind)
}

func TestAMarkIsSeenBehindWhatCameBefore(t *testing.T) {
	c := newConsole(nil)
	seen := c.expect("weir-init: mark 1")
	c.Write([]byte("[1.0] something\n"))
	select {
	case <-seen:
		t.Fatal("the mark has not come yet")
	default:
	}
	c.Write([]byte("[1.0] weir-init: mark 1\n"))
	<-seen
}

func TestTheConsoleKeepsTheNewestPart(t *testing.T) {
	c := newConsole(nil)
	line := strings.Repeat("x", 999) + "\n"
	for range 3 * consoleLimit / len(line) {
		c.Write([]byte(line))
	}
	at := c.position()
	c.Write([]byte("last\n"))
	text, _ := c.since(at)
	require.Equal(t, "last\n", text)
	all, _ := c.since(position{})
	require.LessOrEqual(t, len(all), consoleLimit*5/4+len(line))
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("[1.0] WARNING: a.c:1 at f, CPU#0: x/1\n[1.0] ---[ end trace 0 ]---\n"), 3)
	f.Add([]byte("\x1b[0m\r\n[\n[    ] BUG: soft lockup\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		whole, parts := newConsole(nil), newConsole(nil)
		whole.Write(data)
		if cut = min(max(cut, 1), 64); len(data) > 1<<12 {
			data = data[:1<<12]
			whole = newConsole(nil)
			whole.Write(data)
		}
		for rest := data; len(rest) > 0; {
			n := min(cut, len(rest))
			parts.Write(rest[:n])
			rest = rest[n:]
		}
		a, splatsA := whole.since(position{})
		b, splatsB := parts.since(position{})
		require.Equal(t, a, b)
		require.Equal(t, splatsA, splatsB, "how the bytes are cut must not matter")
	})
}
