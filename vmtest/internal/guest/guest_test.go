// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

func TestInputIsTakenInItsOrderAndEnds(t *testing.T) {
	b := newInbox()
	b.add([]byte("a"))
	b.add([]byte("b"))
	b.add(nil)
	b.add([]byte("after the end"))
	for _, want := range []string{"a", "b"} {
		chunk, ok := b.take()
		require.True(t, ok)
		require.Equal(t, want, string(chunk))
	}
	_, ok := b.take()
	require.False(t, ok)
}

func TestAProgramIsFoundAsShellsDo(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "program"), nil, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "text"), nil, 0o644))
	env := []string{"PATH=/nowhere:" + dir}
	path, err := lookPath("program", env)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "program"), path)
	_, err = lookPath("text", env)
	require.ErrorIs(t, err, os.ErrNotExist)
	path, err = lookPath("./text", env)
	require.NoError(t, err)
	require.Equal(t, "./text", path)
}

func TestAFileReplacesOneAndALinkStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "deep", "file")
	for _, content := range []string{"first", "second"} {
		file := &incomingFile{FileMessage: wire.FileMessage{Path: path, Mode: 0o751, Modified: 1e18}}
		require.NoError(t, file.create())
		_, err := file.f.WriteString(content)
		require.NoError(t, err)
		require.NoError(t, file.finish())
	}
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "second", string(content))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o751), info.Mode())
	require.Equal(t, int64(1e18), info.ModTime().UnixNano())

	link := &incomingFile{FileMessage: wire.FileMessage{Path: filepath.Join(dir, "link"), LinkTo: "deep/file"}}
	require.NoError(t, link.create())
	require.NoError(t, link.create(), "the same link again is fine")
	link.LinkTo = "elsewhere"
	require.Error(t, link.create())
}
