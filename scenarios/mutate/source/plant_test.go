// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios/mutate/source"
)

// program has a function for each kind of error, and says what each gives.
const program = `package main

import (
	"fmt"
	"net/netip"
	"strings"
)

type verdict int

const (
	pass verdict = iota
	drop
)

type tuple struct{ Src, Dst string }

func compare(a, b int) bool { return a < b }

func both(a, b int) string {
	if a > 0 &&
		b > 0 { // on two lines
		return "both"
	}
	return "not both"
}

func judge(protocol string) verdict {
	switch protocol {
	case "TCP":
		return pass
	}
	return drop
}

func count(all []string) int {
	n := 0
	for range all {
		n++
	}
	return n
}

func reply(t tuple) tuple { return tuple{Src: t.Dst, Dst: "x"} }

func tell(a, b string) string { return strings.TrimPrefix(a, b) }

func family(a netip.Addr) bool { return a.Is4() }

func width() uint8 { return 32 }

func find(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("find %s: nothing", "x")
	}
	return name + "!", nil
}

func twice(n int) int { return n * 0 }

func main() {
	fmt.Println(compare(1, 2), compare(2, 2), both(1, 0), both(1, 1), judge("TCP"), judge("UDP"), count([]string{"a", "b"}),
		reply(tuple{"a", "b"}), tell("ab", "a"), family(netip.MustParseAddr("1.1.1.1")), width(), twice(3))
	fmt.Println(find("x"))
	fmt.Println(find(""))
}
`

const plain = `true false not both both 0 1 2 {b x} b true 32 0
x! <nil>
 find x: nothing
`

// module writes a module with the program and package planted.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	switched, err := os.ReadFile(filepath.Join("..", "planted", "planted.go"))
	require.NoError(t, err)
	files["go.mod"] = "module example.test/m\n\ngo 1.26\n"
	files["scenarios/mutate/planted/planted.go"] = string(switched)
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

func TestErrorsActAloneAndNoneActsUnasked(t *testing.T) {
	dir := module(t, map[string]string{"main.go": program})
	code, err := source.Load(t.Context(), dir, []string{"."})
	require.NoError(t, err)
	all := code.Plant()
	overlay, err := code.NewOverlay(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, overlay.Check(t.Context()))
	binary := filepath.Join(t.TempDir(), "program")
	out, err := overlay.Go(t.Context(), "build", "-o", binary, ".")
	require.NoError(t, err, out)

	numbers := map[int]bool{}
	for _, m := range all {
		numbers[m.Number] = true
	}
	require.Len(t, numbers, len(all), "each error has a number of its own")
	require.Equal(t, plain, run(t, binary, ""), "none acts")

	for _, c := range []struct {
		kind          source.Kind
		before, after string
		line          int // of the output
		says          string
	}{
		{source.Round, "a < b", "a >= b", 0, "false true not both both 0 1 2 {b x} b true 32 0"},
		{source.Bound, "a < b", "a <= b", 0, "true true not both both 0 1 2 {b x} b true 32 0"},
		{source.Always, "a > 0 && b > 0", "true", 0, "true false both both 0 1 2 {b x} b true 32 0"},
		{source.Never, "a > 0 && b > 0", "false", 0, "true false not both not both 0 1 2 {b x} b true 32 0"},
		{source.Part, "b > 0", "true", 0, "true false both both 0 1 2 {b x} b true 32 0"},
		{source.Logic, "a > 0 && b > 0", "a > 0 || b > 0", 0, "true false both both 0 1 2 {b x} b true 32 0"},
		{source.Never, `case "TCP"`, "case that is never so", 0, "true false not both both 1 1 2 {b x} b true 32 0"},
		{source.Constant, "pass", "drop", 0, "true false not both both 1 1 2 {b x} b true 32 0"},
		{source.Statement, "n++", "", 0, "true false not both both 0 1 0 {b x} b true 32 0"},
		{source.Operator, "n++", "n--", 0, "true false not both both 0 1 -2 {b x} b true 32 0"},
		{source.Confused, "t.Dst", "t.Src", 0, "true false not both both 0 1 2 {a x} b true 32 0"},
		{source.Arguments, "strings.TrimPrefix(a, b)", "strings.TrimPrefix(b, a)", 0, "true false not both both 0 1 2 {b x} a true 32 0"},
		{source.Family, "a.Is4()", "a.Is6()", 0, "true false not both both 0 1 2 {b x} b false 32 0"},
		{source.Family, "32", "128", 0, "true false not both both 0 1 2 {b x} b true 128 0"},
		{source.Zero, `return name + "!", nil`, "return *new(string), nil", 1, " <nil>"},
		{source.Zero, `return "", fmt.Errorf("find %s: nothing", "x")`, `return "", nil`, 2, " <nil>"},
	} {
		t.Run(string(c.kind)+" "+c.before, func(t *testing.T) {
			at := slices.IndexFunc(all, func(m *source.Mutant) bool {
				return m.Kind == c.kind && m.Before == c.before && m.After == c.after
			})
			require.GreaterOrEqual(t, at, 0, "it is planted; there are:\n%s", list(all))
			want := strings.Split(plain, "\n")
			want[c.line] = c.says
			require.Equal(t, strings.Join(want, "\n"), run(t, binary, fmt.Sprint(all[at].Number)))
		})
	}
	t.Run("what the compiler refuses is dropped", func(t *testing.T) {
		at := slices.IndexFunc(all, func(m *source.Mutant) bool { return m.After == "n / 0" })
		require.GreaterOrEqual(t, at, 0)
		require.True(t, overlay.Dropped(all[at].Number))
	})
	t.Run("what a message says is left alone", func(t *testing.T) {
		require.False(t, slices.ContainsFunc(all, func(m *source.Mutant) bool { return strings.HasPrefix(m.Before, "fmt.Errorf") }))
	})
}

func run(t *testing.T, binary, acting string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), "WEIR_PLANTED="+acting)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

func list(all []*source.Mutant) string {
	var out strings.Builder
	for _, m := range all {
		fmt.Fprintf(&out, "%s:%d %s: %s => %s\n", m.File, m.Line, m.Kind, m.Before, m.After)
	}
	return out.String()
}

func TestPlacesAreWhereTheSourceHasThem(t *testing.T) {
	dir := module(t, map[string]string{"main.go": program})
	code, err := source.Load(t.Context(), dir, []string{"."})
	require.NoError(t, err)
	ids := map[string]bool{}
	lines := strings.Split(program, "\n")
	for _, m := range code.Plant() {
		require.Equal(t, strings.TrimSpace(lines[m.Line-1]), m.Text)
		require.Equal(t, "main.go", m.File)
		require.False(t, ids[m.ID], "two errors are called %s", m.ID)
		ids[m.ID] = true
	}
	require.True(t, ids["main.compare+1:bound"])
}

func TestPatternsThatNameNothing(t *testing.T) {
	dir := module(t, map[string]string{"main.go": program})
	_, err := source.Load(t.Context(), dir, []string{"./nowhere/..."})
	require.ErrorIs(t, err, source.ErrNothing)
	_, err = source.Load(t.Context(), dir, []string{"fmt"})
	require.ErrorContains(t, err, "plant errors in fmt: it is not of this module")
	_, err = source.Load(t.Context(), dir, []string{"./nowhere"})
	require.ErrorIs(t, err, source.ErrNothing)
}
