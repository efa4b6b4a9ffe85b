// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// The cache holds kernels, snapshots and the guest's init. Everything in it
// is made in a directory with another name and then renamed, so that what has
// its name is whole; and made under a lock, so that two runs share it.

// CacheEnv names the environment variable that moves the cache.
const CacheEnv = "WEIR_CACHE"

// CacheDir returns the directory of the cache: $WEIR_CACHE, or "weir" below
// the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv(CacheEnv); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w (set %s to a directory)", err, CacheEnv)
	}
	return filepath.Join(dir, "weir"), nil
}

// lockCache takes an exclusive lock of the given name, waiting for whoever
// holds it. The lock is gone with the process that holds it.
func lockCache(ctx context.Context, name string) (unlock func(), err error) {
	return flockCache(ctx, name, syscall.LOCK_EX)
}

func flockCache(ctx context.Context, name string, how int) (unlock func(), err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(cache, "locks", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", file, err)
		}
		// There is no flock that a context can end.
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another run that uses %s: %w", file, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// halfMade begins the names of directories that are not entries yet.
const halfMade = ".new-"

// makeEntry makes the directory dir of the cache with what fill puts into it,
// or leaves nothing. The caller has a lock on it.
func makeEntry(dir string, fill func(tmp string) error) (err error) {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	// Whoever makes this entry has locked it: what is half-made is of one who
	// was killed.
	prefix := halfMade + filepath.Base(dir) + "-"
	leftovers, _ := filepath.Glob(filepath.Join(parent, prefix+"*"))
	for _, l := range leftovers {
		os.RemoveAll(l)
	}
	tmp, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(tmp) // gone by its name after the rename
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("replace cache: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	return nil
}

// checkSpace makes sure of so many bytes on the disk of a directory.
func checkSpace(dir string, needed int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < needed {
		return fmt.Errorf("%w: %s has %d MB left and needs %d (%s moves the cache)",
			syscall.ENOSPC, dir, free>>20, needed>>20, CacheEnv)
	}
	return nil
}

// removeLeftovers removes what killed runs left half-made. Nobody who still
// works on one needs longer than the age.
func removeLeftovers(parent string) {
	const age = time.Hour
	found, _ := filepath.Glob(filepath.Join(parent, halfMade+"*"))
	for _, dir := range found {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > age {
			os.RemoveAll(dir)
		}
	}
}

// manifestFile lists the files of an entry of the cache.
const manifestFile = "manifest.json"

// manifest describes an entry, so that damage is noticed.
type manifest struct {
	ID      string         `json:"id,omitempty"`
	Release string         `json:"release,omitempty"`
	Version string         `json:"version,omitempty"`
	Files   []manifestItem `json:"files"`
}

type manifestItem struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256,omitempty"`
}

// writeManifest lists every file below dir, with digests if they are wanted.
func writeManifest(dir string, m manifest, digests bool) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		item := manifestItem{Size: info.Size()}
		if item.Path, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		if digests {
			if item.SHA256, err = digestFile(path); err != nil {
				return err
			}
		}
		m.Files = append(m.Files, item)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	data, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestFile), append(data, '\n'), 0o644)
}

// readManifest reads the list, and returns its digest, which stands for the
// whole entry.
func readManifest(dir string) (*manifest, string, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, "", err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, "", fmt.Errorf("%w: %s: %v", ErrDamaged, dir, err)
	}
	return &m, digestBytes(data), nil
}

// ErrDamaged means that something in the cache is not what was put there. The
// remedy is `weir vm fetch`, which makes it anew.
var ErrDamaged = errors.New("the cache is damaged")

// check compares the files with the list: their sizes, which finds truncation
// and costs nothing, or their digests too.
func (m *manifest) check(dir string, digests bool) error {
	for _, item := range m.Files {
		path := filepath.Join(dir, item.Path)
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrDamaged, err)
		}
		if info.Size() != item.Size {
			return fmt.Errorf("%w: %s has %d bytes instead of %d", ErrDamaged, path, info.Size(), item.Size)
		}
		if !digests || item.SHA256 == "" {
			continue
		}
		digest, err := digestFile(path)
		if err != nil {
			return err
		}
		if digest != item.SHA256 {
			return fmt.Errorf("%w: %s has another SHA-256 than when it was unpacked", ErrDamaged, path)
		}
	}
	return nil
}

func digestBytes(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
