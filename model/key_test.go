// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamesAreWrittenAndReadAsText(t *testing.T) {
	type names struct {
		Pod     Key
		Service PortRef
	}
	for text, want := range map[string]names{
		`{"Pod":"default/web-0","Service":"default/web:http"}`: {Key{"default", "web-0"}, PortRef{"default", "web", "http"}},
		`{"Pod":"node-a","Service":"shop/a.b:80"}`:             {Key{"", "node-a"}, PortRef{"shop", "a.b", "80"}},
		`{"Pod":"","Service":""}`:                              {},
	} {
		var read names
		require.NoError(t, json.Unmarshal([]byte(text), &read))
		require.Equal(t, want, read)
		written, err := json.Marshal(want)
		require.NoError(t, err)
		require.Equal(t, text, string(written))
		require.Equal(t, want == names{}, read.Pod.IsZero() && read.Service.IsZero())
	}
}

func TestKeysAreOrderedAsTheirTextsAre(t *testing.T) {
	keys := []Key{{"", "node"}, {"a", "a"}, {"a", "b"}, {"a-b", "a"}, {"a-b", "z"}, {"ab", "a"}}
	for _, a := range keys {
		for _, b := range keys {
			require.Equal(t, strings.Compare(a.String(), b.String()), a.Compare(b), "%s and %s", a, b)
		}
	}
}
