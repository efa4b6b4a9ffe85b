// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirnet/weir/agent/cni"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/datapath"
)

// Left is what an agent leaves on a node.
type Left struct {
	Paths
	Plugin string // the plugin's binary
}

// Below gives what is left on a node whose root directory is at a path.
func Below(root string) Left {
	p := DefaultPaths()
	for _, path := range []*string{&p.StateDir, &p.RunDir, &p.Pins, &p.NetDir} {
		*path = filepath.Join(root, *path)
	}
	return Left{p, filepath.Join(root, "/opt/cni/bin", cni.Type)}
}

// Cleanup removes all that is left, and tells of each thing. It refuses while
// an agent runs.
func Cleanup(left Left, tell func(string)) error {
	// First what has pods connected: without it nobody asks for the rest.
	if err := removeFile(filepath.Join(left.NetDir, ConflistName), tell); err != nil {
		return err
	}
	if err := removeDatapath(left.Pins, tell); err != nil {
		return err
	}
	errs := []error{routes.Sync(nil, nil), removePodDevices(tell), removeFile(left.Plugin, tell)}
	for _, dir := range []string{left.StateDir, left.RunDir} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, os.RemoveAll(dir))
		tell("removed " + dir)
	}
	return errors.Join(errs...)
}

func removeFile(path string, tell func(string)) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	tell("removed " + path)
	return nil
}

func removeDatapath(pins string, tell func(string)) error {
	if _, err := os.Stat(pins); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d, err := datapath.Open(datapath.Options{PinPath: pins, Attach: true, KeepRoom: true})
	if errors.Is(err, datapath.ErrLocked) {
		return fmt.Errorf("remove the datapath: %w: end the agent first", err)
	}
	if err == nil {
		err = d.Remove()
	}
	if err != nil {
		// Of another version, perhaps: links go with their pins.
		if again := os.RemoveAll(pins); again != nil {
			return fmt.Errorf("remove the datapath: %w", errors.Join(err, again))
		}
	}
	tell("removed the datapath at " + pins)
	return nil
}

func removePodDevices(tell func(string)) error {
	local, err := new(Agent).look()
	if err != nil {
		return err
	}
	var errs []error
	for name := range local.links {
		if isPodDevice(name) {
			errs = append(errs, cni.RemoveDevice(name))
			tell("removed device " + name)
		}
	}
	return errors.Join(errs...)
}
