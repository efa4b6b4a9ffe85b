// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"scenario":"a/ipv4","world":"prog","kernel":"5.10.1","result":"pass","seconds":0.1}`),
		[]byte(`{"scenario":"a/ipv4","world":"prog","kernel":"5.10.1","outputs":[{"frame":"AAAA"}]}`),
		[]byte(`{"kernel":"5.10.1","program":"to_container","verified":100}`))
	f.Add([]byte(`{"kernel":"7"}{"kernel":"6..1"}`), []byte(`{}`), []byte(`{"verified":-1}`))
	f.Add([]byte(`null null`), []byte(`null`), []byte(`[`))
	f.Fuzz(func(t *testing.T, results, outputs, costs []byte) {
		dir := t.TempDir()
		for name, text := range map[string][]byte{resultsFile: results, outputsFile: outputs, costsFile: costs} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
		}
		k, err := Read(dir)
		if err != nil {
			require.ErrorContains(t, err, dir, "it says which report")
			return
		}
		c := Compare(k, k)
		require.False(t, c.Worse())
		require.Empty(t, c.Only, "a report has what it has")
		var out bytes.Buffer
		(&Text{Out: &out}).Changes(c, "A", "B")
		require.NoError(t, c.JSON(&out))
		for _, kernel := range releases(k.results) {
			_, err := Read(dir + "@" + version(kernel))
			if kernel != "" {
				require.NoError(t, err)
			}
		}
	})
}
