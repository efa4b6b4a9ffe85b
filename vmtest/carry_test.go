// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func carried(files []File, part string) bool {
	return slices.ContainsFunc(files, func(f File) bool { return strings.Contains(f.Path, part) })
}

func TestAProgramBringsItsLibrariesAndItsInterpreter(t *testing.T) {
	path, files, err := Carry("sh")
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(path))
	require.True(t, carried(files, "libc.so"))
	require.True(t, carried(files, "ld-linux"))
	for _, f := range files {
		require.True(t, f.LinkTo != "" || f.Source == f.Path, "everything is where it is here")
	}
}

func TestAScriptBringsItsInterpreter(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	require.NoError(t, os.WriteFile(script, []byte("#!/usr/bin/env sh\ntrue\n"), 0o755))
	_, files, err := Carry(script)
	require.NoError(t, err)
	require.True(t, carried(files, "bin/env"))
	require.True(t, carried(files, "sh"))

	loop := filepath.Join(dir, "loop")
	require.NoError(t, os.WriteFile(loop, []byte("#!"+loop+"\n"), 0o755))
	_, files, err = Carry(loop)
	require.NoError(t, err)
	require.Len(t, files, 1)
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("hello\n"), 0o755))
	_, _, err := Carry(text)
	require.ErrorContains(t, err, "neither an ELF file nor a script")
	_, _, err = Carry("no-such-program")
	require.ErrorContains(t, err, "no-such-program")
}

func TestTheOutputsOfATestAreFoundInItsFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"absolute", []string{"-test.coverprofile=/tmp/c.out", "-test.v"}, []string{"/tmp/c.out"}},
		{"below the output directory", []string{"-test.cpuprofile=cpu.out", "-test.outputdir=/out"}, []string{"/out/cpu.out"}},
		{"below the package", []string{"--test.memprofile", "mem.out"}, []string{"/pkg/mem.out"}},
		{"not the test's own", []string{"-test.run=X", "--", "-test.trace=/x"}, nil},
		{"none", []string{"-test.timeout=10m0s", "-coverprofile=/x"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, testOutputs("/pkg", test.args))
		})
	}
}

func TestAGuestSendsOnlyWhatItWasAskedFor(t *testing.T) {
	patterns := []string{"/out", "/tmp/*.log"}
	for path, want := range map[string]bool{
		"/out":          true,
		"/out/deep/x":   true,
		"/tmp/a.log":    true,
		"/tmp/a.txt":    false,
		"/etc/passwd":   false,
		"/out/../etc/x": false,
		"out/x":         false,
		"/":             false,
		"":              false,
	} {
		require.Equal(t, want, wasAskedFor(path, patterns), path)
	}
}
