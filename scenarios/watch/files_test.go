// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/require"
)

// changes are what a person does to files below a folder.
type changes struct {
	*testing.T
	dir string
}

func (c changes) write(name, text string) {
	require.NoError(c, os.MkdirAll(filepath.Dir(filepath.Join(c.dir, name)), 0o755))
	require.NoError(c, os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644))
}

func (c changes) rename(from, to string) {
	require.NoError(c, os.Rename(filepath.Join(c.dir, from), filepath.Join(c.dir, to)))
}

// await waits until the files say something.
func (c changes) await(f *Files, says func(*Snapshot) bool) {
	for {
		<-f.Changed()
		now, err := f.Look()
		require.NoError(c, err)
		if says(now) {
			return
		}
	}
}

func TestFilesAreSeenAsEditorsSaveThem(t *testing.T) {
	c := changes{t, t.TempDir()}
	in := func(name string) string { return filepath.Join(c.dir, name) }
	c.write("suite/one.txtar", "1")
	c.write("alone/two.txtar", "2")
	c.write("alone/other.txtar", "not asked for")
	c.write("bpf/lib/a.h", "a")
	c.write("bpf/a_bpfel.o", "no source")
	f, err := Open([]string{in("suite"), in("alone/two.txtar")}, in("bpf"))
	require.NoError(t, err)
	defer f.Close()
	now, err := f.Look()
	require.NoError(t, err)
	require.Equal(t, &Snapshot{map[string]string{in("suite/one.txtar"): "1", in("alone/two.txtar"): "2"}, Source{"lib/a.h": "a"}}, now)

	// Renamed over, with the old one kept beside, as vim and IntelliJ do.
	c.write("suite/.one.txtar.swp", "")
	c.rename("suite/one.txtar", "suite/one.txtar~")
	c.write("suite/4913", "")
	c.write("suite/one.new", "1 again")
	c.rename("suite/one.new", "suite/one.txtar")
	c.await(f, func(now *Snapshot) bool { return now.Scenarios[in("suite/one.txtar")] == "1 again" })

	// A link of Emacs that leads nowhere.
	require.NoError(t, os.Symlink("somebody@here.1", in("suite/.#one.txtar")))
	c.write("alone/two.txtar", "2 again")
	c.await(f, func(now *Snapshot) bool { return now.Scenarios[in("alone/two.txtar")] == "2 again" })

	// Folders that come later.
	c.write("suite/deep/er/three.txtar", "3")
	c.await(f, func(now *Snapshot) bool { return now.Scenarios[in("suite/deep/er/three.txtar")] == "3" })
	c.write("suite/deep/er/three.txtar", "3 again")
	c.await(f, func(now *Snapshot) bool { return now.Scenarios[in("suite/deep/er/three.txtar")] == "3 again" })
	c.write("bpf/new/b.h", "b")
	c.await(f, func(now *Snapshot) bool { return now.Source["new/b.h"] == "b" })

	// Gone, with its folder, and there again.
	require.NoError(t, os.RemoveAll(in("suite")))
	c.await(f, func(now *Snapshot) bool { return len(now.Scenarios) == 1 })
	c.write("suite/one.txtar", "1")
	c.await(f, func(now *Snapshot) bool { return now.Scenarios[in("suite/one.txtar")] == "1" })
}

func TestWhatIsNotThereIsRefused(t *testing.T) {
	_, err := Open([]string{filepath.Join(t.TempDir(), "missing.txtar")}, "")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestEventsThatConcernNothingAreLeft(t *testing.T) {
	for name, c := range map[string]struct {
		event    fsnotify.Event
		concerns bool
	}{
		"a scenario":        {fsnotify.Event{Name: "a/b.txtar", Op: fsnotify.Write}, true},
		"a header":          {fsnotify.Event{Name: "bpf/lib/b.h", Op: fsnotify.Rename}, true},
		"a folder":          {fsnotify.Event{Name: "bpf/new", Op: fsnotify.Create}, true},
		"times and modes":   {fsnotify.Event{Name: "a/b.txtar", Op: fsnotify.Chmod}, false},
		"an object":         {fsnotify.Event{Name: "bpf/a_bpfel.o", Op: fsnotify.Write}, false},
		"an editor's own":   {fsnotify.Event{Name: "a/.b.txtar", Op: fsnotify.Create}, false},
		"a file of no kind": {fsnotify.Event{Name: "a/4913", Op: fsnotify.Write}, false},
	} {
		require.Equal(t, c.concerns, concerns(c.event), name)
	}
}
