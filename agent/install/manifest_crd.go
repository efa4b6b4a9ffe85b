// SPDX-License-Identifier: Apache-2.0

package install

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/agent/identity"
)

// crds are the kinds that Install brings.
func crds() []*apiextensionsv1.CustomResourceDefinition {
	return append(policyCRDs(), identityCRD())
}

// policyCRDs are the kinds of policies beside NetworkPolicy. Their schemas take any
// spec: the agent refuses what it does not know, by the field's path, and so
// does 'weir policy check' before anything is applied.
func policyCRDs() []*apiextensionsv1.CustomResourceDefinition {
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
	beta := *cluster.Spec.Versions[0].DeepCopy()
	beta.Name, beta.Storage = "v1beta1", false
	cluster.Spec.Versions = append(cluster.Spec.Versions, beta)
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

// identityCRD is the kind of numbers that agents agree on. Agents alone write
// them, and a number never changes its meaning.
func identityCRD() *apiextensionsv1.CustomResourceDefinition {
	names := apiextensionsv1.CustomResourceDefinitionNames{
		Kind: identity.Kind, ListKind: identity.Kind + "List", Plural: identity.Plural, Singular: "identity", ShortNames: []string{"wid"},
	}
	definition := crd(identity.Group, identity.Version, apiextensionsv1.ClusterScoped, names)
	version := &definition.Spec.Versions[0]
	version.Subresources = nil
	version.Schema.OpenAPIV3Schema = identitySchema()
	version.AdditionalPrinterColumns = []apiextensionsv1.CustomResourceColumnDefinition{
		{Name: "Namespace", Type: "string", JSONPath: ".spec.namespace"},
		{Name: "Labels", Type: "string", JSONPath: ".spec.podLabels"},
		{Name: "Account", Type: "string", JSONPath: ".spec.serviceAccount", Priority: 1},
		{Name: "Ports", Type: "string", JSONPath: ".spec.ports", Priority: 1},
		{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"},
	}
	return definition
}

func identitySchema() *apiextensionsv1.JSONSchemaProps {
	text := apiextensionsv1.JSONSchemaProps{Type: "string"}
	of := func(what string, s apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		s.Description = what
		return s
	}
	labels := apiextensionsv1.JSONSchemaProps{Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &text}}
	port := apiextensionsv1.JSONSchemaProps{Type: "object", Required: []string{"name", "protocol", "port"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"name": text, "protocol": text, "port": {Type: "integer", Minimum: ptr.To(0.0), Maximum: ptr.To(65535.0)},
	}}
	list := func(items apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &items}}
	}
	spec := apiextensionsv1.JSONSchemaProps{
		Type: "object", Required: []string{"namespace"},
		Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"namespace":       of("The pods' namespace.", text),
			"namespaceLabels": of("That namespace's labels.", labels),
			"podLabels":       of("The pods' labels.", labels),
			"serviceAccount":  of("The pods' service account.", text),
			"ports":           of("Ports of the pods' containers that have names.", list(port)),
		},
		XValidations: apiextensionsv1.ValidationRules{{Rule: "self == oldSelf", Message: "a number never changes its meaning"}},
	}
	return &apiextensionsv1.JSONSchemaProps{
		Type:        "object",
		Description: "What policies can tell of some pods but their addresses. Its name is the number by which all nodes know them. Agents make it when a pod has such labels, and delete it when none has had them for long.",
		Required:    []string{"spec"},
		Properties:  map[string]apiextensionsv1.JSONSchemaProps{"spec": spec},
		XValidations: apiextensionsv1.ValidationRules{{
			Rule:    `self.metadata.name.matches('^[1-9][0-9]{2,4}$') && int(self.metadata.name) >= 256 && int(self.metadata.name) <= 65535`,
			Message: "the name is a number from 256 to 65535",
		}},
	}
}
