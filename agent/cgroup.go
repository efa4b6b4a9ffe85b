// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// cgroupRoots are where nodes have the root of their cgroup2 hierarchy: alone,
// beside those of version 1 (systemd's hybrid), or where it was mounted by hand.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/run/cgroup2"}

// findCgroup gives the root of the node's cgroup2 hierarchy as this process
// reaches it, empty when there is none. hostRoot is the node's own root
// directory, since a container has another view.
func findCgroup(hostRoot string) string {
	for _, path := range cgroupRoots {
		var fs unix.Statfs_t
		path = filepath.Join(hostRoot, path)
		if err := unix.Statfs(path, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return path
		}
	}
	return ""
}
