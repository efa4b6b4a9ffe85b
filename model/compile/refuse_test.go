// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// What no rule matches is refused only where all that isolate say so, and the
// operator says for those that do not.
func TestADenialIsRefusedWhereAllThatDenySaySo(t *testing.T) {
	const (
		refuse = `, annotations: {weir.net/denied-ingress: refuse}`
		drop   = `, annotations: {weir.net/denied-ingress: drop}`
		other  = `, annotations: {weir.net/denied-egress: refuse}`
		audit  = `, annotations: {weir.net/policy-audit: "true"}`
	)
	for _, tt := range []struct {
		name    string
		options model.Options
		first   string
		second  string
		refused bool
	}{
		{"nobody says", model.Options{}, "", "", false},
		{"both say so", model.Options{}, refuse, refuse, true},
		{"one says so", model.Options{}, refuse, "", false},
		{"one says so, and the other nothing, and the operator does", model.Options{DeniedIngress: model.DenialRefuse}, refuse, "", true},
		{"one says no, and the operator says so", model.Options{DeniedIngress: model.DenialRefuse}, refuse, drop, false},
		{"the operator says so of the other direction", model.Options{DeniedEgress: model.DenialRefuse}, "", "", false},
		{"both say so of the other direction", model.Options{}, other, other, false},
		{"one says so, and the other denies nothing", model.Options{}, refuse, audit, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			policy := func(name, annotations string) string {
				return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + name + annotations + "}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n---\n"
			}
			objs := networkWith(t, policy("one", tt.first)+policy("two", tt.second))
			local := model.Local{Options: tt.options, Devices: map[model.Key]model.Device{model.ParseKey("default/web"): {Name: "veth", Ifindex: 2}}}
			state, _, err := All(objs, "node", local)
			require.NoError(t, err)
			refused := false
			for _, r := range state.RuleSets[0].Rules {
				if r.Direction == model.Ingress {
					require.Equal(t, model.RuleRefuse, r.Action)
					require.Equal(t, model.IdentityUnknown, r.Peer)
					refused = true
				}
			}
			require.Equal(t, tt.refused, refused)
		})
	}
}

func networkWith(t *testing.T, policies string) *manifest.Objects {
	t.Helper()
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default}\nspec: {nodeName: node, containers: [{name: a, image: a}]}\nstatus: {podIPs: [{ip: 10.0.0.10}]}\n---\n"
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: node}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n"
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(node+pod+policies))
	require.NoError(t, err)
	return objs
}

func TestAWrongChoiceOfDenialsNamesThePolicyAndTheField(t *testing.T) {
	_, err := manifest.Parse("policy.yaml", strings.NewReader("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, annotations: {weir.net/denied-egress: reject}}\nspec: {podSelector: {}}\n"))
	require.ErrorContains(t, err, `NetworkPolicy default/web: metadata.annotations[weir.net/denied-egress]: "reject" is not one of drop, refuse`)
	options := model.Options{DeniedEgress: "reject"}
	require.EqualError(t, options.Validate(), "Options: deniedEgress: 'reject' is unknown: use drop or refuse")
}

// What stands in for a policy that is refused keeps what can be read of its choice.
func TestARefusedPolicyKeepsWhatItSaysOfDenials(t *testing.T) {
	objs := networkWith(t, "")
	told := objs.Isolate(model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, []byte(`{"metadata":{"name":"web","annotations":{"weir.net/denied-ingress":"refuse","weir.net/denied-egress":"reject"}},"spec":{"podSelector":{},"ingress":7}}`))
	require.NotEmpty(t, told)
	require.Equal(t, map[string]string{manifest.AnnotationDeniedIngress: "refuse"}, objs.NetworkPolicies["default/web"].Annotations)
}
