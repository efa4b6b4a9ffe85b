// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Input is what was read of manifests.
type Input struct {
	Objects     *manifest.Objects
	Substitutes []Substitute   // pods that Substitute has added
	Passed      map[string]int // objects of other kinds, by kind; "": documents that are no objects

	controllers []manifest.Controller
}

// Read reads files of YAML or JSON, and all manifests in folders. Path - is in. An
// object that two files have is an error that names both. Objects of other kinds are
// passed over.
func Read(in io.Reader, paths ...string) (*Input, error) {
	all, from := &Input{Objects: manifest.NewObjects(), Passed: map[string]int{}}, map[model.Ref]string{}
	var errs []error
	for _, path := range paths {
		files, err := manifestsIn(path)
		errs = append(errs, err)
		for _, file := range files {
			found, err := readManifest(in, file, all.Objects)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, all.merge(found, file, from))
		}
	}
	return all, errors.Join(errs...)
}

// Substitute adds a pod for each Deployment, StatefulSet, DaemonSet, ReplicaSet, Job
// and CronJob that was read and has no pods among the objects. It is called when
// these are complete.
func (i *Input) Substitute() { i.Substitutes = substitute(i.Objects, i.controllers) }

// Name is what a party is called in answers: a pod that is a substitute by what it
// stands for, with its addresses.
func (i *Input) Name(party string) string {
	for n := range i.Substitutes {
		if s := &i.Substitutes[n]; s.Pod == party {
			return s.String()
		}
	}
	return party
}

// PassedOver tells what was passed over, in words; empty: nothing.
func (i *Input) PassedOver() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(i.Passed)) {
		name := kind
		if kind == "" {
			name = "without a kind"
		}
		parts = append(parts, fmt.Sprintf("%d %s", i.Passed[kind], name))
	}
	return strings.Join(parts, ", ")
}

func manifestsIn(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	var files []string
	err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && (file == path || slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file))) {
			files = append(files, file)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read objects: folder %s has no file that ends in .yaml, .yml or .json", path)
	}
	return files, nil
}

func readManifest(in io.Reader, path string, others *manifest.Objects) (*manifest.Found, error) {
	if path == "-" {
		return manifest.ParseAmong("standard input", in, others)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	defer file.Close()
	return manifest.ParseAmong(path, file, others)
}

// merge adds a file's objects, none of which may have been in another one.
func (i *Input) merge(found *manifest.Found, file string, from map[model.Ref]string) error {
	var errs []error
	for _, ref := range found.Objects.Refs() {
		if other, twice := from[ref]; twice {
			errs = append(errs, fmt.Errorf("%s: %s is in %s too: remove one or give it another metadata.name", file, ref, other))
		}
		from[ref] = file
	}
	i.Objects.Merge(found.Objects)
	i.controllers = append(i.controllers, found.Controllers...)
	for kind, n := range found.Passed {
		i.Passed[kind] += n
	}
	return errors.Join(errs...)
}
