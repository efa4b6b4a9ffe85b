// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"path/filepath"

	"github.com/weirnet/weir/agent/api"
)

// Paths are where an agent meets others on its node.
type Paths struct {
	StateDir string // endpoints, and deletions that wait
	RunDir   string // with the socket, agent.sock
	Pins     string // on a bpffs
	NetDir   string // of the runtime's network configurations; empty: none is written
	Config   string // file; one that is not there is an empty one
	Procfs   string // empty: /proc
	// HostRoot is the node's root directory, to find the node's cgroups by;
	// empty: the node's own sockets are left to packets.
	HostRoot string
	// Results are of libcni: what other plugins have connected; empty: below
	// HostRoot, where libcni keeps them.
	Results string
}

// DefaultPaths are those of a node.
func DefaultPaths() Paths {
	return Paths{
		StateDir: api.DefaultStateDir, RunDir: filepath.Dir(api.DefaultSocket),
		Pins: "/sys/fs/bpf/weir", NetDir: "/etc/cni/net.d", Config: "/etc/weir/config.yaml",
		HostRoot: "/proc/1/root",
	}
}

func (p *Paths) socket() string { return filepath.Join(p.RunDir, filepath.Base(api.DefaultSocket)) }

// results are where libcni keeps what it has connected (libcni.CacheDir).
func (p *Paths) results() string {
	if p.Results != "" {
		return p.Results
	}
	return filepath.Join("/", p.HostRoot, "var/lib/cni/results")
}
