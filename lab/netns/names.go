// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// namesDir is where iproute2 looks for the names of namespaces.
const namesDir = "/run/netns"

// names are the files in namesDir on which a kept world's namespaces are
// mounted.
type names struct {
	prefix string
	paths  []string
	shells []string // of Enter, one a host
}

// name gives the namespaces of a kept world their names.
func (w *World) name() error {
	if !w.options.Keep {
		return nil
	}
	if err := os.MkdirAll(namesDir, 0o755); err != nil {
		return fmt.Errorf("name namespaces: %w", err)
	}
	w.names = &names{}
	for _, h := range w.hosts() {
		if h.name == nobody {
			continue
		}
		if err := w.names.add(h, h == w.nodes[0].host); err != nil {
			return fmt.Errorf("name namespace of %s: %w", h.name, err)
		}
	}
	return nil
}

// add names a host weir-N-NAME. N is the first that no world has: the first
// node, which comes first, takes it.
func (n *names) add(h *host, isFirst bool) error {
	name := strings.Trim(strings.ReplaceAll(h.name, "/", "-"), "()")
	if isFirst {
		name = "node"
	}
	for number := 0; ; number++ {
		candidate := fmt.Sprintf("%s%s", n.prefix, name)
		switch {
		case isFirst:
			candidate = fmt.Sprintf("weir-%d-%s", number, name)
		case number > 0:
			candidate = fmt.Sprintf("%s-%d", candidate, number)
		}
		path := filepath.Join(namesDir, candidate)
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		file.Close()
		n.paths = append(n.paths, path)
		if isFirst {
			n.prefix = fmt.Sprintf("weir-%d-", number)
		}
		n.shells = append(n.shells, fmt.Sprintf("ip netns exec %s sh   # %s", candidate, h.name))
		source := fmt.Sprintf("/proc/self/fd/%d", h.ns.handle)
		return unix.Mount(source, path, "", unix.MS_BIND, "")
	}
}

func (n *names) remove() error {
	var errs []error
	for _, path := range n.paths {
		// EINVAL: nothing is mounted there.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
		}
		if err := os.Remove(path); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Enter says how a person looks around in a kept world, one line a host.
func (w *World) Enter() string {
	if w.names == nil {
		return "this world is not kept: its namespaces have no names (Options.Keep)"
	}
	return strings.Join(w.names.shells, "\n")
}
