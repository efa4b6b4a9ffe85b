// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/weirnet/weir/agent/cni"
)

// ConflistName is the file by which the runtime finds the plugin.
const ConflistName = "05-weir.conflist"

// writeConflist tells the runtime that pods can be connected: the kubelet
// calls a node ready that has such a file.
func (a *Agent) writeConflist() error {
	if a.opts.Paths.NetDir == "" {
		return nil
	}
	data, err := json.MarshalIndent(map[string]any{
		"cniVersion": cni.Version,
		"name":       cni.Network,
		"plugins": []map[string]any{{
			"type": cni.Type, "socket": a.opts.Paths.socket(), "stateDir": a.opts.Paths.StateDir,
		}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the network's configuration: %w", err)
	}
	path := filepath.Join(a.opts.Paths.NetDir, ConflistName)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(a.opts.Paths.NetDir, 0o755); err != nil {
		return fmt.Errorf("make directory of network configurations: %w", err)
	}
	// The runtime reads whatever ends in .conflist.
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return fmt.Errorf("write the network's configuration: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("put the network's configuration in its place: %w", err)
	}
	return nil
}
