// SPDX-License-Identifier: Apache-2.0

package install

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// crds are the kinds of policies beside NetworkPolicy. Their schemas take any
// spec: the agent refuses what it does not know, by the field's path, and so
// does 'weir policy check' before anything is applied.
func crds() []*apiextensionsv1.CustomResourceDefinition {
	cilium := func(kind, plural string, scope apiextensionsv1.ResourceScope, short ...string) *apiextensionsv1.CustomResourceDefinition {
		return crd("cilium.io", "v2", scope, apiextensionsv1.CustomResourceDefinitionNames{
			Kind: kind, ListKind: kind + "List", Plural: plural, Singular: singular(plural), ShortNames: short,
		}, "spec", "specs")
	}
	cluster := crd("policy.networking.k8s.io", "v1alpha2", apiextensionsv1.ClusterScoped, apiextensionsv1.CustomResourceDefinitionNames{
		Kind: "ClusterNetworkPolicy", ListKind: "ClusterNetworkPolicyList",
		Plural: "clusternetworkpolicies", Singular: "clusternetworkpolicy", ShortNames: []string{"cnetpol"},
	}, "spec")
	// The API server asks for this of the groups of Kubernetes itself. The
	// schema is not the approved one.
	cluster.Annotations = map[string]string{"api-approved.kubernetes.io": "unapproved, a schema that takes any spec"}
	return []*apiextensionsv1.CustomResourceDefinition{
		cilium("CiliumNetworkPolicy", "ciliumnetworkpolicies", apiextensionsv1.NamespaceScoped, "cnp"),
		cilium("CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", apiextensionsv1.ClusterScoped, "ccnp"),
		cluster,
	}
}

// singular is of a plural in -policies.
func singular(plural string) string { return plural[:len(plural)-len("ies")] + "y" }

func crd(group, version string, scope apiextensionsv1.ResourceScope, names apiextensionsv1.CustomResourceDefinitionNames, fields ...string) *apiextensionsv1.CustomResourceDefinition {
	root := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"status": {Type: "object", XPreserveUnknownFields: ptr.To(true)},
	}}
	for _, f := range fields {
		root.Properties[f] = apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	}
	if specs, ok := root.Properties["specs"]; ok {
		root.Properties["specs"] = apiextensionsv1.JSONSchemaProps{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &specs}}
	}
	return &apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: names.Plural + "." + group, Labels: labels()},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Names: names, Scope: scope,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: version, Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &root},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
}
