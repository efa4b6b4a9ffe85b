// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

// Annotations that say what Kubernetes has no fields for.
const (
	// AnnotationAlgorithm of a Service is how its backends are chosen, in
	// place of Options.Algorithm: "random" or "maglev".
	AnnotationAlgorithm = "weir.net/algorithm"
	// AnnotationWeight of a Pod is its share of a service's new flows, from 1
	// (as without it) to MaxWeight.
	AnnotationWeight = "weir.net/weight"
	// AnnotationAudit of a Pod, of a Namespace for its pods, or of a policy of
	// any kind, is "true" where denials are only told: by the policies of the
	// pod, or by the policy. A pod's lifts the policies of its namespace alone,
	// and not those of the whole cluster, which its author did not decide about.
	// A pod's "false" goes before what its namespace says.
	AnnotationAudit = "weir.net/policy-audit"
	// AnnotationDeniedIngress and AnnotationDeniedEgress of a policy of any kind
	// are what a packet gets that the policy denies in that direction, in place
	// of Options.Denied: "drop" or "refuse".
	AnnotationDeniedIngress = "weir.net/denied-ingress"
	AnnotationDeniedEgress  = "weir.net/denied-egress"

	// annotationConfig of the agent's own pods says what they were begun with.
	annotationConfig = "weir.net/config"
)

// AuditOf gives what an annotation asks for; found is whether there is one.
func AuditOf(annotations map[string]string) (audit, found bool, err error) {
	text, found := annotations[AnnotationAudit]
	if found && text != "true" && text != "false" {
		return false, true, fmt.Errorf("%q is not one of true, false", text)
	}
	return text == "true", found, nil
}

// annotationDenied is the annotation of a direction.
func annotationDenied(direction model.Direction) string {
	if direction == model.Egress {
		return AnnotationDeniedEgress
	}
	return AnnotationDeniedIngress
}

// DeniedOf gives what an annotation of a policy asks for; "" without one.
func DeniedOf(annotations map[string]string, direction model.Direction) (model.Denial, error) {
	text, found := annotations[annotationDenied(direction)]
	if !found {
		return "", nil
	}
	return parseDenial(text)
}

func parseDenial(text string) (model.Denial, error) {
	switch denial := model.Denial(text); denial {
	case model.DenialDrop, model.DenialRefuse:
		return denial, nil
	}
	return "", fmt.Errorf("%q is not one of %s, %s", text, model.DenialDrop, model.DenialRefuse)
}

// AlgorithmOf gives what a service's annotation asks for; "" without one.
func AlgorithmOf(svc *corev1.Service) (model.Algorithm, error) {
	text, asked := svc.Annotations[AnnotationAlgorithm]
	if !asked {
		return "", nil
	}
	return model.ParseAlgorithm(text)
}

// WeightOf gives what a pod's annotation asks for; 0 without one.
func WeightOf(pod *corev1.Pod) (uint16, error) {
	text, asked := pod.Annotations[AnnotationWeight]
	if !asked {
		return 0, nil
	}
	return parseWeight(text)
}

func parseWeight(text string) (uint16, error) {
	weight, err := strconv.ParseUint(text, 10, 16)
	if err != nil || weight < 1 || weight > model.MaxWeight || strconv.FormatUint(weight, 10) != text {
		return 0, fmt.Errorf("%q is not a number in 1–%d", text, model.MaxWeight)
	}
	return uint16(weight), nil
}

// AnnotationsOf are Weir's annotations that say something on an object.
func AnnotationsOf(object metav1.Object) []string {
	switch object.(type) {
	case *corev1.Service:
		return []string{AnnotationAlgorithm}
	case *corev1.Pod:
		return []string{AnnotationAudit, AnnotationWeight, annotationConfig}
	case *corev1.Namespace:
		return []string{AnnotationAudit}
	case *networkingv1.NetworkPolicy, *policyv1alpha2.ClusterNetworkPolicy, *CiliumNetworkPolicy, *CiliumClusterwideNetworkPolicy:
		return []string{AnnotationAudit, AnnotationDeniedIngress, AnnotationDeniedEgress}
	}
	return nil
}
