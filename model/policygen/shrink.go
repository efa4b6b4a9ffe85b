// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/model/manifest"
)

// Shrink leaves out objects, and entries of policies, as long as fails says so
// of what remains. It asks some hundred times.
func Shrink(objs *manifest.Objects, fails func(*manifest.Objects) bool) *manifest.Objects {
	for again := true; again; {
		again = false
		for _, smaller := range smaller(objs) {
			if fails(smaller) {
				objs, again = smaller, true
				break
			}
		}
	}
	return objs
}

// smaller gives all clusters with one thing less.
func smaller(objs *manifest.Objects) []*manifest.Objects {
	var all []*manifest.Objects
	without := func(remove func(o *manifest.Objects)) {
		o := objs.Clone()
		remove(o)
		all = append(all, o)
	}
	each(objs.NetworkPolicies, func(k string) { without(func(o *manifest.Objects) { delete(o.NetworkPolicies, k) }) })
	each(objs.ClusterNetworkPolicies, func(k string) { without(func(o *manifest.Objects) { delete(o.ClusterNetworkPolicies, k) }) })
	each(objs.CiliumNetworkPolicies, func(k string) { without(func(o *manifest.Objects) { delete(o.CiliumNetworkPolicies, k) }) })
	each(objs.CiliumClusterwideNetworkPolicies, func(k string) { without(func(o *manifest.Objects) { delete(o.CiliumClusterwideNetworkPolicies, k) }) })
	each(objs.Pods, func(k string) { without(func(o *manifest.Objects) { delete(o.Pods, k) }) })
	each(objs.Services, func(k string) {
		without(func(o *manifest.Objects) { delete(o.Services, k); delete(o.EndpointSlices, k) })
	})
	for k, p := range objs.NetworkPolicies {
		shorter(p.Spec.Ingress, func(i int) {
			c := p.DeepCopy()
			c.Spec.Ingress = slices.Delete(c.Spec.Ingress, i, i+1)
			without(func(o *manifest.Objects) { o.NetworkPolicies[k] = c })
		})
		shorter(p.Spec.Egress, func(i int) {
			c := p.DeepCopy()
			c.Spec.Egress = slices.Delete(c.Spec.Egress, i, i+1)
			without(func(o *manifest.Objects) { o.NetworkPolicies[k] = c })
		})
	}
	for k, p := range objs.ClusterNetworkPolicies {
		shorter(p.Spec.Ingress, func(i int) {
			c := p.DeepCopy()
			c.Spec.Ingress = slices.Delete(c.Spec.Ingress, i, i+1)
			without(func(o *manifest.Objects) { o.ClusterNetworkPolicies[k] = c })
		})
		shorter(p.Spec.Egress, func(i int) {
			c := p.DeepCopy()
			c.Spec.Egress = slices.Delete(c.Spec.Egress, i, i+1)
			without(func(o *manifest.Objects) { o.ClusterNetworkPolicies[k] = c })
		})
	}
	for k, p := range objs.CiliumNetworkPolicies {
		smallerSpecs(p.Spec, p.Specs, func(spec *manifest.CiliumRule, specs []*manifest.CiliumRule) {
			c := *p
			c.Spec, c.Specs = spec, specs
			without(func(o *manifest.Objects) { o.CiliumNetworkPolicies[k] = &c })
		})
	}
	for k, p := range objs.CiliumClusterwideNetworkPolicies {
		smallerSpecs(p.Spec, p.Specs, func(spec *manifest.CiliumRule, specs []*manifest.CiliumRule) {
			c := *p
			c.Spec, c.Specs = spec, specs
			without(func(o *manifest.Objects) { o.CiliumClusterwideNetworkPolicies[k] = &c })
		})
	}
	return all
}

func each[T any](from map[string]T, do func(key string)) {
	for _, key := range slices.Sorted(maps.Keys(from)) {
		do(key)
	}
}

func shorter[T any](list []T, do func(without int)) {
	for i := range list {
		do(i)
	}
}

func smallerSpecs(spec *manifest.CiliumRule, specs []*manifest.CiliumRule, do func(*manifest.CiliumRule, []*manifest.CiliumRule)) {
	if spec != nil {
		for _, s := range smallerRules(spec) {
			do(s, specs)
		}
	}
	for i, old := range specs {
		if len(specs) > 1 {
			do(spec, slices.Delete(slices.Clone(specs), i, i+1))
		}
		for _, s := range smallerRules(old) {
			changed := slices.Clone(specs)
			changed[i] = s
			do(spec, changed)
		}
	}
}

func smallerRules(rule *manifest.CiliumRule) []*manifest.CiliumRule {
	var all []*manifest.CiliumRule
	add := func(change func(c *manifest.CiliumRule)) {
		c := *rule
		change(&c)
		all = append(all, &c)
	}
	shorter(rule.Ingress, func(i int) {
		add(func(c *manifest.CiliumRule) { c.Ingress = slices.Delete(slices.Clone(c.Ingress), i, i+1) })
	})
	shorter(rule.IngressDeny, func(i int) {
		add(func(c *manifest.CiliumRule) { c.IngressDeny = slices.Delete(slices.Clone(c.IngressDeny), i, i+1) })
	})
	shorter(rule.Egress, func(i int) {
		add(func(c *manifest.CiliumRule) { c.Egress = slices.Delete(slices.Clone(c.Egress), i, i+1) })
	})
	shorter(rule.EgressDeny, func(i int) {
		add(func(c *manifest.CiliumRule) { c.EgressDeny = slices.Delete(slices.Clone(c.EgressDeny), i, i+1) })
	})
	return all
}

// Text gives a cluster's pods and policies as YAML, for a test's failure.
func Text(objs *manifest.Objects) string {
	var b strings.Builder
	write := func(kind, name string, obj any) {
		text, err := yaml.Marshal(obj)
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&b, "--- # %s %s\n%s", kind, name, text)
	}
	for name, o := range objs.Namespaces {
		write("Namespace", name, o)
	}
	for name, o := range objs.Pods {
		write("Pod", name, o)
	}
	for name, o := range objs.Services {
		write("Service", name, o)
	}
	for name, o := range objs.NetworkPolicies {
		write("NetworkPolicy", name, o)
	}
	for name, o := range objs.ClusterNetworkPolicies {
		write("ClusterNetworkPolicy", name, o)
	}
	for name, o := range objs.CiliumNetworkPolicies {
		write("CiliumNetworkPolicy", name, o)
	}
	for name, o := range objs.CiliumClusterwideNetworkPolicies {
		write("CiliumClusterwideNetworkPolicy", name, o)
	}
	return b.String()
}
