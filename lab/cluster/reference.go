// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"sigs.k8s.io/kind/pkg/cluster/nodes"
)

// Network is what moves a cluster's packets.
type Network string

// Networks.
const (
	// NetworkWeir is none yet: Weir is to be installed.
	NetworkWeir Network = "weir"
	// NetworkReference is Kubernetes' own: kube-proxy in its mode of nftables, and of
	// the reference plugins ptp, with a route to each other node's pods. It has no
	// policies and no masquerading, and shares nothing with Weir.
	NetworkReference Network = "reference"
)

// member is a node of a cluster as the reference network needs to know it.
type member struct {
	node      nodes.Node
	blocks    []netip.Prefix // of its pods
	addresses []netip.Addr   // its own
}

// conflist is the configuration of a node's plugins: a veth pair for each pod, with an
// address of the node's blocks, and ports of the node's that lead to it.
func (m *member) conflist() ([]byte, error) {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, block := range m.blocks {
		all := "0.0.0.0/0"
		if block.Addr().Is6() {
			all = "::/0"
		}
		ranges = append(ranges, []map[string]string{{"subnet": block.String()}})
		routes = append(routes, map[string]string{"dst": all})
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "name": "reference",
		"plugins": []any{
			map[string]any{"type": "ptp", "ipam": map[string]any{"type": "host-local", "dataDir": "/run/cni-ipam-state", "ranges": ranges, "routes": routes}},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
}

// routes lead to the pods of all others, as 'ip -batch' takes them.
func (m *member) routes(all []member) string {
	var out strings.Builder
	for i := range all {
		if all[i].node.String() == m.node.String() {
			continue
		}
		for _, block := range all[i].blocks {
			for _, via := range all[i].addresses {
				if via.Is4() == block.Addr().Is4() {
					fmt.Fprintf(&out, "route replace %s via %s\n", block, via)
				}
			}
		}
	}
	return out.String()
}

// refer gives the nodes of a cluster the reference network.
func refer(ctx context.Context, all []nodes.Node) error {
	members := make([]member, len(all))
	for i, n := range all {
		var err error
		if members[i], err = describe(ctx, n, all); err != nil {
			return fmt.Errorf("look at node %s: %w", n, err)
		}
	}
	for i := range members {
		m := &members[i]
		conf, err := m.conflist()
		if err == nil {
			err = m.node.CommandContext(ctx, "tee", "/etc/cni/net.d/10-reference.conflist").SetStdin(bytes.NewReader(conf)).Run()
		}
		if err == nil {
			err = m.node.CommandContext(ctx, "ip", "-batch", "-").SetStdin(strings.NewReader(m.routes(members))).Run()
		}
		if err != nil {
			return fmt.Errorf("give node %s its network: %w", m.node, err)
		}
	}
	return nil
}

// describe asks the API, by a node that has its administrator's configuration.
func describe(ctx context.Context, n nodes.Node, all []nodes.Node) (member, error) {
	m := member{node: n}
	for _, control := range all {
		if role, err := control.Role(); err != nil || role != "control-plane" {
			continue
		}
		// Its blocks are given to it a moment after it has joined.
		const kubeconfig = "/etc/kubernetes/admin.conf"
		if err := control.CommandContext(ctx, "kubectl", "--kubeconfig", kubeconfig, "wait", "--for", "jsonpath={.spec.podCIDR}", "--timeout", "60s", "node/"+n.String()).Run(); err != nil {
			return m, fmt.Errorf("wait for its podCIDR: %w", err)
		}
		var text bytes.Buffer
		get := control.CommandContext(ctx, "kubectl", "--kubeconfig", kubeconfig, "get", "node", n.String(), "-o",
			`jsonpath={.spec.podCIDRs[*]}{"\n"}{.status.addresses[?(@.type=="InternalIP")].address}`)
		if err := get.SetStdout(&text).Run(); err != nil {
			return m, fmt.Errorf("ask the API: %w", err)
		}
		blocks, addresses, _ := strings.Cut(text.String(), "\n")
		return m, m.read(blocks, addresses)
	}
	return m, fmt.Errorf("none of the %d nodes has a control plane", len(all))
}

// read takes lists with blanks between their words.
func (m *member) read(blocks, addresses string) error {
	for _, word := range strings.Fields(blocks) {
		block, err := netip.ParsePrefix(word)
		if err != nil {
			return err
		}
		m.blocks = append(m.blocks, block)
	}
	for _, word := range strings.Fields(addresses) {
		address, err := netip.ParseAddr(word)
		if err != nil {
			return err
		}
		m.addresses = append(m.addresses, address)
	}
	if len(m.blocks) == 0 {
		return fmt.Errorf("it has no podCIDR yet")
	}
	return nil
}
