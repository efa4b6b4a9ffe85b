// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
)

const spaces = `
apiVersion: v1
kind: Namespace
metadata: {name: zzz}
---
`

// many joins n texts.
func many(n int, text func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(text(i))
	}
	return b.String()
}

// blocksOf is a policy of namespace zzz for pods of an app with count blocks.
func blocksOf(name, app string, first, count int) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: zzz, uid: uid-of-%s}
spec:
  podSelector: {matchLabels: {app: %s}}
  ingress:
  - from:
%s---
`, name, name, app, many(count, func(i int) string {
		v := first + i
		return fmt.Sprintf("    - ipBlock: {cidr: 11.%d.%d.%d/31}\n", v>>15&255, v>>7&255, v&127*2)
	}))
}

// served is a Service of namespace zzz with ports and slices of backends.
func served(name, more string, ports, slices, backends int) string {
	list := many(ports, func(i int) string { return fmt.Sprintf("{name: p%d, port: %d}, ", i, 1000+i) })
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: zzz, uid: uid-of-%s}
spec: {%s, ports: [%s]}
---
`, name, name, more, list) + many(slices, func(slice int) string {
		return fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-%d, namespace: zzz, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
endpoints: [%s]
ports: [%s]
---
`, name, slice, name, many(backends, func(i int) string {
			return fmt.Sprintf("{addresses: [11.%d.%d.%d], conditions: {ready: true}}, ", slice, i>>8, i&255)
		}), list)
	})
}

// weighed are pods with a service, the first of them with a weight of its own.
func weighed(pods int, weight string) string {
	return many(pods, func(i int) string {
		annotation := "1"
		if i == 0 {
			annotation = weight
		}
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: w-%d, namespace: zzz, labels: {app: w}, annotations: {weir.net/weight: "%s"}}
spec: {nodeName: node-2, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.2.%d}]}
---
`, i, annotation, i+1)
	}) + `
apiVersion: v1
kind: Service
metadata: {name: heavy, namespace: zzz, uid: uid-of-heavy}
spec: {clusterIP: 10.97.0.1, clusterIPs: [10.97.0.1], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: heavy-1, namespace: zzz, labels: {kubernetes.io/service-name: heavy}}
addressType: IPv4
endpoints: [` + many(pods, func(i int) string {
		return fmt.Sprintf("{addresses: [10.0.2.%d], targetRef: {kind: Pod, namespace: zzz, name: w-%d}}, ", i+1, i)
	}) + `]
ports: [{port: 80}]
---
`
}

