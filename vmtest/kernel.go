// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Kernel is one that can be booted: unpacked, complete and in the cache.
type Kernel struct {
	ID      string // "6.1", or the path of an own one
	Release string // what uname -r says
	Version string // of its package; empty for an own one
	Config  Config // empty when it is not known
	Dir     string // of the cache; holds the files below

	modules *moduleIndex
	digest  string // of all its files
}

// Files of a kernel in the cache.
const (
	kernelFile = "kernel" // what QEMU starts
	configFile = "config"
)

// Image is the path of what QEMU starts.
func (k *Kernel) Image() string { return filepath.Join(k.Dir, kernelFile) }

// ErrUnknownKernel means that a name is neither in the lock nor a file.
var ErrUnknownKernel = errors.New("unknown kernel")

// ErrNotFetched means that a kernel of the lock is not in the cache.
var ErrNotFetched = errors.New("kernel is not in the cache")

// Locked returns the kernels of the lock, oldest first, fetched or not.
func Locked() ([]LockedKernel, error) {
	lock, err := DefaultLock()
	if err != nil {
		return nil, err
	}
	return lock.Kernels, nil
}

// FindOptions are what Find may do.
type FindOptions struct {
	Lock     *Lock    // nil: the lock that this program was built with
	Offline  bool     // return ErrNotFetched instead of fetching
	Progress Progress // may be nil
}

// Find returns the kernel of that name: the id of a locked one ("6.1"), which
// is fetched if need be, or the path of an own one: a vmlinuz, a vmlinux or a
// build tree.
func Find(ctx context.Context, name string, o FindOptions) (*Kernel, error) {
	if o.Lock == nil {
		var err error
		if o.Lock, err = DefaultLock(); err != nil {
			return nil, err
		}
	}
	if locked := o.Lock.find(name); locked != nil {
		if k, err := openLocked(locked); err == nil {
			return k, nil
		} else if o.Offline {
			return nil, fmt.Errorf("%w: %s (`weir vm fetch %s` gets it)", ErrNotFetched, name, locked.ID)
		}
		return Fetch(ctx, locked, FetchOptions{Progress: o.Progress})
	}
	if strings.ContainsRune(name, filepath.Separator) {
		return openOwn(ctx, name)
	}
	if _, err := os.Stat(name); err == nil {
		return openOwn(ctx, name)
	}
	return nil, fmt.Errorf("%w %q: the lock has %s, and a path (with a slash) names an own one",
		ErrUnknownKernel, name, strings.Join(o.Lock.IDs(), ", "))
}

// kernelDir is where a locked kernel is kept. The name changes with any of its
// packages.
func kernelDir(k *LockedKernel) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	var digests strings.Builder
	for _, p := range k.Packages {
		digests.WriteString(p.SHA256)
	}
	name := fmt.Sprintf("%s-%s-%.12s", k.ID, k.Version, digestBytes([]byte(digests.String()+unpackedForm)))
	return filepath.Join(cache, "kernels", name), nil
}

// unpackedForm changes when the form of a kernel in the cache does.
const unpackedForm = "3"

func openLocked(k *LockedKernel) (*Kernel, error) {
	dir, err := kernelDir(k)
	if err != nil {
		return nil, err
	}
	return openKernel(dir)
}

// openKernel opens a kernel of the cache, unless something of it is missing.
func openKernel(dir string) (*Kernel, error) {
	m, digest, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if err := m.check(dir, false); err != nil {
		return nil, err
	}
	k := &Kernel{ID: m.ID, Release: m.Release, Version: m.Version, Dir: dir, digest: digest}
	if k.modules, err = readModuleIndex(dir); err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read config of kernel %s: %w", k.ID, err)
	}
	k.Config = ParseConfig(config)
	return k, nil
}

// ownKernel is where the parts of an own kernel were found.
type ownKernel struct {
	image, config, modules string
	release                string
}

