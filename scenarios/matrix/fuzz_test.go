// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzWatcher(f *testing.F) {
	f.Add([]byte("[1] weir: begin prog a/ipv4\n[2] weir: end prog a/ipv4\r\n[3] BUG\n[4] weir: begin prog b/ipv6\n"), 30, "BUG")
	f.Add([]byte("weir: begin weir: end x\n\nweir: end \n"), 3, "")
	f.Fuzz(func(t *testing.T, log []byte, at int, title string) {
		whole, torn := newWatcher(make(chan struct{}, 1)), newWatcher(make(chan struct{}, 1))
		_, err := whole.Write(log)
		require.NoError(t, err)
		at = max(0, min(at, len(log)))
		for _, part := range [][]byte{log[:at], log[at:]} {
			n, err := torn.Write(part)
			require.NoError(t, err)
			require.Equal(t, len(part), n)
		}
		require.Equal(t, whole.trail, torn.trail, "however it comes")
		require.Equal(t, whole.ended, torn.ended)
		if culprit := blame(string(log), title); culprit != "" {
			require.Contains(t, string(log), culprit)
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"result":{"scenario":"a/ipv4","world":"prog","result":"pass"}}{"done":true}`))
	f.Add([]byte(`{"result":{"scenario":"a/ipv4","result":"fail"},"failure":{},"outputs":[{"frame":"AAAA"}]}` + "\nsegmentation fault\n{}"))
	f.Add([]byte(`{"costs":[{}],"problem":"left behind"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		messages := make(chan message)
		in := bytes.NewReader(text)
		go decode(in, messages)
		for m := range messages {
			if m.Result != nil {
				require.Equal(t, m.Result.Scenario, m.result().Scenario)
			}
		}
		require.Zero(t, in.Len(), "all is read, so that the guest is not kept waiting")
	})
}
