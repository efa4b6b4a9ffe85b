// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// FuzzObject reads what anybody may have written into the API: what is
// understood is written again as the same labels.
func FuzzObject(f *testing.F) {
	for _, text := range []string{
		`{"metadata":{"name":"4711"},"spec":{"namespace":"default"}}`,
		`{"metadata":{"name":"256"},"spec":{"namespace":"a","podLabels":{"app":"web"},"namespaceLabels":{"n":""},"serviceAccount":"b"}}`,
		`{"metadata":{"name":"65535"},"spec":{"namespace":"a","ports":[{"name":"dns","protocol":"UDP","port":53},{"name":"dns","protocol":"TCP","port":53}]}}`,
		`{"metadata":{"name":"65536"},"spec":{}}`, `{"metadata":{"name":"0x100"},"spec":{}}`, `{"metadata":{"name":"300"},"spec":[]}`,
		`{"metadata":{"name":"300"},"spec":{"ports":[{"port":-1}]}}`, `{"metadata":{"name":"300"},"spec":{"tenant":"x"}}`, `{}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		object := new(unstructured.Unstructured)
		if object.UnmarshalJSON(append([]byte(nil), data...)) != nil || object.Object == nil {
			return
		}
		number, set, err := fromObject(object)
		if err != nil {
			_, err := toRecord(object)
			require.NoError(t, err, "an informer goes on")
			return
		}
		require.True(t, number.IsShared())
		again, err := toObject(number, set)
		require.NoError(t, err)
		read, back, err := fromObject(again)
		require.NoError(t, err)
		require.Equal(t, number, read)
		require.Equal(t, set.Key(), back.Key())
	})
}
