// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// program builds a program of one line.
func program(t *testing.T, static bool) string {
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	body := "package main\n\nfunc main() {}\n"
	cgo := "0"
	if !static {
		body, cgo = "package main\n\nimport \"C\"\n\nfunc main() {}\n", "1"
	}
	require.NoError(t, os.WriteFile(source, []byte(body), 0o644))
	path := filepath.Join(dir, "program")
	build := exec.Command("go", "build", "-o", path, source)
	build.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

func TestImageIsTheSameFileTwice(t *testing.T) {
	path, dir := program(t, true), t.TempDir()
	var files [2][]byte
	for i := range files {
		image, err := NewImage(path)
		require.NoError(t, err)
		archive := filepath.Join(dir, "image.tar")
		require.NoError(t, image.WriteFile(archive, DefaultImage))
		files[i], err = os.ReadFile(archive)
		require.NoError(t, err)
	}
	require.Equal(t, files[0], files[1])

	read, err := tarball.ImageFromPath(filepath.Join(dir, "image.tar"), nil)
	require.NoError(t, err)
	config, err := read.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, []string{"/weir"}, config.Config.Entrypoint)
	require.Len(t, config.RootFS.DiffIDs, 1)
	require.True(t, config.Created.IsZero())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing but the archive is left")
}

func TestImageOfAProgramWithLibrariesIsRefused(t *testing.T) {
	_, err := NewImage(program(t, false))
	require.ErrorIs(t, err, ErrNotStatic)
}

func TestImageNeedsAName(t *testing.T) {
	image, err := NewImage(program(t, true))
	require.NoError(t, err)
	require.ErrorContains(t, image.WriteFile(filepath.Join(t.TempDir(), "x.tar"), "Not a name"), "give one like weir:dev")
}
