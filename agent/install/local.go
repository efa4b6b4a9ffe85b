// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/weirnet/weir/agent/api"
)

// LocalStatus is what 'weir status --local' prints in an agent's pod.
type LocalStatus struct {
	api.Status
	// Conflists are other files of CNI configuration that kubelet would take
	// before Weir's.
	Conflists []string `json:"conflists,omitempty"`
}

// conflist is the file that makes a node ready.
const conflist = "05-weir.conflist"

// AskLocal asks the agent of this node on its socket, and looks at the node's
// CNI configuration.
func AskLocal(ctx context.Context, socket, netConf string) (*LocalStatus, error) {
	status := new(LocalStatus)
	err := api.NewClient(socket).Get(ctx, api.PathStatus, &status.Status)
	if err != nil {
		return nil, err
	}
	status.Conflists, err = conflistsBefore(netConf)
	return status, err
}

// conflistsBefore are files that kubelet's runtime prefers: it takes the first
// name of the directory (libcni's ConfFiles).
func conflistsBefore(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	var before []string
	for _, e := range entries { // by name
		name := e.Name()
		if name >= conflist {
			break
		}
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) {
			before = append(before, filepath.Join(dir, name))
		}
	}
	return before, nil
}

// NodeStatus is the local status as that of a cluster's node, without its pod.
func (s *LocalStatus) NodeStatus() NodeStatus {
	problems := agentProblems(s)
	phase := "ready"
	if !s.Ready {
		phase = "not ready"
	}
	return NodeStatus{
		Node: s.Node, Phase: phase, Healthy: s.Ready && len(problems) == 0, Kernel: s.Kernel,
		Agent: &s.Status, Problems: append([]string{}, problems...),
	}
}
