// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// harm is a way in which one may harm another: text of the compiler that stops
// it, and what stands there in its place, where PLANTED is whether this harm is
// asked for.
type harm struct {
	name, file, text, instead string
}

// harms are what could be done to others before claims were ranked.
func harms() []harm {
	const lost = "\tcase first.owner != mine.owner || first.index != b.index:\n"
	return []harm{
		{"claims are won by the order of names", "compile/claim.go",
			"\treturn cmp.Or(cmp.Compare(a.rank, b.rank),",
			"\tif PLANTED {\n\t\treturn cmp.Compare(a.object.GetName(), b.object.GetName())\n\t}\n\treturn cmp.Or(cmp.Compare(a.rank, b.rank),"},
		{"the younger object has the place", "compile/owner.go",
			"\treturn cmp.Or(compareAge(a, b),",
			"\tif PLANTED {\n\t\treturn -compareAge(a, b)\n\t}\n\treturn cmp.Or(compareAge(a, b),"},
		{"an external address is somebody's ClusterIP", "compile/claim.go",
			"\tcase svc != nil && manifest.RefOf(svc) != manifest.RefOf(obj):",
			"\tcase svc != nil && manifest.RefOf(svc) != manifest.RefOf(obj) && !(PLANTED && rank == rankExternalIP):"},
		{"an external address is a pod's", "compile/claim.go",
			"\tcase c.podAt[addr] != nil &&",
			"\tcase c.podAt[addr] != nil && !(PLANTED && rank == rankExternalIP) &&"},
		{"an external address is a node's", "compile/claim.go",
			"\tcase node != nil:",
			"\tcase node != nil && !PLANTED:"},
		{"a claim that is lost takes the whole object", "compile/claim.go",
			lost, "\tcase PLANTED && first.owner != mine.owner:\n\t\tc.fail(b.object, b.field, \"is another's\")\n" + lost},
		{"a host port that is lost takes its pod's network along", "compile/claim.go",
			"\tmine := claim{ownerOf(b.object), b.index, b.field, b.rank}\n\tfirst, taken := c.taken(b)\n",
			"\tmine := claim{ownerOf(b.object), b.index, b.field, b.rank}\n\tfirst, taken := c.taken(b)\n\tif pod, _ := b.object.(*corev1.Pod); PLANTED && taken && pod != nil {\n\t\tdelete(c.local.Devices, manifest.KeyOf(pod))\n\t}\n"},
		{"a host port is at any address that its pod names", "compile/frontend.go",
			"\tcase !addr.IsLoopback() && !slices.Contains(c.self.Addresses, addr):",
			"\tcase !PLANTED && !addr.IsLoopback() && !slices.Contains(c.self.Addresses, addr):"},
		{"a socket that nodes rely on is anybody's", "compile/claim.go",
			"\tif port > 0 {",
			"\tif port > 0 && !PLANTED {"},
		{"a Node vouches for another's address", "compile/owner.go",
			"\tif taken && owner != ownerOf(node) {",
			"\tif taken && owner != ownerOf(node) && !PLANTED {"},
		{"the older Node of two is believed, ready or not", "compile/owner.go",
			"\treturn cmp.Or(cmp.Compare(rank(a), rank(b)),",
			"\tif PLANTED {\n\t\treturn cmp.Or(compareAge(a, b), cmp.Compare(a.Name, b.Name))\n\t}\n\treturn cmp.Or(cmp.Compare(rank(a), rank(b)),"},
		{"a Node's pods are where others' nodes are", "compile/owner.go",
			"!owner.IsZero() && node.Name != c.node {",
			"!owner.IsZero() && node.Name != c.node && !PLANTED {"},
		{"switches that are off are on", "options_allowed.go",
			"\treturn !a.Off && (",
			"\treturn (PLANTED || !a.Off) && ("},
		{"switches are on for all addresses", "options_allowed.go",
			"a.Only == nil || slices.ContainsFunc(",
			"PLANTED || a.Only == nil || slices.ContainsFunc("},
		{"a pod's annotation lifts the cluster's policies", "compile/compile.go",
			"l == lenientToNamespaced && !isClusterwide(p.object)",
			"l == lenientToNamespaced && (PLANTED || !isClusterwide(p.object))"},
		{"what a tenant's policy says of denied packets holds for all", "compile/policy.go",
			"\t\tswitch {\n\t\tcase audited &&",
			"\t\tfor _, other := range c.objs.NetworkPolicies {\n\t\t\tif said, _ := manifest.DeniedOf(other.GetAnnotations(), direction); PLANTED && said != \"\" {\n\t\t\t\tdenied = said\n\t\t\t}\n\t\t}\n\t\tswitch {\n\t\tcase audited &&"},
		{"a pod's label poses as its namespace's", "compile/cilium_peer.go",
			"func isReservedKey(key string) bool {\n",
			"func isReservedKey(key string) bool {\n\tif PLANTED {\n\t\treturn false\n\t}\n"},
	}
}

// plantHarms builds this package's tests on a compiler in which each harm waits
// to be asked for by harmVariable.
func plantHarms(t *testing.T) string {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	const planted = "package %s\n\nimport \"os\"\n\nvar planted = os.Getenv(%q)\n"
	texts := map[string]string{
		"planted.go":         fmt.Sprintf(planted, "model", harmVariable),
		"compile/planted.go": fmt.Sprintf(planted, "compile", harmVariable),
	}
	for _, h := range harms() {
		if texts[h.file] == "" {
			text, err := os.ReadFile(filepath.Join(root, h.file))
			require.NoError(t, err)
			texts[h.file] = string(text)
		}
		require.Equal(t, 1, strings.Count(texts[h.file], h.text), "%s: %s has one %q", h.name, h.file, h.text)
		instead := strings.ReplaceAll(h.instead, "PLANTED", fmt.Sprintf("(planted == %q)", h.name))
		texts[h.file] = strings.Replace(texts[h.file], h.text, instead, 1)
	}
	dir, replace := t.TempDir(), map[string]string{}
	for name, text := range texts {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
		replace[filepath.Join(root, name)] = file
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	program := filepath.Join(dir, "oracle.test")
	out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}

const harmVariable = "WEIR_TEST_HARM"

// Each way to take what is another's, when it is open again, is found by the seeds
// that FuzzNobodyHarmsAnother begins with.
func TestHarmIsFound(t *testing.T) {
	program := plantHarms(t)
	run := func(t *testing.T, name string) (string, error) {
		command := exec.CommandContext(t.Context(), program, "-test.run", "^FuzzNobodyHarmsAnother$", "-test.failfast")
		command.Env = append(os.Environ(), harmVariable+"="+name)
		out, err := command.CombinedOutput()
		return string(out), err
	}
	out, err := run(t, "")
	require.NoError(t, err, "without any harm: %s", out)
	for _, h := range harms() {
		t.Run(h.name, func(t *testing.T) {
			out, err := run(t, h.name)
			require.Error(t, err, "nothing is found:\n%s", out)
			require.Contains(t, out, "--- FAIL: FuzzNobodyHarmsAnother")
			require.NotContains(t, out, "panic: ", "a harm is found by what it does")
		})
	}
}
