// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/weirnet/weir/"

// arrows are the folders that a folder's packages may import, beside their own.
var arrows = map[string][]string{
	"bpf":       {},
	"model":     {},
	"pcap":      {},
	"vmtest":    {},
	"datapath":  {"bpf", "model"},
	"lab":       {"bpf", "datapath", "model"},
	"scenarios": {"bpf", "datapath", "lab", "model", "pcap", "vmtest"},
	"replay":    {"datapath", "lab", "model", "pcap", "scenarios"},
	"record":    {"datapath", "lab", "model", "pcap", "scenarios"},
	"policy":    {"datapath", "lab", "model", "pcap", "replay"},
	"agent":     {"datapath", "model"},
	"cmd":       {"agent", "bpf", "datapath", "lab", "model", "pcap", "policy", "record", "replay", "scenarios", "vmtest"},
}

// inTests are those that their tests may import too: the agent is tried in worlds,
// and what a live cluster is asked is what its agents say.
var inTests = map[string][]string{"agent": {"lab"}, "lab": {"agent"}}

// rooms are the packages of model that each of them may import. Compiler and oracle
// share data alone: one would not show the other's errors otherwise.
var rooms = map[string][]string{
	"model":           {},
	"model/manifest":  {"model"},
	"model/compile":   {"model", "model/manifest"},
	"model/oracle":    {"model", "model/manifest"},
	"model/policygen": {"model", "model/manifest"},
}

// importsOf are those of this module's packages, and those of their tests: what
// is ours alone.
func importsOf(t *testing.T) (code, tests map[string][]string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...").Output()
	require.NoError(t, err)
	code, tests = map[string][]string{}, map[string][]string{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := decoder.Decode(&p); err == io.EOF {
			return code, tests
		} else {
			require.NoError(t, err)
		}
		from := strings.TrimPrefix(p.ImportPath, module)
		code[from] = ours(p.Imports)
		tests[from] = ours(slices.Concat(p.TestImports, p.XTestImports))
	}
}

func ours(names []string) []string {
	var found []string
	for _, name := range names {
		if rest, is := strings.CutPrefix(name, module); is {
			found = append(found, rest)
		}
	}
	return found
}

// forbidden tells the imports against the arrows, but for some that are allowed, and
// those between the rooms of model.
func forbidden(imports, also, rooms map[string][]string) []string {
	var all []string
	folder := func(name string) string { first, _, _ := strings.Cut(name, "/"); return first }
	for from, names := range imports {
		allowed, known := arrows[folder(from)]
		room, isRoom := rooms[from]
		for _, to := range names {
			if isRoom && folder(to) == "model" && !slices.Contains(room, to) {
				all = append(all, fmt.Sprintf("%s imports %s", from, to))
			}
			if !known || folder(to) != folder(from) && !slices.Contains(slices.Concat(allowed, also[folder(from)]), folder(to)) {
				all = append(all, fmt.Sprintf("%s imports %s", from, to))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestArrowsPointDownOnly(t *testing.T) {
	code, tests := importsOf(t)
	require.Contains(t, code, "cmd/weir")
	require.Empty(t, forbidden(code, nil, rooms))
	for room := range rooms {
		require.Contains(t, code, room)
	}
	require.Empty(t, forbidden(tests, inTests, nil), "tests of model may compare its packages")

	// One that is planted is found.
	code["model/oracle"] = append(code["model/oracle"], "datapath", "model/compile")
	code["model/compile"] = append(code["model/compile"], "model/oracle")
	require.Equal(t, []string{
		"model/compile imports model/oracle", "model/oracle imports datapath", "model/oracle imports model/compile",
	}, forbidden(code, nil, rooms))
}
