// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheLockHasAllKernelsThatTheDatapathSupports(t *testing.T) {
	lock, err := parseLock(embeddedLock)
	require.NoError(t, err)
	require.Equal(t, []string{"5.10", "6.1", "6.12", "6.18", "7.2"}, lock.IDs())
}

func TestTheLockIsWrittenAsItWasRead(t *testing.T) {
	lock, err := parseLock(embeddedLock)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "lock")
	require.NoError(t, lock.Write(file))
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(embeddedLock), string(written))
}

func TestALockThatCouldDoHarmIsRefused(t *testing.T) {
	for name, change := range map[string]func(k *LockedKernel){
		"an id that is a path":      func(k *LockedKernel) { k.ID = "../../etc" },
		"a version that is a path":  func(k *LockedKernel) { k.Version = "a/b" },
		"a suite with a space":      func(k *LockedKernel) { k.Suite = "sid main\ndeb" },
		"a package that is a path":  func(k *LockedKernel) { k.Packages[0].Name = "../x" },
		"a file out of the archive": func(k *LockedKernel) { k.Packages[0].File = "pool/../../x" },
		"a file somewhere else":     func(k *LockedKernel) { k.Packages[0].File = "/etc/passwd" },
		"no digest":                 func(k *LockedKernel) { k.Packages[0].SHA256 = "" },
		"no size":                   func(k *LockedKernel) { k.Packages[0].Size = 0 },
		"no packages":               func(k *LockedKernel) { k.Packages = nil },
	} {
		t.Run(name, func(t *testing.T) {
			lock, err := parseLock(embeddedLock)
			require.NoError(t, err)
			change(&lock.Kernels[0])
			data, err := json.Marshal(lock)
			require.NoError(t, err)
			_, err = parseLock(data)
			require.Error(t, err)
		})
	}
}

func TestALockWithOneKernelTwiceIsRefused(t *testing.T) {
	twice := strings.ReplaceAll(string(embeddedLock), `"id": "6.1"`, `"id": "5.10"`)
	_, err := parseLock([]byte(twice))
	require.ErrorContains(t, err, "twice")
}

func FuzzLock(f *testing.F) {
	f.Add(embeddedLock)
	f.Add([]byte(`{"kernels":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		lock, err := parseLock(data)
		if err != nil {
			return
		}
		for i := range lock.Kernels {
			dir, err := kernelDir(&lock.Kernels[i])
			require.NoError(t, err)
			require.Equal(t, "kernels", filepath.Base(filepath.Dir(dir)), "a kernel stays in its directory")
		}
	})
}
