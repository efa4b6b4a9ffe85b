// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func FuzzParse(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}\n")
	f.Add("---\n---\n{}\n")
	f.Add(`{"kind":"List","items":[{"kind":"Pod"},1,null]}`)
	f.Add("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{from: [{}], ports: [{port: 0}]}]}")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		objs, err := manifest.Parse("fuzz.yaml", strings.NewReader(text))
		if err != nil {
			var place *manifest.ParseError
			require.ErrorAs(t, err, &place)
			require.Positive(t, place.Line)
			return
		}
		// What parses, compiles or is refused with a reason.
		state, _, err := All(manifest.DeriveEndpointSlices(objs), "node", model.Local{})
		require.True(t, (state == nil) == (err != nil))
	})
}
