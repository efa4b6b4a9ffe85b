// SPDX-License-Identifier: Apache-2.0

package agent

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model/manifest"
)

// Tell gives Options.Events that make Events of the cluster's.
func Tell(recorder *watch.Recorder) func(api.Refused) {
	return func(refused api.Refused) {
		kind, namespace, name := split(refused.Object)
		obj := &metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(refused.UID)}
		message := refused.Problem
		if refused.Field != "" {
			message = refused.Field + ": " + message
		}
		reason := "RefusedByWeir"
		switch {
		case refused.Ignored:
			reason = "FieldIgnored"
		case refused.FieldOnly:
			reason = "ClaimLost"
		}
		recorder.Warn(kind, apiVersions()[kind], obj, reason, message)
	}
}

// find gives an object by its kind and its name, with its namespace where it
// has one; nil if it is not there.
func find(objs *manifest.Objects, kind, name string) metav1.Object {
	switch kind {
	case "Pod":
		return objectIn(objs.Pods, name)
	case "Namespace":
		return objectIn(objs.Namespaces, name)
	case "Node":
		return objectIn(objs.Nodes, name)
	case "Service":
		return objectIn(objs.Services, name)
	case "EndpointSlice":
		return objectIn(objs.EndpointSlices, name)
	case "NetworkPolicy":
		return objectIn(objs.NetworkPolicies, name)
	case "ClusterNetworkPolicy":
		return objectIn(objs.ClusterNetworkPolicies, name)
	case "CiliumNetworkPolicy":
		return objectIn(objs.CiliumNetworkPolicies, name)
	case "CiliumClusterwideNetworkPolicy":
		return objectIn(objs.CiliumClusterwideNetworkPolicies, name)
	}
	return nil
}

func objectIn[T metav1.Object](objs map[string]T, name string) metav1.Object {
	if obj, found := objs[name]; found {
		return obj
	}
	return nil
}

func apiVersions() map[string]string {
	return map[string]string{
		"Pod": "v1", "Namespace": "v1", "Node": "v1", "Service": "v1",
		"EndpointSlice":                  "discovery.k8s.io/v1",
		"NetworkPolicy":                  "networking.k8s.io/v1",
		"ClusterNetworkPolicy":           "policy.networking.k8s.io/v1alpha2",
		"CiliumNetworkPolicy":            "cilium.io/v2",
		"CiliumClusterwideNetworkPolicy": "cilium.io/v2",
	}
}
