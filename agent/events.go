// SPDX-License-Identifier: Apache-2.0

package agent

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model"
)

// Tell gives Options.Events that make Events of the cluster's.
func Tell(recorder *watch.Recorder) func(*model.Objects, api.Refused) {
	return func(objs *model.Objects, refused api.Refused) {
		kind, namespace, name := split(refused.Object)
		obj := &metav1.ObjectMeta{Namespace: namespace, Name: name}
		message := refused.Problem
		if refused.Field != "" {
			message = refused.Field + ": " + message
		}
		recorder.Warn(kind, apiVersions()[kind], obj, "RefusedByWeir", message)
	}
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
