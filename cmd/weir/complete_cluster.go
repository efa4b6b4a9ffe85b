// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weirnet/weir/policy"
)

// A shell waits for what it completes: a cluster that does not answer in this time
// offers nothing, and of a large one as many names as these are asked for.
const (
	completionPatience = 2 * time.Second
	completionMost     = 500
)

// offerParties completes names of somebody. Of what fails it says nothing, for there is
// nobody to read it.
func offerParties(names func(cmd *cobra.Command, args []string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		var fit []string
		for _, name := range names(cmd, args) {
			if strings.HasPrefix(name, begun) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// pods are namespace/name: of the objects that the command is given, else of the
// cluster of --kubeconfig, of KUBECONFIG or of ~/.kube/config.
func pods(cmd *cobra.Command, args []string) []string {
	if len(args) > 0 {
		pods, _ := partiesOf(cmd, args...)
		return pods
	}
	return clusterPods(cmd)
}

// podsAndNodes are pods as above, and nodes as node/name.
func podsAndNodes(cmd *cobra.Command, args []string) []string {
	var found, nodes []string
	if len(args) > 0 {
		found, nodes = partiesOf(cmd, args...)
	} else {
		found, nodes = clusterPods(cmd), clusterNodes(cmd, nil)
	}
	for _, name := range nodes {
		found = append(found, "node/"+name)
	}
	return found
}

// stateParties are pods and nodes of --state.
func stateParties(cmd *cobra.Command, _ []string) []string {
	state := cmd.Flags().Lookup("state").Value.String()
	if state == "" {
		return nil
	}
	pods, nodes := partiesOf(cmd, state)
	return append(pods, nodes...)
}

// stateNodes are the nodes of --state, those too that only pods name.
func stateNodes(cmd *cobra.Command, _ []string) []string {
	state := cmd.Flags().Lookup("state").Value.String()
	if state == "" {
		return nil
	}
	_, nodes := partiesOf(cmd, state)
	return nodes
}

// partiesOf are the pods and nodes of objects.
func partiesOf(cmd *cobra.Command, paths ...string) (pods, nodes []string) {
	input, err := policy.Read(cmd.InOrStdin(), paths...)
	if err != nil {
		return nil, nil
	}
	input.Substitute()
	named := map[string]bool{}
	for name, pod := range input.Objects.Pods {
		pods = append(pods, name)
		if pod.Spec.NodeName != "" {
			named[pod.Spec.NodeName] = true
		}
	}
	for name := range input.Objects.Nodes {
		named[name] = true
	}
	for name := range named {
		nodes = append(nodes, name)
	}
	return pods, nodes
}

func clusterPods(cmd *cobra.Command) (names []string) {
	_ = inCluster(cmd, func(ctx context.Context, client kubernetes.Interface) error {
		list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: completionMost})
		if err != nil {
			return err
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Namespace+"/"+list.Items[i].Name)
		}
		return nil
	})
	return names
}

func clusterNodes(cmd *cobra.Command, _ []string) (names []string) {
	_ = inCluster(cmd, func(ctx context.Context, client kubernetes.Interface) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: completionMost})
		if err != nil {
			return err
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return nil
	})
	return names
}

// contexts are those of the kubeconfig.
func contexts(cmd *cobra.Command, _ []string) []string {
	config, err := completionRules(cmd).Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(config.Contexts))
}

// inCluster asks the cluster, which has a while to answer.
func inCluster(cmd *cobra.Command, ask func(context.Context, kubernetes.Interface) error) error {
	client, err := completionClient(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	return ask(ctx, client)
}

func completionRules(cmd *cobra.Command) *clientcmd.ClientConfigLoadingRules {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if flag := cmd.Flags().Lookup("kubeconfig"); flag != nil && flag.Value.String() != "" {
		rules.ExplicitPath = flag.Value.String()
	}
	return rules
}

func completionClient(cmd *cobra.Command) (kubernetes.Interface, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(completionRules(cmd), nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
