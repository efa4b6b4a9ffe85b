// SPDX-License-Identifier: Apache-2.0

package connectivity

// Other is a policy of another kind than NetworkPolicy.
type Other struct {
	Kind string
	// Spec is for a namespace of the run: what is of the whole cluster holds for pods of
	// that alone.
	Spec func(namespace string) map[string]any
}

type object = map[string]any

func labelled(role string) object { return object{"matchLabels": object{labelRole: role}} }

// cilium is a policy of one namespace for the guarded pods.
func cilium(rules object) Other {
	return Other{Kind: "CiliumNetworkPolicy", Spec: func(string) object {
		spec := object{"endpointSelector": labelled("guarded")}
		for direction, of := range rules {
			spec[direction] = of
		}
		return spec
	}}
}

// admin is a policy of a tier for the guarded pods: what it does with those that come
// from pods of a role in their namespace.
func admin(tier, action, role string) Other {
	return Other{Kind: "ClusterNetworkPolicy", Spec: func(namespace string) object {
		pods := func(role string) object {
			return object{"pods": object{
				"namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": namespace}}, "podSelector": labelled(role),
			}}
		}
		return object{"tier": tier, "priority": int64(7), "subject": pods("guarded"),
			"ingress": []any{object{"name": "one", "action": action, "from": []any{pods(role)}}}}
	}}
}

// clusterwide lets pods of a role in to the guarded ones, and nobody else.
func clusterwide(role string) Other {
	return Other{Kind: "CiliumClusterwideNetworkPolicy", Spec: func(namespace string) object {
		of := func(role string) object {
			return object{"matchLabels": object{labelRole: role, "k8s:io.kubernetes.pod.namespace": namespace}}
		}
		return object{"endpointSelector": of("guarded"), "ingress": []any{object{"fromEndpoints": []any{of(role)}}}}
	}}
}

// otherKinds are tests with policies of kinds that not every cluster has.
func otherKinds() []Test {
	everybody := []any{object{"fromEndpoints": []any{object{}}}}
	return []Test{
		{Name: "policy-cilium-deny", About: "A CiliumNetworkPolicy that lets in its namespace denies pods of a label all the same.", Needs: []Need{NeedCilium},
			Others: []Other{cilium(object{"ingress": everybody, "ingressDeny": []any{object{"fromEndpoints": []any{labelled(stranger)}}}})},
			actions: func() []Action {
				return join(both(friend, false, TCP, UDP), both(stranger, true, TCP, UDP), ask("foreigner", foreigner, pod(guarded1), true, TCP))
			}},
		{Name: "policy-cilium-port", About: "A CiliumNetworkPolicy lets in to a port of TCP, and to no other one.", Needs: []Need{NeedCilium},
			Others: []Other{cilium(object{"ingress": []any{object{"fromEndpoints": []any{object{}}, "toPorts": []any{
				object{"ports": []any{object{"port": "8080", "protocol": "TCP"}}},
			}}}})},
			actions: func() []Action {
				return join(both(stranger, false, TCP), both(stranger, true, UDP), ask("port", friend, other(guarded1), true, TCP))
			}},
		{Name: "policy-cilium-cluster", About: "A CiliumNetworkPolicy lets in the entity cluster: pods of any namespace.", Needs: []Need{NeedCilium},
			Others: []Other{cilium(object{"ingress": []any{object{"fromEntities": []any{"cluster"}}}})},
			actions: func() []Action {
				return join(both(friend, false, TCP), ask("foreigner", foreigner, pod(guarded1), false, TCP, UDP))
			}},
		{Name: "policy-cilium-clusterwide", About: "A CiliumClusterwideNetworkPolicy lets in pods of a label, and nobody else.", Needs: []Need{NeedClusterwide},
			Others: []Other{clusterwide(friend)}, actions: func() []Action {
				return join(both(friend, false, TCP), both(stranger, true, TCP), ask("foreigner", foreigner, pod(guarded1), true, TCP))
			}},
		{Name: "policy-admin-deny", About: "A ClusterNetworkPolicy of the admin tier denies whom a NetworkPolicy lets in.", Needs: []Need{NeedClusterKinds},
			Rules: []Rule{ingress(from(peer(friend), peer(stranger)))}, Others: []Other{admin("Admin", "Deny", stranger)}, actions: func() []Action {
				return join(both(friend, false, TCP), both(stranger, true, TCP, UDP))
			}},
		{Name: "policy-admin-accept", About: "A ClusterNetworkPolicy of the admin tier lets in whom a NetworkPolicy shuts out.", Needs: []Need{NeedClusterKinds},
			Rules: []Rule{ingress()}, Others: []Other{admin("Admin", "Accept", friend)}, actions: func() []Action {
				return join(both(friend, false, TCP), both(stranger, true, TCP))
			}},
		{Name: "policy-baseline-deny", About: "A ClusterNetworkPolicy of the baseline tier denies where no NetworkPolicy selects a pod.", Needs: []Need{NeedClusterKinds},
			Others: []Other{admin("Baseline", "Deny", stranger)}, actions: func() []Action {
				return join(both(friend, false, TCP), both(stranger, true, TCP))
			}},
		{Name: "policy-baseline-overruled", About: "A NetworkPolicy lets in whom the baseline tier denies.", Needs: []Need{NeedClusterKinds},
			Rules: []Rule{ingress(from(peer(stranger)))}, Others: []Other{admin("Baseline", "Deny", stranger)}, actions: func() []Action {
				return join(both(stranger, false, TCP), both(friend, true, TCP))
			}},
	}
}