// What a tenant asks for that does not fit is refused by name and number. New
// denials of others act all the same, and new pods start.
func TestATenantThatAsksForTooMuchStopsNobodyElse(t *testing.T) {
	for name, c := range map[string]struct {
		objects string
		tables  map[model.Table]int
		refused map[string]string
		isolate bool
	}{
		"source ranges": {
			objects: strings.Replace(served("lb", "type: LoadBalancer, clusterIP: 10.97.0.1, clusterIPs: [10.97.0.1], loadBalancerSourceRanges: ["+many(120, func(i int) string {
				return fmt.Sprintf("11.0.0.%d/32, ", i)
			})+"]", 1, 0, 0), "\n---", "\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.5}]}}\n---", 1),
			tables:  map[model.Table]int{model.TableSources: 100},
			refused: map[string]string{"Service zzz/lb": "120 entries of table sources, whose budget of 100"},
		},
		"rules": {
			objects: strings.Replace(blocksOf("many", "b", 0, 30), "  - from:", "  - ports: ["+many(10, func(i int) string { return fmt.Sprintf("{port: %d}, ", 1001+2*i) })+"]\n    from:", 1),
			tables:  map[model.Table]int{model.TableRules: 200},
			refused: map[string]string{"NetworkPolicy zzz/many": "300 entries of table rules, whose budget of 200"}, isolate: true,
		},
		"rules that cannot even be written down": {
			objects: strings.Replace(blocksOf("many", "b", 0, 300), "  - from:", "  - ports: ["+many(10, func(i int) string { return fmt.Sprintf("{port: %d}, ", 1001+2*i) })+"]\n    from:", 1),
			tables:  map[model.Table]int{model.TableRules: 200},
			refused: map[string]string{"NetworkPolicy zzz/many": "3000 entries of table rules, whose budget of 200"}, isolate: true,
		},
		"backends": {
			objects: served("s", "clusterIP: 10.97.0.1, clusterIPs: [10.97.0.1]", 10, 3, 10),
			tables:  map[model.Table]int{model.TableBackends: 200},
			refused: map[string]string{"Service zzz/s": "entries of table backends, whose budget of 200"},
		},
		"blocks": {
			objects: many(4, func(i int) string { return blocksOf(fmt.Sprintf("many-%d", i), "b", 50*i, 50) }),
			tables:  map[model.Table]int{model.TableCIDRs: 160},
			refused: map[string]string{"NetworkPolicy zzz/many-3": "50 entries of table ipcache_cidrs, whose budget of 160"}, isolate: true,
		},
		"Maglev tables": {
			objects: many(4, func(i int) string {
				return strings.ReplaceAll(strings.Replace(served(fmt.Sprintf("m-%d", i), fmt.Sprintf("clusterIP: 10.97.1.%d, clusterIPs: [10.97.1.%d]", i, i), 1, 1, 2),
					"uid: ", "annotations: {weir.net/algorithm: maglev}, uid: ", 1), "11.0.0", fmt.Sprintf("11.9.%d", i))
			}),
			tables:  map[model.Table]int{model.TableMaglev: 45000},
			refused: map[string]string{"Service zzz/m-3": "16381 entries of table maglev", "Service zzz/m-2": "16381 entries of table maglev"},
		},
		"a weight": {
			objects: weighed(200, "256"), tables: map[model.Table]int{model.TableSlotRows: 50},
			refused: map[string]string{"Service zzz/heavy": "57 entries of table slot_rows, whose budget of 50"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			told := make(chan api.Refused, 20)
			n.options.Events = func(r api.Refused) { told <- r }
			n.options.Config.Tables = c.tables
			tenants := strings.ReplaceAll(podObject("b"), "namespace: default", "namespace: zzz")
			base := defaultNamespace + spaces + nodes + podObject("a") + podObject("c") + tenants
			n.source.set(base)
			n.start()
			a, other, tenant := n.sandbox("a", "aaaa"), n.sandbox("c", "cccc"), n.sandbox("b", "bbbb")
			tenant.namespace = "zzz"
			ofA, ofC, ofTenant := a.add(), other.add(), tenant.add()
			require.NoError(t, other.reach(a, ofA[0]))
			require.NoError(t, other.reach(tenant, ofTenant[0]))

			n.source.set(base + podObject("d") + c.objects + `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}
---
`)
			for range c.refused {
				r := <-told
				require.Contains(t, r.Problem, c.refused[r.Object.String()], r.Object)
				require.NotEmpty(t, c.refused[r.Object.String()], "%s: %s", r.Object, r.Problem)
			}
			d := n.sandbox("d", "dddd")
			ofD := d.add()
			s := n.status()
			require.True(t, s.Ready, s.NotReady)
			require.Empty(t, s.Errors)
			require.Len(t, s.Refused, len(c.refused))
			for table, room := range c.tables {
				i := slices.IndexFunc(s.Tables, func(t api.Table) bool { return t.Name == string(table) })
				require.Equal(t, room, s.Tables[i].Room)
				require.LessOrEqual(t, s.Tables[i].Entries, room)
				require.Equal(t, name == "blocks", s.Tables[i].IsNearlyFull(), "%v", s.Tables[i])
			}
			require.Error(t, other.miss(a, ofA[0]), "a new denial acts")
			require.NoError(t, d.reach(other, ofC[0]), "a new pod reaches others")
			require.NoError(t, other.reach(d, ofD[0]))
			if c.isolate {
				require.Error(t, other.miss(tenant, ofTenant[0]), "a policy that does not fit isolates")
			} else {
				require.NoError(t, other.reach(tenant, ofTenant[0]))
			}
			n.source.set(base)
			require.Eventually(t, func() bool { return len(n.status().Refused) == 0 }, patience, 50*time.Millisecond)
			require.NoError(t, other.reach(a, ofA[0]))
			require.NoError(t, other.reach(tenant, ofTenant[0]), "what fits again is as it was")
		})
	}
}
