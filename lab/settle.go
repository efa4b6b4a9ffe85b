// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// Settle makes the calling thread's network namespace forward like a node's, whatever a
// packet's source, and keep still: its devices say nothing by themselves.
func Settle() error {
	for path, value := range map[string]string{
		"ipv4/ip_forward":                        "1",
		"ipv4/conf/all/rp_filter":                "0",
		"ipv4/conf/default/rp_filter":            "0",
		"ipv6/conf/all/forwarding":               "1",
		"ipv6/conf/default/forwarding":           "1",
		"ipv6/conf/default/accept_dad":           "0",
		"ipv6/conf/default/router_solicitations": "0",
		"ipv6/conf/default/addr_gen_mode":        "1", // no link-local address by itself
	} {
		// The calling thread's namespace, not the process's.
		if err := os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0); err != nil {
			return fmt.Errorf("set net/%s: %w", path, err)
		}
	}
	return nil
}
