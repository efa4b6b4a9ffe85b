// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

// Models that misread one language each: the program does not.

// passAccepts takes Pass for Accept.
func passAccepts(objs *manifest.Objects) *manifest.Objects {
	o := objs.Clone()
	for key, p := range o.ClusterNetworkPolicies {
		p = p.DeepCopy()
		for i := range p.Spec.Ingress {
			if p.Spec.Ingress[i].Action == policyv1alpha2.ClusterNetworkPolicyRuleActionPass {
				p.Spec.Ingress[i].Action = policyv1alpha2.ClusterNetworkPolicyRuleActionAccept
			}
		}
		o.ClusterNetworkPolicies[key] = p
	}
	return o
}

// withoutDenials does not read what Cilium's policies deny on ingress; that
// they isolate it reads.
func withoutDenials(objs *manifest.Objects) *manifest.Objects {
	o := objs.Clone()
	yes := true
	for key, p := range o.CiliumNetworkPolicies {
		if c := *p; c.Spec != nil && len(c.Spec.IngressDeny) > 0 {
			spec := *c.Spec
			if spec.EnableDefaultDeny.Ingress == nil {
				spec.EnableDefaultDeny.Ingress = &yes
			}
			spec.IngressDeny = nil
			c.Spec = &spec
			o.CiliumNetworkPolicies[key] = &c
		}
	}
	return o
}

// withoutRanges takes a range of ports for its first.
func withoutRanges(objs *manifest.Objects) *manifest.Objects {
	o := objs.Clone()
	for key, p := range o.CiliumClusterwideNetworkPolicies {
		if p.Spec == nil {
			continue
		}
		c, spec := *p, *p.Spec
		spec.Ingress = nil
		for _, rule := range p.Spec.Ingress {
			lists := rule.ToPorts
			rule.ToPorts = nil
			for _, list := range lists {
				ports := list.Ports
				list.Ports = nil
				for _, port := range ports {
					port.EndPort = 0
					list.Ports = append(list.Ports, port)
				}
				rule.ToPorts = append(rule.ToPorts, list)
			}
			spec.Ingress = append(spec.Ingress, rule)
		}
		c.Spec = &spec
		o.CiliumClusterwideNetworkPolicies[key] = &c
	}
	return o
}

// withoutExceptions does not read the exceptions of blocks.
func withoutExceptions(objs *manifest.Objects) *manifest.Objects {
	o := objs.Clone()
	for key, p := range o.NetworkPolicies {
		p = p.DeepCopy()
		for i := range p.Spec.Ingress {
			for j := range p.Spec.Ingress[i].From {
				if block := p.Spec.Ingress[i].From[j].IPBlock; block != nil {
					block.Except = nil
				}
			}
		}
		o.NetworkPolicies[key] = p
	}
	return o
}

// withoutAudit takes what is only told for what is done.
func withoutAudit(objs *manifest.Objects) *manifest.Objects {
	o := objs.Clone()
	for key, p := range o.NetworkPolicies {
		p = p.DeepCopy()
		delete(p.Annotations, manifest.AnnotationAudit)
		o.NetworkPolicies[key] = p
	}
	return o
}

// withoutRefusals takes what is refused for what is dropped.
func withoutRefusals(objs *manifest.Objects) *manifest.Objects {
	o := objs.Clone()
	for key, p := range o.NetworkPolicies {
		p = p.DeepCopy()
		delete(p.Annotations, manifest.AnnotationDeniedIngress)
		delete(p.Annotations, manifest.AnnotationDeniedEgress)
		o.NetworkPolicies[key] = p
	}
	return o
}

func TestAMisreadPolicyOfAnyLanguageIsFoundAndShrunkToAScenarioWithThePolicyInIt(t *testing.T) {
	requireRoot(t)
	for name, test := range map[string]struct {
		misread misread
		kind    string
	}{
		"a Pass that accepts":              {passAccepts, "kind: ClusterNetworkPolicy"},
		"a denial that is not read":        {withoutDenials, "kind: CiliumNetworkPolicy"},
		"a range of ports without its end": {withoutRanges, "kind: CiliumClusterwideNetworkPolicy"},
		"a block without its exceptions":   {withoutExceptions, "kind: NetworkPolicy"},
		"a denial that is only told":       {withoutAudit, "weir.net/policy-audit: \"true\""},
		"a denial that is refused":         {withoutRefusals, "gress: refuse"},
	} {
		t.Run(name, func(t *testing.T) {
			matters := func(objs *manifest.Objects) bool { return !reflect.DeepEqual(test.misread(objs), objs) }
			var found []Report
			begin := time.Now()
			tally, disagreements, err := Run(t.Context(), Options{Seed: 8, Sequences: 400, Parallel: 1, misread: test.misread, wanted: matters,
				MaxKinds: 4, patience: time.Hour, Found: func(r Report) {
					// Whose rule it is alone may differ too: a packet that is treated otherwise is looked for.
					if strings.Contains(r.Kind, ": program ") {
						found = append(found, r)
					}
				}})
			require.NoError(t, err)
			require.NotZero(t, disagreements, "after %d frames", tally.Frames)
			require.NotEmpty(t, found)
			text, err := found[0].Scenario()
			require.NoError(t, err)
			t.Logf("after %d frames, %s with shrinking:\n%s", tally.Frames, time.Since(begin).Round(time.Millisecond), text)
			require.LessOrEqual(t, len(found[0].Case.Steps), 3, "some objects and a frame are enough:\n%s", text)
			require.Contains(t, string(text), test.kind)
			requireFailsAs(t, text, found[0].Expected.Action)
		})
	}
}

func TestAPolicyIsPlayedAsItIsWritten(t *testing.T) {
	for i := range uint64(300) {
		n := newNetwork(rand.New(rand.NewPCG(1, i)))
		o := n.anyPolicy()
		text, err := objectText(o)
		require.NoError(t, err)
		objs, err := manifest.Parse("policy.yaml", bytes.NewReader(text))
		require.NoError(t, err, "%s", text)
		require.Empty(t, manifest.Validate(o), "%s", text)
		played := manifest.NewObjects()
		require.NoError(t, played.Upsert(o))
		require.Equal(t, played, objs, "%s", text)
	}
}

func TestEveryPartOfAPolicysTextCanBeCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, kind := range policygen.Kinds[1:] {
		o := asWritten(policygen.Policy(rng, words, kind, "p"))
		for {
			smaller, ok := without(o, 0)
			if !ok {
				break
			}
			require.Less(t, sizeOf(smaller), sizeOf(o))
			o = smaller
		}
		require.Zero(t, sizeOf(o))
		require.Equal(t, metav1.Object.GetName(o), "p")
	}
}
