// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// What the datapath's tables hold by default: bpf/lib/limits.h.
func defaultBudgets() model.Budgets {
	return model.Budgets{
		model.TableEndpoints: 4096, model.TableIPCache: 65536, model.TableCIDRs: 16384, model.TableServices: 65536, model.TableSlotRows: 262144,
		model.TableBackends: 262144, model.TableMaglev: 2097152, model.TableSources: 65536, model.TableRules: 262144,
	}
}

func repeat(n int, text func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(text(i))
	}
	return b.String()
}

const crowded = `
apiVersion: v1
kind: Namespace
metadata: {name: zzz}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: victim, namespace: default, labels: {app: victim}}
spec: {nodeName: node-1, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tenant, namespace: zzz, labels: {app: tenant}}
spec: {nodeName: node-1, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.1.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: mine, namespace: default}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: mine, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], selector: {app: victim}}
---
`

func crowdedLocal() model.Local {
	return model.Local{Devices: model.DevicesOf(map[string]model.Device{
		"default/victim": {Name: "victim", Ifindex: 1}, "zzz/tenant": {Name: "tenant", Ifindex: 2}, "zzz/other": {Name: "other", Ifindex: 3},
	}), Budgets: defaultBudgets()}
}

// blocks is a policy of namespace zzz with blocks from the first on.
func blocks(name, created, ports string, first, count int) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: zzz%s}\nspec:\n  podSelector: {matchLabels: {app: tenant}}\n  ingress:\n  - ports: [%s]\n    from:\n%s---\n",
		name, created, ports, repeat(count, func(i int) string {
			v := first + i
			return fmt.Sprintf("    - ipBlock: {cidr: 11.%d.%d.%d/31}\n", v>>15&255, v>>7&255, v&127*2)
		}))
}

func serviceWith(name, more, ports, endpoints string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: zzz%s, ports: [%s]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-1, namespace: zzz, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\nendpoints: [%s]\nports: [%s]\n---\n",
		name, more, ports, name, name, endpoints, ports)
}

func numberedPorts(n int) string {
	return repeat(n, func(i int) string { return fmt.Sprintf("{name: p%d, port: %d}, ", i, 1001+2*i) })
}

func addressesFrom(a, n int) string {
	return repeat(n, func(i int) string { return fmt.Sprintf("{addresses: [11.%d.%d.%d]}, ", a, i>>8, i&255) })
}

// settled leaves out what errors name until the others compile.
func settled(t *testing.T, text string, local model.Local) (state *model.State, refused []string) {
	t.Helper()
	objs := manifest.DeriveEndpointSlices(mustParse(t, text))
	for {
		state, _, err := All(objs, "node-1", local)
		if err == nil {
			slices.Sort(refused)
			return state, refused
		}
		joined, ok := err.(interface{ Unwrap() []error })
		require.True(t, ok, err)
		for _, err := range joined.Unwrap() {
			var field *model.FieldError
			require.ErrorAs(t, err, &field)
			_, found := objs.LeaveOut(field.Object)
			require.True(t, found, field.Object)
			refused = append(refused, field.Object.String()+" "+field.Field+" "+strings.SplitN(field.Problem, ",", 2)[0])
		}
	}
}

