// SPDX-License-Identifier: Apache-2.0

// Package install brings Weir into a Kubernetes cluster, says how it is there,
// and takes it out again: the agent's container image, the objects that run
// it, what has to be true before they are applied, and what is left on the
// nodes afterwards.
//
// It speaks to the cluster's API alone and to agents through it; what a node
// does is the agent's. Its one invariant: what Install applied, and what the
// agent made on a node, Uninstall finds and removes, even if either was
// interrupted.
package install

// Names of what Install applies, all in Namespace or of the whole cluster.
const (
	Namespace     = "kube-system"
	Name          = "weir"        // of the DaemonSet, the ServiceAccount, the ClusterRole
	ConfigMapName = "weir-config" // the agent's configuration, and the API server's address

	// fieldManager owns the fields of what is applied.
	fieldManager = "weir-install"

	labelName      = "app.kubernetes.io/name"
	labelComponent = "app.kubernetes.io/component"
	labelManagedBy = "app.kubernetes.io/managed-by"

	componentAgent   = "agent"
	componentCleanup = "cleanup"
)

// labels are those of everything that Install makes.
func labels() map[string]string {
	return map[string]string{labelName: Name, labelManagedBy: Name}
}

// labelsOf are those of a part's pods.
func labelsOf(component string) map[string]string {
	l := labels()
	l[labelComponent] = component
	return l
}
