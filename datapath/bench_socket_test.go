// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
)

// BenchmarkConnect measures connect(2) of the node's own sockets, in ns over
// BASE: the same call to the backend itself, by a socket of another cgroup. The
// two take turns, and the medians are reported. A socket without a service
// connects to the backend too, and only the programs' look at it is measured.
func BenchmarkConnect(b *testing.B) {
	group := inCgroup(b, "-test.run", "^$", "-test.bench", "^BenchmarkConnect$", "-test.benchtime", "1x")
	if group == "" {
		b.ReportMetric(0, "ns/op")
		return
	}
	for _, services := range []int{0, 1, 10_000, 100_000} {
		for name, protocol := range map[string]model.Protocol{"udp": model.ProtocolUDP, "tcp": model.ProtocolTCP} {
			b.Run(fmt.Sprintf("%s/services-%d", name, services), func(b *testing.B) {
				benchmarkConnect(b, group, services, protocol)
			})
		}
	}
}

// benchmarkConnect speaks to one of the services over and over, and then to all
// of them by turns: there every entry comes from memory that no cache has.
func benchmarkConnect(b *testing.B, group string, services int, protocol model.Protocol) {
	b.Helper()
	n := withSockets(b)
	n.state.Services = model.ListOf(manyServices(services, protocol, "10.1.0.1:80")...)
	opts := socketOptions(group)
	opts.Services = 1 << 17
	d := openDatapath(b, opts)
	_, err := d.Apply(n.state.Clone())
	require.NoError(b, err)
	kind := unix.SOCK_DGRAM
	if protocol == model.ProtocolTCP {
		kind = unix.SOCK_STREAM
	}
	c := connector{b: b, group: group, backend: kernelAddr(unix.AF_INET, at("10.1.0.1:80"))}
	for i := range n.state.Services.Len() {
		c.frontends = append(c.frontends, &unix.SockaddrInet4{Port: 80, Addr: n.state.Services.At(i).Address.As4()})
	}
	if services == 0 {
		c.frontends = []unix.Sockaddr{c.backend}
	}
	all := c.frontends
	c.frontends = all[len(all)/2:][:1]
	without, full := c.compare(kind)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(without.Nanoseconds()), "BASE-ns/connect")
	b.ReportMetric(float64((full - without).Nanoseconds()), "ns/connect-over-BASE")
	if len(all) > 1 {
		c.frontends = all
		without, full = c.compare(kind)
		b.ReportMetric(float64((full - without).Nanoseconds()), "ns/connect-over-BASE-by-turns")
	}
}

// connector has sockets of two cgroups: a socket is of the one in which its
// process was when it made it.
type connector struct {
	b         *testing.B
	group     string
	backend   unix.Sockaddr
	frontends []unix.Sockaddr
	turn      int
}

const connectRounds = 101

func (c *connector) frontend() unix.Sockaddr {
	c.turn += 7919 // a prime: neighbours in the table are no neighbours in time
	return c.frontends[c.turn%len(c.frontends)]
}

// outside calls do while the process is in the cgroup above its own.
func (c *connector) outside(do func()) {
	c.b.Helper()
	c.move(filepath.Dir(c.group))
	do()
	c.move(c.group)
}

func (c *connector) move(group string) {
	c.b.Helper()
	require.NoError(c.b, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644))
}

// time gives what a connect takes of this thread's time: the machine may have
// other work.
func (c *connector) time(fds []int, to func() unix.Sockaddr) time.Duration {
	c.b.Helper()
	where := make([]unix.Sockaddr, len(fds))
	for i := range where {
		where[i] = to()
	}
	var failed error
	start := c.spent()
	for i, fd := range fds {
		if err := unix.Connect(fd, where[i]); err != nil {
			failed = err
		}
	}
	took := c.spent() - start
	require.NoError(c.b, failed)
	return took / time.Duration(len(fds))
}

func (c *connector) spent() time.Duration {
	var ts unix.Timespec
	require.NoError(c.b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return time.Duration(ts.Nano())
}

func (c *connector) compare(kind int) (base, with time.Duration) {
	c.b.Helper()
	const repeat = 50
	server := listen(c.b, kind, "10.1.0.1:80")
	defer server.close()
	var without, full []time.Duration
	for range connectRounds {
		var direct, led []int
		c.outside(func() { direct = c.sockets(kind, repeat) })
		led = c.sockets(kind, repeat)
		without = append(without, c.time(direct, func() unix.Sockaddr { return c.backend }))
		c.end(server, kind, direct)
		full = append(full, c.time(led, c.frontend))
		c.end(server, kind, led)
	}
	return median(without), median(full)
}

// sockets are n of which no connection waits for long after its end: they are
// reset.
func (c *connector) sockets(kind, n int) []int {
	c.b.Helper()
	var all []int
	for range n {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		require.NoError(c.b, err)
		require.NoError(c.b, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		all = append(all, fd)
	}
	return all
}

func (c *connector) end(server *socket, kind int, clients []int) {
	c.b.Helper()
	for _, client := range clients {
		require.NoError(c.b, unix.Close(client))
		if kind != unix.SOCK_STREAM {
			continue
		}
		fd, _, err := unix.Accept4(server.fd, unix.SOCK_CLOEXEC)
		require.NoError(c.b, err)
		require.NoError(c.b, unix.Close(fd))
	}
}
