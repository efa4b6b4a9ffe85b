// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// deb makes a package of some files.
func deb(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var data bytes.Buffer
	zipped := gzip.NewWriter(&data)
	archive := tar.NewWriter(zipped)
	for name, content := range files {
		require.NoError(t, archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(archive, content)
		require.NoError(t, err)
	}
	require.NoError(t, archive.Close())
	require.NoError(t, zipped.Close())
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, member := range []struct {
		name    string
		content []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", []byte("odd")}, {"data.tar.gz", data.Bytes()}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", member.name, 0, 0, 0, 0o100644, len(member.content))
		out.Write(member.content)
		if len(member.content)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func TestAPackageIsRead(t *testing.T) {
	got := make(map[string]string)
	err := readDeb(bytes.NewReader(deb(t, map[string]string{"./boot/config-1": "A=y", "./lib/x": "y"})), func(name string, r io.Reader) error {
		content, err := io.ReadAll(r)
		got[name] = string(content)
		return err
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"boot/config-1": "A=y", "lib/x": "y"}, got)
}

func TestADamagedPackageIsRefused(t *testing.T) {
	whole := deb(t, map[string]string{"./boot/config-1": "A=y"})
	ignore := func(string, io.Reader) error { return nil }
	for name, data := range map[string][]byte{
		"empty":               nil,
		"not a package":       []byte("<html>404</html>"),
		"no data":             whole[:100],
		"truncated data":      whole[:len(whole)-20],
		"damaged header size": append([]byte("!<arch>\n"), bytes.Repeat([]byte("x"), 60)...),
	} {
		t.Run(name, func(t *testing.T) {
			require.Error(t, readDeb(bytes.NewReader(data), ignore))
		})
	}
}

func TestNoFileOfAPackageLeavesTheDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x.deb")
	require.NoError(t, os.WriteFile(file, deb(t, map[string]string{"./lib/modules/../../../../evil.ko": "x", "../../config": "A=y"}), 0o644))
	into := filepath.Join(dir, "into")
	var image []byte
	require.NoError(t, unpackDeb(file, into, &image))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.Contains(t, []string{"x.deb", "into"}, e.Name())
	}
}

func FuzzPackage(f *testing.F) {
	f.Add(deb(f, map[string]string{"./boot/config-1": "A=y"}))
	f.Add([]byte("!<arch>\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		seen := 0
		err := readDeb(bytes.NewReader(data), func(name string, r io.Reader) error {
			require.False(t, filepath.IsAbs(name))
			require.True(t, name == "" || filepath.IsLocal(name), "%q leaves the directory", name)
			seen++
			return nil
		})
		if err == nil && seen == 0 {
			return // a package may be empty
		}
	})
}