func TestATenantThatAsksForTooMuchLosesThatAlone(t *testing.T) {
	ports := repeat(100, func(i int) string { return fmt.Sprintf("{port: %d}, ", 1001+2*i) })
	for name, tt := range map[string]struct {
		text    string
		budgets model.Budgets
		refused []string
	}{
		"20,000 blocks": {
			text:    repeat(4, func(i int) string { return blocks(fmt.Sprintf("p%d", i), "", "", 5000*i, 5000) }),
			refused: []string{"NetworkPolicy zzz/p3 spec it needs 5000 entries of table ipcache_cidrs"},
		},
		"3,000 blocks by 100 ports": {
			text:    blocks("p", "", ports, 0, 3000),
			refused: []string{"NetworkPolicy zzz/p spec it needs 300000 entries of table rules"},
		},
		"12,000 blocks by 100 ports": {
			text:    blocks("p", "", ports, 0, 12000),
			refused: []string{"NetworkPolicy zzz/p spec it needs 1200000 entries of table rules"},
		},
		"many policies of one subject": {
			text: repeat(6, func(i int) string { return blocks(fmt.Sprintf("p%d", i), "", ports, 2600*i, 2600) }),
			refused: []string{
				"NetworkPolicy zzz/p1 spec it needs 260000 entries of table rules", "NetworkPolicy zzz/p2 spec it needs 260000 entries of table rules",
				"NetworkPolicy zzz/p3 spec it needs 260000 entries of table rules", "NetworkPolicy zzz/p4 spec it needs 260000 entries of table rules",
				"NetworkPolicy zzz/p5 spec it needs 260000 entries of table rules",
			},
		},
		"blocks with many exceptions": {
			text: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: zzz}\nspec:\n  podSelector: {matchLabels: {app: tenant}}\n  ingress:\n  - from:\n" + repeat(2000, func(i int) string {
				return fmt.Sprintf("    - ipBlock: {cidr: 11.0.0.0/8, except: [11.0.%d.%d/32]}\n", i>>8, i&255)
			}) + "---\n",
			refused: []string{"NetworkPolicy zzz/p spec it needs 1050000 entries of table rules"},
			budgets: model.Budgets{model.TableRules: 262144},
		},
		"100 ports by 3,000 endpoints": {
			text:    serviceWith("s", "}\nspec: {clusterIP: 10.97.0.1", numberedPorts(100), addressesFrom(0, 3000)),
			refused: []string{"Service zzz/s spec.ports it needs 264000 entries of table backends"},
		},
		"100 ports of several addresses by 1,000 endpoints": {
			text:    serviceWith("s", "}\nspec: {externalIPs: [203.0.113.1, 203.0.113.2], clusterIP: 10.97.0.1", numberedPorts(100), addressesFrom(0, 1000)),
			refused: []string{"Service zzz/s spec.ports it needs 300000 entries of table backends"},
		},
		"100 ports by 1,000 addresses": {
			text:    serviceWith("s", "}\nspec: {externalIPs: ["+repeat(1000, func(i int) string { return fmt.Sprintf("203.%d.%d.7, ", i>>8, i&255) })+"], clusterIP: 10.97.0.1", numberedPorts(100), ""),
			refused: []string{"Service zzz/s spec.ports it needs 100100 entries of table services"},
		},
		"130 Maglev tables": {
			text: repeat(130, func(i int) string {
				return serviceWith(fmt.Sprintf("m%03d", i), fmt.Sprintf(", annotations: {weir.net/algorithm: maglev}}\nspec: {clusterIP: 10.97.1.%d", i), numberedPorts(1), addressesFrom(i, 2))
			}),
			refused: []string{"Service zzz/m128 spec.ports it needs 16381 entries of table maglev", "Service zzz/m129 spec.ports it needs 16381 entries of table maglev"},
		},
		"66,000 source ranges": {
			text: "apiVersion: v1\nkind: Service\nmetadata: {name: lb, namespace: zzz}\nspec:\n  type: LoadBalancer\n  clusterIP: 10.97.0.1\n  ports: [{port: 80}]\n  loadBalancerSourceRanges:\n" +
				repeat(66000, func(i int) string { return fmt.Sprintf("  - 11.%d.%d.%d/32\n", i>>16, i>>8&255, i&255) }) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.5}]}}\n---\n",
			refused: []string{"Service zzz/lb spec.loadBalancerSourceRanges it needs 66000 entries of table sources"},
		},
		"a weight of 256 among 1,100": {
			text: repeat(1100, func(i int) string {
				return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: w%d, namespace: zzz, labels: {app: w}, annotations: {weir.net/weight: '%d'}}\nspec: {nodeName: node-2, containers: [{name: main, image: none}]}\nstatus: {podIPs: [{ip: 10.8.%d.%d}]}\n---\n", i, 256-i%2, i>>8, i&255)
			}) + "apiVersion: v1\nkind: Service\nmetadata: {name: heavy, namespace: zzz}\nspec: {clusterIP: 10.97.0.1, ports: [{port: 80}], selector: {app: w}}\n---\n",
			refused: []string{"Service zzz/heavy spec.ports it needs 35132 entries of table slot_rows"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			local := crowdedLocal()
			local.Budgets[model.TableSlotRows] = 32768
			state, refused := settled(t, crowded+tt.text, local)
			require.Equal(t, tt.refused, refused)
			alone, none := settled(t, crowded, local)
			require.Empty(t, none)
			for svc := range alone.Services.All() {
				require.Contains(t, state.Services.Slice(), *svc)
			}
			require.Equal(t, alone.Endpoints[0].Name, state.Endpoints[0].Name)
			require.Equal(t, rulesByBlock(alone, 0), rulesByBlock(state, 0), "the policy of the other namespace")
			if strings.HasPrefix(refused[0], "NetworkPolicy") {
				require.NotEqual(t, rulesByBlock(alone, 1), rulesByBlock(state, 1), "whom the policy selects is isolated")
			}
		})
	}
}

