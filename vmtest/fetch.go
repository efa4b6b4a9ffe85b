// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// FetchOptions are how Fetch works.
type FetchOptions struct {
	Archive  string   // URI of the archive; empty: the one of the machine's apt
	Verify   bool     // read everything that is in the cache already, and compare digests
	Progress Progress // may be nil
}

// Fetch puts a locked kernel into the cache, unless it is there, and opens it.
// A download whose size or SHA-256 is not that of the lock is refused.
func Fetch(ctx context.Context, k *LockedKernel, o FetchOptions) (*Kernel, error) {
	dir, err := kernelDir(k)
	if err != nil {
		return nil, err
	}
	unlock, err := lockCache(ctx, "kernel-"+filepath.Base(dir))
	if err != nil {
		return nil, err
	}
	defer unlock()
	removeLeftovers(filepath.Dir(dir))
	progress := orSilent(o.Progress)
	if kernel, err := openKernel(dir); err == nil {
		if !o.Verify {
			return kernel, nil
		}
		progress.Step(k.ID + ": verify")
		if err = verifyKernel(dir); err == nil {
			return kernel, nil
		}
		progress.Step(fmt.Sprintf("%s: %v; fetching it again", k.ID, err))
	}
	// Unpacked, a package has up to six times its size.
	if err := checkSpace(filepath.Dir(dir), 7*k.Size()); err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w", k.ID, err)
	}
	downloads := filepath.Join(filepath.Dir(filepath.Dir(dir)), "downloads", filepath.Base(dir))
	defer os.RemoveAll(downloads)
	err = makeEntry(dir, func(tmp string) error {
		debs, err := downloadAll(ctx, k, o, progress, downloads)
		if err != nil {
			return err
		}
		progress.Step(k.ID + ": unpack")
		if err := unpackKernel(ctx, k, debs, tmp); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w", k.ID, err)
	}
	return openKernel(dir)
}

func verifyKernel(dir string) error {
	m, _, err := readManifest(dir)
	if err != nil {
		return err
	}
	return m.check(dir, true)
}

func downloadAll(ctx context.Context, k *LockedKernel, o FetchOptions, progress Progress, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	archive := o.Archive
	if archive == "" {
		var err error
		if archive, err = archiveOf(ctx, k.Suite); err != nil {
			return nil, err
		}
	}
	var debs []string
	for _, p := range k.Packages {
		deb := filepath.Join(dir, p.Name+".deb")
		if err := download(ctx, archive, p, deb, k.ID, progress); err != nil {
			return nil, fmt.Errorf("download %s: %w", p.Name, err)
		}
		if err := verifyDownload(deb, p); err != nil {
			return nil, fmt.Errorf("download %s: %w", p.Name, err)
		}
		debs = append(debs, deb)
	}
	return debs, nil
}

// ErrWrongDownload means that an archive gave something else than the lock
// says.
var ErrWrongDownload = errors.New("refused: not what the lock names")

func verifyDownload(file string, p LockedPackage) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Size() != p.Size {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrWrongDownload, info.Size(), p.Size)
	}
	digest, err := digestFile(file)
	if err != nil {
		return err
	}
	if digest != p.SHA256 {
		return fmt.Errorf("%w: SHA-256 %s instead of %s", ErrWrongDownload, digest, p.SHA256)
	}
	return nil
}
