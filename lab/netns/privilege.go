// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnprivileged is a process that may not build a world.
var ErrUnprivileged = errors.New("not privileged")

// Privileged says whether this process may build worlds. ErrUnprivileged.
func Privileged() error { return checkPrivilege() }

// checkPrivilege says in one sentence which capabilities are missing.
func checkPrivilege() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	effective := uint64(sets[1].Effective)<<32 | uint64(sets[0].Effective)
	if missing := missingCapabilities(effective); len(missing) > 0 {
		return fmt.Errorf("%w: network namespaces with a datapath need %s, which this process lacks: run it as root",
			ErrUnprivileged, strings.Join(missing, ", "))
	}
	return nil
}

// missingCapabilities are the names of those that are not in the set.
func missingCapabilities(effective uint64) []string {
	var missing []string
	for _, c := range []struct {
		name string
		bit  uint
		also uint // has it too, by capabilities(7)
	}{
		{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN, unix.CAP_SYS_ADMIN},
		{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, unix.CAP_NET_ADMIN},
		{"CAP_NET_RAW", unix.CAP_NET_RAW, unix.CAP_NET_RAW},
		{"CAP_BPF", unix.CAP_BPF, unix.CAP_SYS_ADMIN},
		{"CAP_PERFMON", unix.CAP_PERFMON, unix.CAP_SYS_ADMIN},
	} {
		if effective&(1<<c.bit|1<<c.also) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing
}
