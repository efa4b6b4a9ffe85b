// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChangedLinesAreReadOfADiff(t *testing.T) {
	changed := readDiff(`diff --git a/lib/flow.h b/lib/flow.h
--- a/lib/flow.h
+++ b/lib/flow.h
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
		require.True(t, changed("lib/flow.h", line), line)
	}
	for _, line := range []int{2, 4, 10, 14, 21, 22, 7} {
		require.False(t, changed("lib/flow.h", line), line)
	}
	require.True(t, changed("host.bpf.c", 7))
}
