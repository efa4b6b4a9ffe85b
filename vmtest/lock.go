// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

//go:embed kernels.lock
var embeddedLock []byte

// Lock names the kernels that everybody who has the same lock tests on, down
// to the byte.
type Lock struct {
	Kernels []LockedKernel `json:"kernels"`
}

// LockedKernel is one kernel of the lock.
type LockedKernel struct {
	ID       string          `json:"id"`      // "6.1": what people call it
	Suite    string          `json:"suite"`   // of Debian: "bookworm-security"
	Version  string          `json:"version"` // of the packages
	Release  string          `json:"release"` // what uname -r says
	Pattern  []string        `json:"pattern"` // names of packages; the star is what moves
	Packages []LockedPackage `json:"packages"`
}

// LockedPackage is a file in Debian's archive.
type LockedPackage struct {
	Name   string `json:"name"`
	File   string `json:"file"`   // below the root of the archive
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hexadecimal
}

// Size is that of all packages, in bytes.
func (k *LockedKernel) Size() int64 {
	var total int64
	for _, p := range k.Packages {
		total += p.Size
	}
	return total
}

// LockEnv names the environment variable with the path of another lock.
const LockEnv = "WEIR_KERNELS_LOCK"

// DefaultLock is the lock that this program was built with, or the one that
// LockEnv names.
func DefaultLock() (*Lock, error) {
	if file := os.Getenv(LockEnv); file != "" {
		return ReadLock(file)
	}
	return parseLock(embeddedLock)
}

// ReadLock reads a lock from a file.
func ReadLock(file string) (*Lock, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read lock: %w", err)
	}
	lock, err := parseLock(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return lock, nil
}

var (
	hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)
	plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~:_-]*$`)
)

func parseLock(data []byte) (*Lock, error) {
	var lock Lock
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, fmt.Errorf("read lock: %w", err)
	}
	seen := make(map[string]bool)
	for _, k := range lock.Kernels {
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("read lock: kernel %q: %w", k.ID, err)
		}
		if seen[k.ID] {
			return nil, fmt.Errorf("read lock: kernel %q stands there twice", k.ID)
		}
		seen[k.ID] = true
	}
	return &lock, nil
}

// check keeps out what would leave the cache or the archive: names become
// paths.
func (k *LockedKernel) check() error {
	for _, name := range []string{k.ID, k.Suite, k.Version} {
		if !plainName.MatchString(name) {
			return fmt.Errorf("%q is no plain name", name)
		}
	}
	if len(k.Packages) == 0 {
		return errors.New("it has no packages")
	}
	for _, p := range k.Packages {
		switch {
		case !plainName.MatchString(p.Name):
			return fmt.Errorf("package %q is no plain name", p.Name)
		case !hexDigest.MatchString(p.SHA256):
			return fmt.Errorf("package %s: %q is no SHA-256", p.Name, p.SHA256)
		case p.Size <= 0:
			return fmt.Errorf("package %s: size %d", p.Name, p.Size)
		case !strings.HasPrefix(p.File, "pool/") || strings.Contains(p.File, ".."):
			return fmt.Errorf("package %s: %q is no file of an archive", p.Name, p.File)
		}
	}
	return nil
}

// Write writes the lock into a file, in the form that the repository has.
func (l *Lock) Write(file string) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	return nil
}

// find returns the kernel of that id.
func (l *Lock) find(id string) *LockedKernel {
	for i := range l.Kernels {
		if k := &l.Kernels[i]; k.ID == id || k.Release == id || k.Version == id {
			return k
		}
	}
	return nil
}

// IDs lists the kernels, oldest first.
func (l *Lock) IDs() []string {
	ids := make([]string, 0, len(l.Kernels))
	for _, k := range l.Kernels {
		ids = append(ids, k.ID)
	}
	return ids
}
