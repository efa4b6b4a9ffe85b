// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ownCache gives a test a cache with the kernels of the real one, and with
// nothing else.
func ownCache(t *testing.T) (dir string) {
	t.Helper()
	shared, err := CacheDir()
	require.NoError(t, err)
	dir = t.TempDir()
	for _, part := range []string{"kernels", "init"} {
		require.NoError(t, os.MkdirAll(filepath.Join(shared, part), 0o755))
		require.NoError(t, os.Symlink(filepath.Join(shared, part), filepath.Join(dir, part)))
	}
	t.Setenv(CacheEnv, dir)
	return dir
}

func locked(t *testing.T, id string) *LockedKernel {
	t.Helper()
	lock, err := DefaultLock()
	require.NoError(t, err)
	k := lock.find(id)
	require.NotNil(t, k)
	return k
}

func TestADownloadThatIsNotTheLockedOneIsRefused(t *testing.T) {
	archive := t.TempDir()
	t.Setenv(CacheEnv, t.TempDir())
	k := &LockedKernel{ID: "x", Suite: "sid", Version: "1", Packages: []LockedPackage{{
		Name: "linux-x", File: "pool/x.deb", Size: 4, SHA256: digestBytes([]byte("good")),
	}}}
	require.NoError(t, os.MkdirAll(filepath.Join(archive, "pool"), 0o755))
	for name, content := range map[string]string{"other bytes": "evil", "truncated": "go", "longer": "good and more"} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(filepath.Join(archive, "pool/x.deb"), []byte(content), 0o644))
			_, err := Fetch(t.Context(), k, FetchOptions{Archive: "copy:" + archive})
			require.ErrorIs(t, err, ErrWrongDownload)
		})
	}
	t.Run("the right bytes, that are no package", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(archive, "pool/x.deb"), []byte("good"), 0o644))
		_, err := Fetch(t.Context(), k, FetchOptions{Archive: "copy:" + archive})
		require.ErrorIs(t, err, errNotDeb)
	})
	t.Run("no such file", func(t *testing.T) {
		require.NoError(t, os.Remove(filepath.Join(archive, "pool/x.deb")))
		_, err := Fetch(t.Context(), k, FetchOptions{Archive: "copy:" + archive})
		require.ErrorContains(t, err, "download linux-x")
	})
	cache, err := CacheDir()
	require.NoError(t, err)
	for _, left := range []string{"kernels/*", "kernels/.*", "downloads/*"} {
		found, err := filepath.Glob(filepath.Join(cache, left))
		require.NoError(t, err)
		require.Empty(t, found, "nothing is left of what was refused")
	}
}

func TestATruncatedKernelIsNotUsed(t *testing.T) {
	k := locked(t, "6.12")
	real, err := Find(t.Context(), "6.12", FindOptions{Offline: true})
	require.NoError(t, err)
	t.Setenv(CacheEnv, t.TempDir())
	dir, err := kernelDir(k)
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(dir, os.DirFS(real.Dir)))
	_, err = Find(t.Context(), "6.12", FindOptions{Offline: true})
	require.NoError(t, err)
	require.NoError(t, os.Truncate(filepath.Join(dir, kernelFile), 1<<20))
	_, err = Find(t.Context(), "6.12", FindOptions{Offline: true})
	require.ErrorIs(t, err, ErrNotFetched)
	_, err = openLocked(k)
	require.ErrorIs(t, err, ErrDamaged)
}

func TestADamagedSnapshotIsMadeAgain(t *testing.T) {
	cache := ownCache(t)
	k, err := Find(t.Context(), "6.12", FindOptions{Offline: true})
	require.NoError(t, err)
	o := Options{Accelerator: TCG}
	m, err := Start(t.Context(), k, o)
	require.NoErrorf(t, err, "%+v", err)
	require.NoError(t, m.Close())
	for name, damage := range map[string]func(t *testing.T, dir string){
		"truncated memory": func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, memoryFile), 1<<20)) },
		"garbage in the state": func(t *testing.T, dir string) {
			info, err := os.Stat(filepath.Join(dir, stateFile))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, stateFile), make([]byte, info.Size()), 0o644))
		},
		"no facts": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, factsFile))) },
	} {
		t.Run(name, func(t *testing.T) {
			dirs, err := filepath.Glob(filepath.Join(cache, "snapshots", "*"))
			require.NoError(t, err)
			require.Len(t, dirs, 1)
			damage(t, dirs[0])
			m, err := Start(t.Context(), k, o)
			require.NoErrorf(t, err, "%+v", err)
			require.True(t, m.Warm)
			require.NoError(t, m.Close())
		})
	}
}

