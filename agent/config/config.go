// SPDX-License-Identifier: Apache-2.0

// Package config is what an operator chooses for all nodes: the file
// config.yaml that 'weir install' writes into the ConfigMap and agents read at
// their start.
//
// It says nothing of where things are on a node; that is the agent's command
// line. Its one invariant: what is written here is read here as the same, and
// what cannot be kept is refused on both sides, by its field.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/model"
)

// Config is the configuration. The zero Config masquerades nothing; Default is
// what holds where an operator chooses nothing.
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
	// ExternalIPs are the addresses that Services may name as externalIPs: "on"
	// (the default) for all but the nodes' own, "off", or blocks, which may hold
	// nodes' addresses.
	ExternalIPs model.Allowed `json:"externalIPs,omitzero"`
	// HostPorts are the node's addresses at which host ports answer that name
	// no hostIP: "on" (the default) for all, loopback too, "off", or blocks.
	HostPorts model.Allowed `json:"hostPorts,omitzero"`
	// AuditAnnotations are those that are believed; empty: pods', which lift
	// policies of their namespaces alone, and all others.
	AuditAnnotations model.AuditAnnotations `json:"auditAnnotations,omitempty"`
	// DeniedIngress and DeniedEgress are what a packet gets that a policy denies
	// in that direction, where the policy does not say: "drop" (the default) or
	// "refuse".
	DeniedIngress model.Denial `json:"deniedIngress,omitempty"`
	DeniedEgress  model.Denial `json:"deniedEgress,omitempty"`
	// ServicePings is what becomes of pings of services' addresses: "answer" (the
	// default) or "drop".
	ServicePings model.ServicePings `json:"servicePings,omitempty"`
	// ReservedPorts are TCP ports of the nodes that no object takes; nil:
	// model.DefaultReservedPorts.
	ReservedPorts []uint16 `json:"reservedPorts,omitempty"`
	// FlowLifetimes are how long flows may be idle, as in tcp-fin-wait=4m,udp=3m;
	// what is not named has the default.
	FlowLifetimes model.Lifetimes `json:"flowLifetimes,omitempty"`
	// Refusals bounds how many resets and ICMP errors each endpoint's packets get in a
	// second: 1 to model.DefaultRefusals, which it is where it is absent.
	Refusals uint32 `json:"refusals,omitempty"`
	// Tables are the sizes of the datapath's tables, in entries; absent: those of
	// bpf/lib/limits.h.
	// Of those that objects fill it is the budget, and what does not fit is
	// refused object by object.
	Tables map[model.Table]int `json:"tables,omitempty"`
	// RepairInterval is how often the datapath's tables are compared with what they
	// are to hold, and repaired, as in 5m (the default), or "off".
	RepairInterval Interval `json:"repairInterval,omitempty"`
	// Devices are the uplinks by name; empty: those that have the node's
	// addresses or a default route.
	Devices []string `json:"devices,omitempty"`
	// MTU is of pods, in bytes of an IP packet; 0: the least of the uplinks'.
	MTU int `json:"mtu,omitempty"`

	warnings []string
}

// Default masquerades.
func Default() Config { return Config{Masquerade: true} }

// Bounds of an MTU: IPv6's least (RFC 8200, section 5), and what an IPv4
// packet holds.
const (
	leastMTU = 1280
	mostMTU  = 65535
)

// Options are what the compiler takes of it.
func (c *Config) Options() model.Options {
	return model.Options{
		NodePortAddresses: c.NodePortAddresses,
		Masquerade:        c.Masquerade, MasqueradeExcluded: c.MasqueradeExcluded,
		Algorithm: c.Algorithm, MaglevSize: c.MaglevSize, Return: c.Return, Tunnel: c.Tunnel,
		ExternalIPs: c.ExternalIPs, HostPorts: c.HostPorts, AuditAnnotations: c.AuditAnnotations, DeniedIngress: c.DeniedIngress, DeniedEgress: c.DeniedEgress, ServicePings: c.ServicePings, ReservedPorts: c.ReservedPorts,
	}
}

// Validate says what is wrong: all of it joined, each naming its field.
func (c *Config) Validate() error {
	options := c.Options()
	return errors.Join(options.Validate(), c.validateTables(), c.validateMTU(), c.validateRefusals(), c.validateIntervals())
}

func (c *Config) validateMTU() error {
	if c.MTU == 0 || c.MTU >= leastMTU && c.MTU <= mostMTU {
		return nil
	}
	return &model.FieldError{Object: model.Ref{Kind: model.OptionsKind}, Field: "mtu", Problem: fmt.Sprintf("%d is not between %d and %d: leave it out to have the uplinks'", c.MTU, leastMTU, mostMTU)}
}

func (c *Config) validateRefusals() error {
	if c.Refusals <= model.DefaultRefusals {
		return nil
	}
	return &model.FieldError{Object: model.Ref{Kind: model.OptionsKind}, Field: "refusals", Problem: fmt.Sprintf("%d a second are more than %d: leave it out to have these", c.Refusals, model.DefaultRefusals)}
}

// Parse reads a configuration over the default one. A field that is not known
// is an error; what is wrong otherwise is Validate's to say.
func Parse(data []byte) (Config, error) {
	c := Default()
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return Config{}, fmt.Errorf("parse configuration: %w", err)
	}
	return c, c.renameTables()
}

// Read reads a file. One that is not there is an empty one.
func Read(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(data)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return c, nil
}

// YAML writes the configuration as Parse reads it.
func (c *Config) YAML() (string, error) {
	text, err := yaml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return string(text), nil
}
