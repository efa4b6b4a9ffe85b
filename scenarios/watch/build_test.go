// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
)

// compiler builds in this tree.
func compiler(t *testing.T) *Compiler {
	t.Helper()
	if _, err := exec.LookPath("clang-19"); err != nil {
		t.Skip("clang-19 is not here: 'make deps' installs it")
	}
	return NewCompiler("../..", "bpf")
}

// embedded is the build of this binary, and a copy of its source to be changed.
func embedded(t *testing.T) (*Build, Source) {
	t.Helper()
	b, err := Embedded()
	require.NoError(t, err)
	return b, maps.Clone(b.Source)
}

// change replaces a text that a file has once.
func (s Source) change(t *testing.T, file, before, now string) {
	t.Helper()
	require.Equal(t, 1, strings.Count(s[file], before), "%s has %q once", file, before)
	s[file] = strings.Replace(s[file], before, now, 1)
}

func TestABuildIsThatOfMakeGenerate(t *testing.T) {
	c := compiler(t)
	before, source := embedded(t)
	b, err := c.Build(t.Context(), source)
	require.NoError(t, err)
	require.Equal(t, bpf.ContainerObject(), b.Files.Container)
	require.Equal(t, bpf.HostObject(), b.Files.Host)
	require.Equal(t, bpf.SocketObject(), b.Files.Socket)
	require.Empty(t, b.Changed(before))
}

func TestABuildSaysWhatIsWrongInTheWordsOfTheCompiler(t *testing.T) {
	c := compiler(t)
	_, source := embedded(t)
	source["lib/packet.h"] = "int broken(\n" + source["lib/packet.h"]
	_, err := c.Build(t.Context(), source)
	require.ErrorIs(t, err, ErrCompile)
	require.Regexp(t, `(?m)^(In file included from )?bpf/lib/packet\.h:\d+:`, err.Error())
	require.NotContains(t, err.Error(), os.TempDir())
}

func TestTypesThatThisBinaryDoesNotFillAreRefused(t *testing.T) {
	c := compiler(t)
	_, source := embedded(t)
	source.change(t, "lib/tables.h", "struct settings {", "struct settings {\n\t__u64 added;")
	_, err := c.Build(t.Context(), source)
	require.ErrorIs(t, err, ErrLayout)
	require.ErrorContains(t, err, "make generate build")
}

func TestWithoutACompilerItIsNamed(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bpf"), 0o755))
	text, err := os.ReadFile("../../bpf/bpf.go")
	require.NoError(t, err)
	text = []byte(strings.ReplaceAll(string(text), "-cc clang-19", "-cc no-such-clang"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bpf", "bpf.go"), text, 0o644))
	_, source := embedded(t)
	_, err = NewCompiler(dir, "bpf").Build(t.Context(), source)
	require.ErrorIs(t, err, ErrNoCompiler)
	require.ErrorContains(t, err, "there is no no-such-clang")
}

func TestRecipesThatAreNotUnderstoodAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		"-cc c -strip s Container a.c -O2":                 "lacks -cc, -strip, or NAME SOURCE -- FLAGS",
		"-strip s Container a.c -- -O2":                    "lacks -cc",
		"-cc c -strip s -tags x Container a.c -- -O2":      "option -tags of bpf2go is not known here",
		"-cc c -strip s -target amd64 Container a.c -- -g": "-target amd64 is not known here",
	} {
		_, _, err := parseRecipe(strings.Fields(text))
		require.ErrorContains(t, err, says, text)
	}
	name, r, err := parseRecipe(strings.Fields("-go-package bpf -target bpfel -cc c -strip s -type a -type b Host host.bpf.c -- -O2 -g"))
	require.NoError(t, err)
	require.Equal(t, "Host", name)
	require.Equal(t, recipe{cc: "c", strip: "s", source: "host.bpf.c", flags: []string{"-O2", "-g"}, types: []string{"a", "b"}}, r)
}
