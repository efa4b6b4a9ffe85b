// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommentsAndBlanksAreNoCode(t *testing.T) {
	for name, c := range map[string]struct{ text, code string }{
		"a comment of a line":          {"a(); // b\nc();", "1 a();|2 c();"},
		"one of several":               {"a(); /* b\n * c\n */ d();\n\te();", "1 a();|3 d();|4 e();"},
		"one that never ends":          {"a();\n/* b\nc();", "1 a();"},
		"blanks":                       {"\n\n\ta  =\t1;\n", "3 a = 1;"},
		"a string is none":             {`a("// /* b"); c('"'); // d`, `1 a("// /* b"); c('"');`},
		"a quote in a string":          {`a("\"//"); /**/ b();`, `1 a("\"//"); b();`},
		"an apostrophe, in a comment":  {"/* it's */ a();\nb();", "1 a();|2 b();"},
		"a division":                   {"a = b / c;", "1 a = b / c;"},
		"what is short and no comment": {"/", "1 /"},
		"a comment's shortest":         {"/*/ a */ b", "1 b"},
	} {
		var got []string
		for _, l := range codeOf(c.text) {
			got = append(got, fmt.Sprintf("%d %s", l.number, l.text))
		}
		require.Equal(t, c.code, strings.Join(got, "|"), name)
	}
}

// described are hunks as FIRST-LAST:old lines that they replace, or after a line.
func described(hunks []hunk) string {
	var all []string
	for _, h := range hunks {
		text := fmt.Sprintf("%d-%d after %d", h.first, h.last, h.after)
		for _, l := range h.old {
			text += fmt.Sprintf(" -%d", l.number)
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func TestTextsAreComparedByTheirCode(t *testing.T) {
	const before = "a\nb\n\nc\nd\n"
	for name, c := range map[string]struct{ now, hunks string }{
		"nothing":             {before, ""},
		"a comment":           {"// e\na\nb\nc // f\nd", ""},
		"another line":        {"a\nx\n\nc\nd\n", "2-2 after 1 -2"},
		"several lines":       {"a\nx\ny\nd\n", "2-3 after 1 -2 -4"},
		"a new one":           {"a\nb\nx\nc\nd", "3-3 after 2"},
		"a new first one":     {"x\na\nb\nc\nd", "1-1 after 0"},
		"one is gone":         {"a\nc\nd", "1-1 after 1 -2"},
		"the first is gone":   {"b\nc\nd", "1-1 after 0 -1"},
		"all are gone":        {"", "1-1 after 0 -1 -2 -4 -5"},
		"at two places":       {"x\nb\nc\ny", "1-1 after 0 -1; 4-4 after 4 -5"},
		"one that was double": {"a\nb\nb\nc\nd", "3-3 after 2"},
	} {
		hunks, _ := compare(before, c.now)
		require.Equal(t, c.hunks, described(hunks), name)
	}
	_, stayed := compare(before, "// e\na\nx\n\nc\nd")
	require.Equal(t, map[int]int{1: 2, 4: 5, 5: 6}, stayed)
}

const functions = `#define ROOM 5

static int first(int a)
{
	int b;

	if (a)
		return 1;
	return 0;
}

struct thing {
	int a;
};

static int second(void)
{
	return 2;
}
`

func TestFunctionsAreFoundByTheirBraces(t *testing.T) {
	require.Equal(t, []span{{4, 10}, {17, 19}}, bodies(functions))
}

func TestWhatChangedIsTheFunctionsWhereItHasNoInstructions(t *testing.T) {
	code := map[int]bool{7: true, 8: true, 9: true, 18: true}
	has := func(_ string, line int) bool { return code[line] }
	for name, c := range map[string]struct {
		old, now string
		lines    []int
		beyond   bool
	}{
		"a line with instructions":      {"\treturn 0;", "\treturn 3;", []int{9}, false},
		"a declaration of the function": {"int b;", "long b;", []int{7, 8, 9}, false},
		"a new line":                    {"\tif (a)\n", "\ta++;\n\tif (a)\n", []int{7, 8, 9}, false},
		"a new last line":               {"\treturn 2;\n", "\treturn 2;\n\tfor (;;);\n", []int{18}, false},
		"a constant":                    {"ROOM 5", "ROOM 6", nil, true},
		"a type":                        {"\tint a;", "\tlong a;", nil, true},
		"a function's head":             {"first(int", "first(long", nil, true},
		"a line and a type":             {"\treturn 0;\n}\n\nstruct thing {", "\treturn 3;\n}\n\nstruct thong {", []int{9}, true},
		"a function that is gone":       {"static int second(void)\n{\n\treturn 2;\n}\n", "", []int{18}, true},
	} {
		require.Contains(t, functions, c.old, name)
		edits := editsOf(Source{"a.h": functions}, Source{"a.h": strings.Replace(functions, c.old, c.now, 1)})
		require.Len(t, edits, 1, name)
		lines, beyond := edits[0].lines(has)
		want := map[int]bool{}
		for _, l := range c.lines {
			want[l] = true
		}
		require.Equal(t, want, lines, name)
		require.Equal(t, c.beyond, beyond, name)
	}
}

func TestAnEditIsCalledByItsLinesAsTheyAreNow(t *testing.T) {
	e := edit{file: "lib/a.h", hunks: []hunk{{first: 3, last: 3}, {first: 7, last: 9}}}
	require.Equal(t, "lib/a.h:3,7-9", e.String())
	e.hunks = append(e.hunks, e.hunks...)
	e.hunks = append(e.hunks, e.hunks...)
	require.Equal(t, "lib/a.h:3,7-9,3,7-9,and 4 places more", e.String())
}
