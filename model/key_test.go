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
		`{"Pod":"default/web-0","Service":"default/web:http"}`: {Key{Namespace: "default", Name: "web-0"}, PortRef{"default", "web", "http"}},
		`{"Pod":"node-a","Service":"shop/a.b:80"}`:             {Key{Name: "node-a"}, PortRef{"shop", "a.b", "80"}},
		`{"Pod":"shop/db@7","Service":""}`:                     {Pod: Key{Cluster: 7, Namespace: "shop", Name: "db"}},
		`{"Pod":"ExternalWorkload shop/db","Service":""}`:      {Pod: Key{Kind: OwnerExternalWorkload, Namespace: "shop", Name: "db"}},
		`{"Pod":"ExternalWorkload shop/db@255","Service":""}`:  {Pod: Key{Kind: OwnerExternalWorkload, Cluster: 255, Namespace: "shop", Name: "db"}},
		`{"Pod":"ifindex 7","Service":""}`:                     {Pod: Key{Name: "ifindex 7"}},
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
	keys := []Key{
		{Name: "node"}, {Namespace: "a", Name: "a"}, {Namespace: "a", Name: "b"}, {Namespace: "a-b", Name: "a"},
		{Namespace: "a-b", Name: "z"}, {Namespace: "ab", Name: "a"}, {Namespace: "b", Name: "a"},
	}
	for _, a := range keys {
		for _, b := range keys {
			require.Equal(t, strings.Compare(a.String(), b.String()), a.Compare(b), "%s and %s", a, b)
		}
		for _, other := range []Key{{Cluster: 1}, {Kind: OwnerExternalWorkload}} {
			require.Negative(t, a.Compare(other), "this cluster's pods are the first")
			require.Positive(t, other.Compare(a))
		}
	}
}

func TestOwnersAreToldApart(t *testing.T) {
	var all []Key
	for _, kind := range []OwnerKind{OwnerPod, OwnerExternalWorkload} {
		for _, cluster := range []uint8{0, 1, 255} {
			all = append(all, Key{Kind: kind, Cluster: cluster, Namespace: "shop", Name: "db"})
		}
	}
	texts, refs := map[string]bool{}, map[string]bool{}
	for _, key := range all {
		require.Equal(t, key, ParseKey(key.String()))
		require.Equal(t, key, key.Ref().Owner())
		texts[key.String()], refs[key.Ref().String()] = true, true
	}
	require.Len(t, texts, len(all))
	require.Len(t, refs, len(all))
}
