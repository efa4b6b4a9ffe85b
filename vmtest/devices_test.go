// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/vmtest"
)

func TestAGuestHasItsDisks(t *testing.T) {
	everyKernel(t, func(t *testing.T, id string) {
		disk := filepath.Join(t.TempDir(), "disk,with comma")
		content := bytes.Repeat([]byte("on the disk\n"), 1<<12)
		require.NoError(t, os.WriteFile(disk, append(content, make([]byte, 1<<20-len(content))...), 0o644))
		m := start(t, id, vmtest.Options{Disks: []vmtest.Disk{{Path: disk}}})
		c := host(t, "sh", "-c", "read line < /dev/vda; echo $line; echo changed > /dev/vda")
		var out, stderr bytes.Buffer
		c.Stdout, c.Stderr = &out, &stderr
		r, err := m.Run(t.Context(), c)
		require.NoErrorf(t, err, "%+v", err)
		require.Equalf(t, 0, r.ExitCode, "stderr: %s", &stderr)
		require.Equal(t, "on the disk\n", out.String())
		_, err = m.Run(t.Context(), host(t, "sync"))
		require.NoError(t, err)
		require.NoError(t, m.Close())
		after, err := os.ReadFile(disk)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(after, []byte("changed\n")), "what the guest writes is in the file")
	})
}

func TestTwoGuestsShareANetwork(t *testing.T) {
	network := filepath.Join(t.TempDir(), "net")
	side := func(mac, backend, address string) *vmtest.Machine {
		m := start(t, "6.12", vmtest.Options{Networks: []vmtest.Network{{Backend: backend, MAC: mac}}})
		for _, args := range [][]string{{"link", "set", "eth0", "up"}, {"address", "add", address, "dev", "eth0"}} {
			c := host(t, "ip", args...)
			var stderr bytes.Buffer
			c.Stderr = &stderr
			r, err := m.Run(t.Context(), c)
			require.NoError(t, err)
			require.Equalf(t, 0, r.ExitCode, "ip %v: %s", args, &stderr)
		}
		return m
	}
	side("52:54:00:00:00:01", "stream,server=on,addr.type=unix,addr.path="+network, "10.0.0.1/24")
	second := side("52:54:00:00:00:02", "stream,server=off,addr.type=unix,addr.path="+network, "10.0.0.2/24")
	c := host(t, "ping", "-c", "1", "-w", "10", "10.0.0.1")
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	r, err := second.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equalf(t, 0, r.ExitCode, "%s", &out)
}
