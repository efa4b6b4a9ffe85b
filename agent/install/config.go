// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"net/netip"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/model"
)

// Config is the agent's configuration: what an operator chooses for all nodes.
// It is the file config.yaml of the ConfigMap.
type Config struct {
	// Masquerade gives what leaves the cluster the node's address, but for
	// what is sent to MasqueradeExcluded.
	Masquerade         bool           `json:"masquerade"`
	MasqueradeExcluded []netip.Prefix `json:"masqueradeExcluded,omitempty"`
	// NodePortAddresses choose among a node's addresses; empty: all of them.
	NodePortAddresses []netip.Prefix  `json:"nodePortAddresses,omitempty"`
	Return            model.Return    `json:"return,omitempty"`
	Tunnel            model.Tunnel    `json:"tunnel,omitempty"`
	Algorithm         model.Algorithm `json:"algorithm,omitempty"`
	MaglevSize        int             `json:"maglevSize,omitempty"`
	// Devices are the uplinks; empty: those that hold the node's addresses or
	// a default route.
	Devices []string `json:"devices,omitempty"`
	// MTU is of pods, in bytes of an IP packet; 0: as the uplinks'.
	MTU int `json:"mtu,omitempty"`
}

// DefaultConfig is what Install applies where an operator chooses nothing.
func DefaultConfig() Config { return Config{Masquerade: true} }

// smallestMTU is what IPv6 needs of a link (RFC 8200, section 5).
const smallestMTU = 1280

// Validate says what is wrong: all of it joined, each naming its field.
func (c *Config) Validate() error {
	options := model.Options{
		NodePortAddresses: c.NodePortAddresses,
		Masquerade:        c.Masquerade, MasqueradeExcluded: c.MasqueradeExcluded,
		Algorithm: c.Algorithm, MaglevSize: c.MaglevSize, Return: c.Return, Tunnel: c.Tunnel,
	}
	return errors.Join(options.Validate(), c.validateMTU())
}

func (c *Config) validateMTU() error {
	if c.MTU == 0 || c.MTU >= smallestMTU && c.MTU <= 65535 {
		return nil
	}
	return &model.FieldError{Object: "Options", Field: "mtu", Problem: fmt.Sprintf("%d is not between %d and 65535: leave it out to take the uplinks'", c.MTU, smallestMTU)}
}

// parseConfig reads config.yaml. A field that is not known is an error.
func parseConfig(text string) (Config, error) {
	config := DefaultConfig()
	if err := yaml.UnmarshalStrict([]byte(text), &config); err != nil {
		return Config{}, fmt.Errorf("parse configuration: %w", err)
	}
	return config, nil
}

func (c *Config) yaml() (string, error) {
	text, err := yaml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return string(text), nil
}
