// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

func TestASocketIsOfTheCgroupThatItWasMadeIn(t *testing.T) {
	needRoot(t)
	before, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	c, err := newCgroup()
	require.NoError(t, err)
	require.Equal(t, 1, Cgroups())
	for range 3 {
		fd, err := c.socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		require.NoError(t, err)
		require.Equal(t, unix.SOCK_STREAM, kind)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		require.NoError(t, err)
		require.NotZero(t, flags&unix.FD_CLOEXEC)
		require.NoError(t, unix.Close(fd))
	}
	_, err = c.socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP)
	require.ErrorIs(t, err, unix.EPROTONOSUPPORT)
	after, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "this process has not moved")
	require.NoError(t, c.close())
	require.Zero(t, Cgroups())
}

// What a killed process leaves behind goes with the next cgroup that is made; what
// is in use stays.
func TestACgroupThatAKilledProcessLeftIsRemoved(t *testing.T) {
	needRoot(t)
	const variable = "WEIR_TEST_LEAVE_CGROUP"
	if os.Getenv(variable) != "" {
		c, err := newCgroup()
		require.NoError(t, err)
		fmt.Println("left " + c.name)
		require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	}
	stays, err := newCgroup()
	require.NoError(t, err)
	again := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	again.Env = append(os.Environ(), variable+"=1")
	said, err := again.CombinedOutput()
	require.ErrorContains(t, err, "signal: killed", "%s", said)
	_, rest, ok := strings.Cut(string(said), "left ")
	require.True(t, ok, "%s", said)
	left, _, _ := strings.Cut(rest, "\n")

	c, err := newCgroup()
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(c.root(), left))
	require.DirExists(t, stays.path())
	require.NoError(t, c.close())
	require.NoError(t, stays.close())
}

func TestAWorldWithSocketsLeavesNoCgroup(t *testing.T) {
	needRoot(t)
	topo := topology()
	topo.Sockets = true
	for name, options := range map[string]Options{"of a pool": {}, "of its own": {Pin: true}} {
		t.Run(name, func(t *testing.T) {
			pool := NewPool(1)
			w, err := pool.New(t.Context(), topo, options)
			require.NoError(t, err)
			require.Equal(t, 1, Cgroups())
			applyObjects(t, w, serviceObjects)
			listenEverywhere(t, w, "default/web")
			at := netip.AddrPortFrom(webServiceV4, 80)
			for _, as := range []lab.Manner{{}, {Mapped: true}} {
				c, err := w.DialAs(within(t, patient), topo.Nodes[0].Name, model.ProtocolTCP, 0, at, as)
				require.NoError(t, err)
				require.Equal(t, at, c.Remote())
				require.Equal(t, "default/web", c.Server())
				require.NoError(t, c.Close())
			}
			require.NoError(t, w.Close())
			require.NoError(t, pool.Close())
			require.Zero(t, Cgroups())
		})
	}
}
