// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios/mutate"
)

func TestChangedLinesAreReadOfADiff(t *testing.T) {
	changed := readDiff(`diff --git a/lib/conntrack.h b/lib/conntrack.h
--- a/lib/conntrack.h
+++ b/lib/conntrack.h
@@ -3 +3 @@ struct flow {
-	old
+	new
@@ -10,2 +11,3 @@
+	a
+	b
+	c
@@ -20,2 +22,0 @@
-	gone
-	too
diff --git a/host.bpf.c b/host.bpf.c
--- a/host.bpf.c
+++ b/host.bpf.c
@@ -0,0 +7 @@
+	new
`)
	for _, line := range []int{3, 11, 12, 13} {
		require.True(t, changed("lib/conntrack.h", line), line)
	}
	for _, line := range []int{2, 4, 10, 14, 21, 22, 7} {
		require.False(t, changed("lib/conntrack.h", line), line)
	}
	require.True(t, changed("host.bpf.c", 7))
}

func TestSurvivorsThatFailARun(t *testing.T) {
	for _, c := range []struct {
		name, changed string
		result        mutate.Result
		fails         bool
	}{
		{"one in no list", "", mutate.Result{Outcome: mutate.Survived}, true},
		{"a known one", "", mutate.Result{Outcome: mutate.Known}, false},
		{"an equivalent one", "", mutate.Result{Outcome: mutate.Equivalent}, false},
		{"one in a line that has changed", "main", mutate.Result{Outcome: mutate.Survived, Changed: true}, true},
		{"one in another line", "main", mutate.Result{Outcome: mutate.Survived}, false},
		{"a known one in a line that has changed", "main", mutate.Result{Outcome: mutate.Known, Changed: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := mutating{changed: c.changed}
			require.Equal(t, c.fails, o.fails(&mutate.Report{Results: []mutate.Result{{Outcome: mutate.Killed, Changed: true}, c.result}}))
		})
	}
}

func TestListsOfMutantsThatAreNotThere(t *testing.T) {
	for _, flag := range []string{"--equivalents", "--survivors"} {
		_, stderr, code := weirIn("mutate", flag, "no-such-list")
		require.Contains(t, stderr, "read a list of mutants: open no-such-list")
		require.Equal(t, exitFailed, code)
	}
}

func TestMutantsThatThereAreNot(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		dir  string
		says string
	}{
		{"by a name", []string{"--only", "nope"}, "", "--only nope: no mutant's FILE:LINE or ID contains it: the files are container.bpf.c, "},
		{"by two names, of which one is none", []string{"--only", "lib/packet.h,nope"}, "", "--only lib/packet.h,nope: no mutant's FILE:LINE or ID contains nope: leave it out, or correct it"},
		{"by two names", []string{"--only", "nope,neither"}, "", "--only nope,neither: no mutant's FILE:LINE or ID contains it"},
		{"by a name, of a sample", []string{"--only", "nope", "--sample", "5"}, "", "--only nope: no mutant's"},
		{"by no name", []string{"--only", ""}, "", "--only: it is empty: name a part of FILE:LINE or of an ID"},
		{"by a name after a comma", []string{"--only", "lib/conntrack.h,"}, "", "--only: it is empty"},
		{"in a sample of none", []string{"--sample", "0"}, "", "--sample 0: nothing would be judged: take 1 or more"},
		{"in a search of no time", []string{"--fuzz", "-1s"}, "", "--fuzz -1s: it is no time to search in"},
		{"by tests of Go, of programs", []string{"--tests", "./model"}, "", "--tests judges errors in Go, and --go is not given"},
		{"since a revision, outside of a checkout", []string{"--changed", "HEAD"}, "", "--changed HEAD: look for the source in bpf: stat bpf: no such file or directory: run it at the root of a checkout"},
		{"since no revision", []string{"--changed", "no-such"}, "../..", "--changed no-such: ask git for the changed lines"},
		{"in Go, by a name", []string{"--go", "../../model", "--only", "nope"}, "", "--only nope: no mutant's FILE:LINE or ID contains it: the files are model/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.dir != "" {
				t.Chdir(c.dir)
			}
			stdout, stderr, code := weirIn(append([]string{"mutate"}, c.args...)...)
			require.Contains(t, stderr, c.says)
			require.Empty(t, stdout)
			require.Equal(t, exitUsage, code)
		})
	}
}