func TestRunsThatShareACacheMakeOneSnapshot(t *testing.T) {
	cache := ownCache(t)
	k, err := Find(t.Context(), "5.10", FindOptions{Offline: true})
	require.NoError(t, err)
	steps := &countingProgress{}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			m, err := Start(t.Context(), k, Options{Accelerator: TCG, Progress: steps})
			if err != nil {
				t.Errorf("%+v", err)
				return
			}
			m.Close()
		})
	}
	group.Wait()
	require.Equal(t, 2, steps.count, "one boot, and how it went")
	dirs, err := filepath.Glob(filepath.Join(cache, "snapshots", "*"))
	require.NoError(t, err)
	require.Len(t, dirs, 1)
}

type countingProgress struct {
	mu    sync.Mutex
	count int
}

func (p *countingProgress) Step(string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
}

func (p *countingProgress) Bytes(string, int64, int64) {}

func TestAnythingThatMakesASnapshotChangesItsKey(t *testing.T) {
	k, err := Find(t.Context(), "6.12", FindOptions{Offline: true})
	require.NoError(t, err)
	other, err := Find(t.Context(), "6.1", FindOptions{Offline: true})
	require.NoError(t, err)
	path, err := findQEMU()
	require.NoError(t, err)
	base := Options{Accelerator: TCG, Memory: 512, CPUs: 1}
	seen := make(map[string]string)
	add := func(what string, k *Kernel, change func(o *Options)) {
		o := base
		change(&o)
		p, err := newPlan(t.Context(), path, k, o)
		require.NoError(t, err)
		require.NotContains(t, seen, p.key, "%s has the key of another", what)
		seen[p.key] = what
	}
	add("nothing", k, func(o *Options) {})
	add("kernel", other, func(o *Options) {})
	add("memory", k, func(o *Options) { o.Memory = 256 })
	add("processors", k, func(o *Options) { o.CPUs = 2 })
	add("accelerator", k, func(o *Options) { o.Accelerator = KVM })
	add("modules", k, func(o *Options) { o.Modules = []string{"veth"} })
	add("command line", k, func(o *Options) { o.Append = "x" })
	add("file", k, func(o *Options) { o.Files = []File{{Path: "/x", Content: []byte("1")}} })
	add("content of a file", k, func(o *Options) { o.Files = []File{{Path: "/x", Content: []byte("2")}} })
	add("a disk", k, func(o *Options) { o.Disks = []Disk{{Path: "/a"}} })
	add("a network", k, func(o *Options) { o.Networks = []Network{{Backend: "user"}} })
}

func TestALockIsWaitedForAndTheWaitCanEnd(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	unlock, err := lockCache(t.Context(), "x")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = lockCache(ctx, "x")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	again, err := lockCache(t.Context(), "x")
	require.NoError(t, err)
	again()
}

func TestAnInterruptedEntryLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "entry")
	require.NoError(t, os.Mkdir(filepath.Join(parent, halfMade+"entry-killed"), 0o755))
	require.Error(t, makeEntry(dir, func(tmp string) error { return context.Canceled }))
	entries, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestAnOwnKernelWorksLikeALockedOne(t *testing.T) {
	real, err := Find(t.Context(), "6.1", FindOptions{Offline: true})
	require.NoError(t, err)
	tree := t.TempDir()
	t.Setenv(CacheEnv, t.TempDir())
	require.NoError(t, copyFile(real.Image(), filepath.Join(tree, "vmlinux")))
	require.NoError(t, copyFile(filepath.Join(real.Dir, configFile), filepath.Join(tree, ".config")))
	require.NoError(t, os.CopyFS(filepath.Join(tree, "drivers"), os.DirFS(filepath.Join(real.Dir, "modules", real.Release, "kernel", "drivers", "virtio"))))
	require.NoError(t, os.CopyFS(filepath.Join(tree, "char"), os.DirFS(filepath.Join(real.Dir, "modules", real.Release, "kernel", "drivers", "char"))))
	for _, path := range []string{tree, filepath.Join(tree, "vmlinux")} {
		k, err := Find(t.Context(), path, FindOptions{})
		require.NoError(t, err)
		require.Equal(t, real.Release, k.Release)
		require.True(t, k.Config.Has("BPF_SYSCALL"))
	}
	k, err := Find(t.Context(), tree, FindOptions{})
	require.NoError(t, err)
	m, err := Start(t.Context(), k, Options{Accelerator: TCG})
	require.NoErrorf(t, err, "%+v", err)
	release, err := m.Read(t.Context(), "/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	require.Equal(t, real.Release+"\n", string(release))
	require.NoError(t, m.Close())

	k.Config = ParseConfig([]byte("CONFIG_BPF_SYSCALL=y"))
	_, err = Start(t.Context(), k, Options{})
	require.ErrorIs(t, err, ErrLacks)
	require.ErrorContains(t, err, "CONFIG_VIRTIO_CONSOLE (the port to the host)")
}

func TestWhatIsNoKernelIsSaidSo(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte("hello"), 0o644))
	for name, test := range map[string]struct{ path, says string }{
		"an id that the lock has not": {"9.9", "the lock has 5.10"},
		"no file":                     {filepath.Join(dir, "none"), "no such file"},
		"a text":                      {text, "not an x86 boot image"},
		"a directory":                 {dir, "is it a kernel's build tree"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Find(t.Context(), test.path, FindOptions{})
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestWhoWaitsForRoomIsServedBeforeWhoTakesItAgain(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	var releases []func()
	for range Parallel(DefaultMemory) {
		release, err := Acquire(t.Context(), DefaultMemory)
		require.NoError(t, err)
		releases = append(releases, release)
	}
	waits := make(chan func(), 1)
	go func() {
		release, err := Acquire(t.Context(), DefaultMemory)
		if err == nil {
			waits <- release
		}
		close(waits)
	}()
	cache, err := CacheDir()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		free, err := tryLock(filepath.Join(cache, "locks", "slots"))
		if free != nil {
			free.Close()
		}
		return err == nil && free == nil
	}, time.Minute, time.Millisecond, "somebody waits")

	releases[0]()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = Acquire(ctx, DefaultMemory)
	require.ErrorIs(t, err, context.DeadlineExceeded, "there was room for one, who came first")
	release, served := <-waits
	require.True(t, served)
	release()
	for _, release := range releases[1:] {
		release()
	}
}

func TestRoomForGuestsIsSharedOut(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	var releases []func()
	for range Parallel(DefaultMemory) {
		release, err := Acquire(t.Context(), DefaultMemory)
		require.NoError(t, err)
		releases = append(releases, release)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Acquire(ctx, DefaultMemory)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	releases[0]()
	release, err := Acquire(t.Context(), DefaultMemory)
	require.NoError(t, err)
	for _, r := range append(releases[1:], release) {
		r()
	}
}

func TestCleaningKeepsWhatTheLockNamesAndWhatIsInUse(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(CacheEnv, cache)
	named, err := kernelDir(locked(t, "6.1"))
	require.NoError(t, err)
	for _, dir := range []string{named, filepath.Join(cache, "kernels/old"), filepath.Join(cache, "snapshots/a"), filepath.Join(cache, "snapshots/busy"), filepath.Join(cache, "init/x")} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	unlock, err := lockCache(t.Context(), "snapshot-busy")
	require.NoError(t, err)
	defer unlock()
	removed, err := Clean(t.Context(), false)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{filepath.Join(cache, "kernels/old"), filepath.Join(cache, "snapshots/a"), filepath.Join(cache, "init/x")}, removed)
	require.DirExists(t, named)
	require.DirExists(t, filepath.Join(cache, "snapshots/busy"))
	removed, err = Clean(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, []string{named}, removed)
}