// rulesByBlock are those of an endpoint, told by the blocks that they name.
func rulesByBlock(s *model.State, endpoint int) []string {
	blocks := map[model.Identity]string{}
	for a := range s.Addresses.All() {
		blocks[a.Identity] = a.Prefix.String()
	}
	var texts []string
	for _, set := range s.RuleSets {
		for _, r := range set.Rules {
			if set.Key == s.Endpoints[endpoint].RuleSet {
				texts = append(texts, fmt.Sprintf("%s %s %s %d %t %s", r.Direction, blocks[r.Peer], r.Protocol, r.Port, r.Action.Denies(), r.Origin))
			}
		}
	}
	slices.Sort(texts)
	return texts
}

func TestWhoIsRefusedOfTheFullestNamespace(t *testing.T) {
	old, recent := `, creationTimestamp: "2020-01-01T00:00:00Z"`, `, creationTimestamp: "2025-01-01T00:00:00Z"`
	for name, tt := range map[string]struct {
		text    string
		refused []string
	}{
		"the newest, where it is enough":         {blocks("a", recent, "", 0, 30) + blocks("b", old, "", 100, 70), []string{"a"}},
		"not the newest, where it is too little": {blocks("a", recent, "", 0, 2) + blocks("b", old, "", 100, 70) + blocks("c", old, "", 200, 50), []string{"c"}},
		"the largest, where none is enough":      {blocks("a", recent, "", 0, 60) + blocks("b", old, "", 100, 70) + blocks("c", old, "", 200, 80) + blocks("d", old, "", 300, 60), []string{"a", "b", "c"}},
		"nobody, for what others name already":   {blocks("a", recent, "", 0, 80) + blocks("b", old, "", 0, 80), nil},
	} {
		t.Run(name, func(t *testing.T) {
			local := crowdedLocal()
			local.Budgets[model.TableCIDRs] = 82 // one is another's, one keeps the families apart
			_, refused := settled(t, crowded+tt.text, local)
			var names []string
			for _, r := range refused {
				names = append(names, strings.TrimPrefix(strings.SplitN(r, " spec", 2)[0], "NetworkPolicy zzz/"))
			}
			require.Equal(t, tt.refused, names)
		})
	}
}

// A pod whose rules nobody else can make room for gets none, and no policy is
// lifted for it.
func TestAPodWithoutRoomForItsRulesIsNoEndpoint(t *testing.T) {
	local := crowdedLocal()
	local.Budgets[model.TableRules] = 2
	state, refused := settled(t, crowded, local)
	require.Equal(t, []string{
		"NetworkPolicy default/mine spec it needs 1 entries of table rules", "Pod zzz/tenant metadata.labels it needs 2 entries of table rules",
	}, refused)
	require.Len(t, state.Endpoints, 1)
	require.Equal(t, []string{"egress  any 0 false no policy"}, rulesByBlock(state, 0), "and the other is isolated")
}

func TestPodsBeyondTheBudgetAreTheNewestOfTheFullestNamespace(t *testing.T) {
	local := crowdedLocal()
	local.Budgets[model.TableEndpoints] = 2
	_, refused := settled(t, crowded+"apiVersion: v1\nkind: Pod\nmetadata: {name: other, namespace: zzz}\nspec: {nodeName: node-1, containers: [{name: main, image: none}]}\nstatus: {podIPs: [{ip: 10.0.1.3}]}\n---\n", local)
	require.Equal(t, []string{"Pod zzz/tenant spec.nodeName it needs 1 entries of table endpoints"}, refused)
}

// Pods of different labels that have the same rules share them: however many they
// are, what fits into the table is there.
func TestRulesThatManyPodsShareAreCountedOnce(t *testing.T) {
	text := crowded + repeat(20, func(i int) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web-%d, namespace: default, labels: {app: web-%d}}
spec: {nodeName: node-1, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.1.%d}]}
---
`, i, i, 10+i)
	})
	objs := mustParse(t, text)
	local := model.Local{Devices: map[model.Key]model.Device{}}
	for name := range objs.Pods {
		local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name}
	}
	free, _, err := All(objs, "node-1", local)
	require.NoError(t, err)
	require.Len(t, free.Endpoints, 22)
	local.Budgets = Fill(free)
	fitted, _, err := All(objs, "node-1", local)
	require.NoError(t, err)
	require.Equal(t, free, fitted)
}

func TestBudgetsAreValidated(t *testing.T) {
	require.NoError(t, defaultBudgets().Validate())
	require.ErrorContains(t, model.Budgets{"rulez": 7}.Validate(), "tables.rulez")
	require.ErrorContains(t, model.Budgets{model.TableRules: 0}.Validate(), "tables.rules: 0 entries hold nothing")
	local := crowdedLocal()
	local.Budgets = model.Budgets{model.TableIPCache: 1}
	_, _, err := All(mustParse(t, "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: '2001:db8::1'}]}\n"), "node-1", local)
	require.ErrorContains(t, err, "raise tables.ipcache", "the node itself has to fit")
}
