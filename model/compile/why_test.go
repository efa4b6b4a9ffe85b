// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

const whyObjects = `
apiVersion: v1
kind: Node
metadata: {name: node, labels: {topology.kubernetes.io/zone: a}}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: other}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: node}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, labels: {app: far}}
spec: {nodeName: other}
status: {podIP: 10.0.1.1}
---
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80}]}
`

// whyWorld is what an Incremental is asked about.
type whyWorld struct {
	t      *testing.T
	objs   *manifest.Objects
	node   string
	local  model.Local
	unread []manifest.Unread
	keeps  bool // it is asked to leave out what is refused
	again  Incremental
}

// ask has it made, of the one way or the other, and checks that it is what is made of
// all at once.
func (w *whyWorld) ask() {
	w.t.Helper()
	if !w.keeps {
		state, warnings, err := w.again.All(w.objs, w.node, w.local)
		want, wanted, wrong := All(w.objs, w.node, w.local)
		require.Equal(w.t, wrong, err)
		require.Equal(w.t, want, state)
		require.Equal(w.t, wanted, warnings)
		return
	}
	state, refusals, warnings, err := w.again.Keep(w.objs.Clone(), w.unread, w.node, w.local)
	want, wanted, told, wrong := new(Incremental).Keep(w.objs.Clone(), w.unread, w.node, w.local)
	require.Equal(w.t, wrong, err)
	require.Equal(w.t, want, state)
	require.Equal(w.t, wanted, refusals)
	require.Equal(w.t, told, warnings)
}

func (w *whyWorld) put(text string) { w.objs.Merge(mustParse(w.t, text)) }

func (w *whyWorld) budget(table model.Table, entries int) {
	w.local.Budgets = model.Budgets{table: entries}
}

// whyPod is a pod of the other node.
func whyPod(name, addr string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: web}}\nspec: {nodeName: other}\nstatus: {podIP: %q}\n", name, addr)
}

func whyService(name, addr string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s, ports: [{port: 80}]}\n", name, addr)
}

// whyPolicy has so many ports, each with an entry.
func whyPolicy(name, namespace string, ports int) string {
	text := fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\nspec:\n  podSelector: {}\n  ingress:\n  - ports:\n", name, namespace)
	for port := range ports {
		text += fmt.Sprintf("    - {port: %d}\n", 2*port+1)
	}
	return text
}

