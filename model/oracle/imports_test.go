// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"go/types"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

const module = "github.com/weirnet/weir/"

// An oracle that shared code with what it judges would share its errors. The
// data is common; what is done with it is not.
func TestTheOracleSharesNoCodeWithTheCompilerOrTheDatapath(t *testing.T) {
	loaded, err := packages.Load(&packages.Config{Mode: packages.LoadSyntax}, ".")
	require.NoError(t, err)
	require.Len(t, loaded, 1)
	pkg := loaded[0]
	require.Empty(t, pkg.Errors)
	for path := range pkg.Imports {
		if strings.HasPrefix(path, module) {
			require.Contains(t, []string{module + "model", module + "model/manifest"}, path, "data is all that may be imported")
		}
	}
	used := 0
	for at, obj := range pkg.TypesInfo.Uses {
		if obj.Pkg() == nil || !strings.HasPrefix(obj.Pkg().Path(), module+"model") || obj.Pkg() == pkg.Types {
			continue
		}
		used++
		file := filepath.Base(pkg.Fset.Position(obj.Pos()).Filename)
		require.False(t, compiles(file), "%s uses %s, which %s declares", pkg.Fset.Position(at.Pos()), obj.Name(), file)
		if f, ok := obj.(*types.Func); ok {
			require.Contains(t, plain, f.Name(), "%s calls a function of package model that is not known to be plain data's", pkg.Fset.Position(at.Pos()))
		}
	}
	require.Greater(t, used, 500, "the types were not resolved")
}

// compiles is whether a file of package manifest makes objects of objects, as the
// compiler needs them.
func compiles(file string) bool {
	for _, prefix := range []string{"slices", "isolate"} {
		if strings.HasPrefix(file, prefix) {
			return true
		}
	}
	return false
}

// plain are the functions that say something of data and decide nothing.
var plain = []string{"String", "Reversed", "NewObjects", "IsZero", "Object", "Denies", "Key", "ParseKey", "Ref"}
