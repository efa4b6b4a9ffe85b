// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
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
	// Results are of libcni: what other plugins have connected; empty: nobody
	// knows.
	Results string
}

// DefaultPaths are those of a node.
func DefaultPaths() Paths {
	return Paths{
		StateDir: api.DefaultStateDir, RunDir: filepath.Dir(api.DefaultSocket),
		Pins: "/sys/fs/bpf/weir", NetDir: "/etc/cni/net.d", Config: "/etc/weir/config.yaml",
		HostRoot: "/proc/1/root", Results: "/proc/1/root/var/lib/cni/results",
	}
}

func (p *Paths) socket() string { return filepath.Join(p.RunDir, filepath.Base(api.DefaultSocket)) }

// Config is what the operator chooses for all nodes.
type Config struct {
	// Masquerade gives what leaves the cluster the node's address; absent: yes.
	Masquerade         *bool           `json:"masquerade,omitempty"`
	MasqueradeExcluded []netip.Prefix  `json:"masqueradeExcluded,omitempty"`
	NodePortAddresses  []netip.Prefix  `json:"nodePortAddresses,omitempty"`
	Return             model.Return    `json:"return,omitempty"`
	Tunnel             model.Tunnel    `json:"tunnel,omitempty"`
	Algorithm          model.Algorithm `json:"algorithm,omitempty"`
	MaglevSize         int             `json:"maglevSize,omitempty"`
	// Devices are the uplinks by name; absent: those that have the node's
	// addresses or a default route.
	Devices []string `json:"devices,omitempty"`
	// MTU is of pods, in bytes of an IP packet; 0: the least of the uplinks'.
	MTU int `json:"mtu,omitempty"`
}

// Bounds of an MTU: IPv6's least (RFC 8200), and what an IPv4 packet holds.
const (
	leastMTU = 1280
	mostMTU  = 65535
)

// ReadConfig reads a configuration strictly. A file that is not there is an
// empty one.
func ReadConfig(path string) (Config, error) {
	var c Config
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	options := c.options()
	if err := options.Validate(); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if c.MTU != 0 && (c.MTU < leastMTU || c.MTU > mostMTU) {
		return c, fmt.Errorf("read configuration %s: mtu: %d is not between %d and %d: leave it out to have the uplinks'", path, c.MTU, leastMTU, mostMTU)
	}
	return c, nil
}

func (c *Config) options() model.Options {
	return model.Options{
		Masquerade:         c.Masquerade == nil || *c.Masquerade,
		MasqueradeExcluded: c.MasqueradeExcluded,
		NodePortAddresses:  c.NodePortAddresses,
		Return:             c.Return,
		Tunnel:             c.Tunnel,
		Algorithm:          c.Algorithm,
		MaglevSize:         c.MaglevSize,
	}
}