// openOwn takes an own kernel into the cache, where it is treated like a
// locked one.
func openOwn(ctx context.Context, path string) (*Kernel, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	own, err := locateOwn(path)
	if err != nil {
		return nil, fmt.Errorf("find kernel at %s: %w", path, err)
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	key, err := own.key()
	if err != nil {
		return nil, fmt.Errorf("find kernel at %s: %w", path, err)
	}
	dir := filepath.Join(cache, "kernels", "own-"+key[:16])
	unlock, err := lockCache(ctx, "kernel-own-"+key[:16])
	if err != nil {
		return nil, err
	}
	defer unlock()
	if k, err := openKernel(dir); err == nil {
		return k, nil
	}
	err = makeEntry(dir, func(tmp string) error { return own.copyTo(tmp, path) })
	if err != nil {
		return nil, fmt.Errorf("take kernel %s into the cache: %w", path, err)
	}
	return openKernel(dir)
}

func locateOwn(path string) (*ownKernel, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	own := &ownKernel{image: path}
	if info.IsDir() {
		own.image = firstFile(filepath.Join(path, "arch/x86/boot/bzImage"), filepath.Join(path, "vmlinux"))
		if own.image == "" {
			return nil, errors.New("this directory has neither arch/x86/boot/bzImage nor vmlinux: is it a kernel's build tree, and built?")
		}
		own.config, own.modules = firstFile(filepath.Join(path, ".config")), path
	}
	image, err := os.ReadFile(own.image)
	if err != nil {
		return nil, err
	}
	if own.release, err = releaseOf(image); err != nil {
		return nil, err
	}
	if info.IsDir() {
		return own, nil
	}
	dir := filepath.Dir(path)
	own.config = firstFile(filepath.Join(dir, "config-"+own.release), filepath.Join(dir, "config"), filepath.Join(dir, ".config"))
	for _, root := range []string{dir, filepath.Join(dir, ".."), "/"} {
		for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
			modules := filepath.Join(root, lib, own.release)
			if real, err := filepath.EvalSymlinks(modules); own.modules == "" && err == nil {
				own.modules = real
			}
		}
	}
	if base := filepath.Base(dir); base == own.release && own.modules == "" {
		own.modules = dir // lib/modules/RELEASE/vmlinuz
	}
	return own, nil
}

func firstFile(paths ...string) string {
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p
		}
	}
	return ""
}

var versionLine = regexp.MustCompile(`Linux version ([0-9][^ \x00]{0,127}) `)

// releaseOf finds what uname -r will say, in either form of image.
func releaseOf(image []byte) (string, error) {
	if bytes.HasPrefix(image, []byte("\x7fELF")) {
		if m := versionLine.FindSubmatch(image); m != nil {
			return string(m[1]), nil
		}
		return "", errors.New("this ELF file is no kernel: it says nowhere \"Linux version\"")
	}
	return bzImageRelease(image)
}

// key changes when any part of the kernel does: by size and time, since a
// build tree has thousands of modules.
func (o *ownKernel) key() (string, error) {
	var b strings.Builder
	add := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		return nil
	}
	fmt.Fprintln(&b, unpackedForm)
	for _, path := range []string{o.image, o.config} {
		if path != "" {
			if err := add(path); err != nil {
				return "", err
			}
		}
	}
	if o.modules == "" {
		return digestBytes([]byte(b.String())), nil
	}
	err := filepath.WalkDir(o.modules, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && moduleEnding(path) != "" {
			return add(path)
		}
		return err
	})
	return digestBytes([]byte(b.String())), err
}

func (o *ownKernel) copyTo(tmp, id string) error {
	image, err := os.ReadFile(o.image)
	if err != nil {
		return err
	}
	if err := writeBootable(image, filepath.Join(tmp, kernelFile)); err != nil {
		return err
	}
	if o.config != "" {
		config, err := os.ReadFile(o.config)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tmp, configFile), config, 0o644); err != nil {
			return err
		}
	}
	var modules []module
	if builtIn := filepath.Join(o.modules, builtInFile); o.modules != "" && firstFile(builtIn) != "" {
		if err := copyFile(builtIn, filepath.Join(tmp, builtInFile)); err != nil {
			return err
		}
	}
	if o.modules != "" {
		if modules, err = indexModules(o.modules); err != nil {
			return err
		}
		// They are copied, since a build tree may change under a snapshot.
		for i := range modules {
			to := filepath.Join("modules", fmt.Sprintf("%04d-%s", i, filepath.Base(modules[i].Path)))
			if err := copyFile(filepath.Join(o.modules, modules[i].Path), filepath.Join(tmp, to)); err != nil {
				return err
			}
			modules[i].Path = to
		}
	}
	if err := writeModuleIndex(tmp, modules); err != nil {
		return err
	}
	return writeManifest(tmp, manifest{ID: id, Release: o.release}, true)
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