// whys has a smallest change for each reason for which all of it is made.
func whys() map[string]struct {
	before, change func(w *whyWorld)
} {
	type steps = struct{ before, change func(w *whyWorld) }
	nothing := func(*whyWorld) {}
	change := func(change func(w *whyWorld)) steps { return steps{nothing, change} }
	keeping := func(before func(w *whyWorld), change func(w *whyWorld)) steps {
		return steps{func(w *whyWorld) { w.keeps = true; before(w) }, change}
	}
	unread := func(name, namespace string) manifest.Unread {
		return manifest.Unread{Object: model.Ref{Kind: "NetworkPolicy", Namespace: namespace, Name: name}, Problem: "is cut", Raw: []byte(`{"spec":{"podSelector":{}}}`)}
	}
	tight := func(w *whyWorld) { // the second service has no room
		w.budget(model.TableServices, 2)
		w.put(whyService("tight", "10.96.0.11"))
	}
	many := func(w *whyWorld) { // the policy has no room
		w.budget(model.TableRules, 2)
		w.put(whyPolicy("many", "default", 9))
	}
	return map[string]steps{
		"nothing is kept":    {func(w *whyWorld) { w.again = Incremental{} }, func(w *whyWorld) { w.again = Incremental{} }},
		"it is another node": change(func(w *whyWorld) { w.node = "other" }),
		"the node has other addresses, uplinks, gateways, options or budgets": change(func(w *whyWorld) { w.local.Options.Algorithm = model.AlgorithmMaglev }),
		"pods bring other gateways": change(func(w *whyWorld) {
			w.local.Devices = map[model.Key]model.Device{model.ParseKey("default/web"): {Name: "veth0", Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.254")}}}
		}),
		"this node's own Node comes, goes or says something else": change(func(w *whyWorld) {
			w.put("apiVersion: v1\nkind: Node\nmetadata: {name: node}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.4}]}\n")
		}),
		"the first other Node comes, or the last one goes": change(func(w *whyWorld) {
			delete(w.objs.Nodes, "other")
		}),
		"networks of pods overlap, or hold addresses of Nodes": change(func(w *whyWorld) {
			w.put("apiVersion: v1\nkind: Node\nmetadata: {name: third}\nspec: {podCIDR: 172.18.0.0/24}\n")
		}),
		"an address of this node's is another's too": change(func(w *whyWorld) { w.put(whyPod("twin", "172.18.0.2")) }),
		"an object that has changed is refused by itself": change(func(w *whyWorld) {
			svc := w.objs.Services["default/good"].DeepCopy()
			svc.Annotations = map[string]string{manifest.AnnotationAlgorithm: "odd"}
			w.objs.Services["default/good"] = svc
		}),
		"a service is refused": change(func(w *whyWorld) {
			w.put("apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.0.11, ports: [{port: 80, targetPort: 90, protocol: SCTP}]}\n")
		}),
		"a namespace is gone before what was of it": change(func(w *whyWorld) { delete(w.objs.Namespaces, "shop") }),
		"a pod is of a namespace that is not there": change(func(w *whyWorld) {
			pod := w.objs.Pods["shop/far"].DeepCopy()
			pod.Namespace = "nowhere"
			w.objs.Pods["nowhere/far"] = pod
		}),
		"a policy is of a namespace that is not there": change(func(w *whyWorld) { w.put(whyPolicy("p", "nowhere", 1)) }),
		"a pod has an address and no node": change(func(w *whyWorld) {
			pod := w.objs.Pods["shop/far"].DeepCopy()
			pod.Spec.NodeName = ""
			w.objs.Pods["shop/far"] = pod
		}),
		"pods have addresses of another family now": change(func(w *whyWorld) { w.put(whyPod("six", "fd00::1")) }),
		"no number is left that was never given": {func(w *whyWorld) {
			var keys []string
			for n := range 1<<16 - int(model.FirstLabelIdentity) {
				keys = append(keys, fmt.Sprint(n))
			}
			_, err := w.local.Identities.AllocateLabels(keys)
			require.NoError(w.t, err)
		}, func(w *whyWorld) {
			w.put("apiVersion: v1\nkind: Pod\nmetadata: {name: new, labels: {app: new}}\nspec: {nodeName: other}\nstatus: {podIP: 10.0.1.2}\n")
		}},
		"a label that tells nobody apart is named by the first policy, or no more": change(func(w *whyWorld) {
			w.put("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {matchLabels: {pod-template-hash: x}}}\n")
		}),
		"a policy is refused": {func(w *whyWorld) { w.budget(model.TableRules, 2) }, func(w *whyWorld) { w.put(whyPolicy("many", "default", 9)) }},
		"an object is refused": {func(w *whyWorld) {
			w.budget(model.TableRules, 2)
			w.local.Devices = map[model.Key]model.Device{model.ParseKey("default/web"): {Name: "veth0"}}
		}, func(w *whyWorld) {
			w.put(whyPolicy("one", "default", 8))
			w.put(whyPolicy("two", "default", 8))
		}},
		"a budget is exceeded":            {func(w *whyWorld) { w.budget(model.TableIPCache, 4) }, func(w *whyWorld) { w.put(whyPod("more", "10.0.1.2")) }},
		"other objects could not be read": keeping(nothing, func(w *whyWorld) { w.unread = []manifest.Unread{unread("p", "default")} }),
		"an object could not be read before": keeping(func(w *whyWorld) { w.unread = []manifest.Unread{unread("p", "default")} }, func(w *whyWorld) {
			w.put(whyPolicy("p", "default", 1))
		}),
		"a namespace comes or goes of which an object could not be read": keeping(func(w *whyWorld) { w.unread = []manifest.Unread{unread("p", "shop")} }, func(w *whyWorld) {
			delete(w.objs.Namespaces, "shop")
		}),
		"an object is refused for the sake of others that is no service, and no NetworkPolicy for its rules or blocks": keeping(func(w *whyWorld) {
			w.budget(model.TableIPCache, 3)
		}, func(w *whyWorld) { w.put(whyService("more", "10.96.0.12")) }),
		"an object that is refused for the sake of others has changed":                         keeping(tight, func(w *whyWorld) { w.put(whyService("tight", "10.96.0.12")) }),
		"a change may have to do with what is refused for the sake of others":                  keeping(tight, func(w *whyWorld) { w.put(whyService("good", "10.96.0.12")) }),
		"a change may have to do with policies whose rules are refused for the sake of others": keeping(many, func(w *whyWorld) { w.put(whyPolicy("few", "default", 1)) }),
	}
}

func TestWhyAllOfItIsMade(t *testing.T) {
	for why, steps := range whys() {
		t.Run(why, func(t *testing.T) {
			w := &whyWorld{t: t, objs: mustParse(t, whyObjects), node: "node", local: model.Local{Identities: model.NewAllocator()}}
			steps.before(w)
			w.ask()
			steps.change(w)
			w.ask()
			require.Equal(t, why, w.again.Why())
		})
	}
}

// Each reason that is told is in the table above, but for those that would be errors
// of ours.
func TestEveryWhyHasASmallestChange(t *testing.T) {
	var told []string
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile(`\bno\("([^"]+)"\)`).FindAllStringSubmatch(string(text), -1) {
			told = append(told, match[1])
		}
	}
	ours := []string{"an address is there already", "a frontend is there already"}
	slices.Sort(told)
	require.ElementsMatch(t, slices.Concat(slices.Sorted(maps.Keys(whys())), ours), slices.Compact(told))
}

// What is refused for the sake of others and is gone then is refused no more.
func TestWhatWasSetAsideIsGone(t *testing.T) {
	w := &whyWorld{t: t, keeps: true, objs: mustParse(t, whyObjects), node: "node", local: model.Local{Identities: model.NewAllocator()}}
	w.budget(model.TableServices, 2)
	w.put(whyService("tight", "10.96.0.11"))
	w.ask()
	require.Len(t, w.again.standing.after, 1)
	delete(w.objs.Services, "default/tight")
	w.ask()
	require.Empty(t, w.again.standing.after)
}
