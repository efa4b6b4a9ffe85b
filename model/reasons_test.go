// SPDX-License-Identifier: Apache-2.0

package model

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The datapath's header is the source of the names; the model cannot import it.
func TestReasonsAreThoseOfTheDatapath(t *testing.T) {
	header, err := os.ReadFile("../bpf/lib/reasons.h")
	require.NoError(t, err)
	var wanted []string
	for _, found := range regexp.MustCompile(`(?m)^\tREASON_([A-Z_]+) = \d+,`).FindAllSubmatch(header, -1) {
		name := strings.ReplaceAll(strings.ToLower(string(found[1])), "_", "-")
		if name != "none" && name != "max" {
			wanted = append(wanted, name)
		}
	}
	require.NotEmpty(t, wanted)

	file, err := goparser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	require.NoError(t, err)
	var have []string
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING && literal.Value != `""` {
			name, err := strconv.Unquote(literal.Value)
			require.NoError(t, err)
			have = append(have, name)
		}
		return true
	})
	require.ElementsMatch(t, wanted, have)
}
