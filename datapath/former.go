// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// formerStructs are the former names of the structures of tables, by today's.
var formerStructs = map[string]string{
	"ipcache_pair": "address_pair", "cidr_key": "prefix_key",
	"share_key": "turn_key", "share_slot": "turn",
}

// conversions make the entries of today of those of a table that had a former name.
var conversions = map[string]func(from, to *ebpf.Map) error{bpf.ContainerMapSlotRows: packSlots}

// formerName is what a table was called before; empty for one that was never renamed.
func formerName(name string) string {
	for former, now := range model.FormerTables() {
		if string(now) == name {
			return string(former)
		}
	}
	return ""
}

// formerPin is the path of a table's pin by its former name; empty where it had none.
func formerPin(path string) string {
	if name := formerName(filepath.Base(path)); name != "" {
		return filepath.Join(filepath.Dir(path), name)
	}
	return ""
}

func formerPins() []string {
	var names []string
	for name := range model.FormerTables() {
		names = append(names, string(name))
	}
	return names
}

// removeFormerPins removes the pins of tables that have been moved to a new layout and a
// new name.
func removeFormerPins(dir string) error {
	for _, name := range formerPins() {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin a table of a former name: %w", err)
		}
	}
	return nil
}
