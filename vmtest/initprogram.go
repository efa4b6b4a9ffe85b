// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// The guest's init is compiled once, on the machine that uses it: the go
// command is there wherever Go tests run, and source in the program cannot be
// of another version than the program.

//go:embed internal/guest/*.go internal/wire/*.go
var guestSource embed.FS

const guestModule = "module github.com/weirnet/weir\n\ngo 1.24\n"

// initFile is the name of the init in its entry of the cache.
const initFile = "weir-init"

// initProgram returns the path of the init, and its digest.
func initProgram(ctx context.Context, progress Progress) (path, digest string, err error) {
	sources, err := guestSources()
	if err != nil {
		return "", "", err
	}
	var all bytes.Buffer
	for _, s := range sources {
		fmt.Fprintf(&all, "%s %d\n%s", s.name, len(s.content), s.content)
	}
	cache, err := CacheDir()
	if err != nil {
		return "", "", err
	}
	digest = digestBytes(all.Bytes())
	dir := filepath.Join(cache, "init", digest[:16])
	path = filepath.Join(dir, initFile)
	if initIsWhole(dir) {
		return path, digest, nil
	}
	unlock, err := lockCache(ctx, "init")
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if initIsWhole(dir) {
		return path, digest, nil
	}
	progress.Step("compile the guest's init")
	err = makeEntry(dir, func(tmp string) error {
		if err := buildInit(ctx, sources, filepath.Join(tmp, initFile)); err != nil {
			return err
		}
		return writeManifest(tmp, manifest{}, true)
	})
	if err != nil {
		return "", "", fmt.Errorf("compile the guest's init: %w", err)
	}
	return path, digest, nil
}

func initIsWhole(dir string) bool {
	m, _, err := readManifest(dir)
	return err == nil && m.check(dir, false) == nil
}

type sourceFile struct {
	name    string
	content []byte
}

func guestSources() ([]sourceFile, error) {
	var sources []sourceFile
	err := fs.WalkDir(guestSource, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		if matched, _ := filepath.Match("*_test.go", filepath.Base(name)); matched {
			return nil
		}
		content, err := guestSource.ReadFile(name)
		sources = append(sources, sourceFile{"vmtest/" + name, content})
		return err
	})
	return sources, err
}

func buildInit(ctx context.Context, sources []sourceFile, to string) error {
	tool, err := exec.LookPath("go")
	if err != nil {
		return errors.New("the go command is needed for it, once: install Go, or bring a cache from a machine that has it")
	}
	dir, err := os.MkdirTemp("", "weir-init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sources = append(sources, sourceFile{"go.mod", []byte(guestModule)})
	for _, s := range sources {
		if err := writeFile(filepath.Join(dir, s.name), bytes.NewReader(s.content)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, tool, "build", "-trimpath", "-ldflags=-s -w", "-o", to, "./vmtest/internal/guest")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=", "GOWORK=off",
		"GOPROXY=off", "GOTOOLCHAIN=local", "GOEXPERIMENT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
