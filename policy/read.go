// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// ReadObjects reads files of YAML or JSON, and all manifests in folders. Path - is
// in. An object that two files have is an error that names both.
func ReadObjects(in io.Reader, paths ...string) (*manifest.Objects, error) {
	all, from := manifest.NewObjects(), map[model.Ref]string{}
	var errs []error
	for _, path := range paths {
		files, err := manifestsIn(path)
		errs = append(errs, err)
		for _, file := range files {
			objs, err := readManifest(in, file, all)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, merge(all, objs, file, from))
		}
	}
	return all, errors.Join(errs...)
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

func readManifest(in io.Reader, path string, others *manifest.Objects) (*manifest.Objects, error) {
	if path == "-" {
		return manifest.ParseBeside("standard input", in, others)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	defer file.Close()
	return manifest.ParseBeside(path, file, others)
}

// merge adds a file's objects, none of which may have been in another one.
func merge(all, objs *manifest.Objects, file string, from map[model.Ref]string) error {
	var errs []error
	for _, ref := range objs.Refs() {
		if other, twice := from[ref]; twice {
			errs = append(errs, fmt.Errorf("%s: %s is in %s too: remove one or give it another metadata.name", file, ref, other))
		}
		from[ref] = file
	}
	all.Merge(objs)
	return errors.Join(errs...)
}
