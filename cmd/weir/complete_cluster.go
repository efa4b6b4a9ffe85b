// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
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

// offerParties completes pods as namespace/name, and nodes as node/name where they
// are wanted: of the objects that the command is given, else of the cluster of
// --kubeconfig, of KUBECONFIG or of ~/.kube/config. Of what fails it says nothing, for
// there is nobody to read it.
func offerParties(nodes bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		all := partiesOf(cmd, args, nodes)
		var fit []string
		for _, name := range all {
			if strings.HasPrefix(name, begun) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

func partiesOf(cmd *cobra.Command, args []string, nodes bool) []string {
	var names []string
	if len(args) > 0 {
		input, err := policy.Read(cmd.InOrStdin(), args...)
		if err != nil {
			return nil
		}
		input.Substitute()
		for name := range input.Objects.Pods {
			names = append(names, name)
		}
		for name := range input.Objects.Nodes {
			if nodes {
				names = append(names, "node/"+name)
			}
		}
		return names
	}
	client, err := completionClient(cmd)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	few := metav1.ListOptions{Limit: completionMost}
	if pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, few); err == nil {
		for i := range pods.Items {
			names = append(names, pods.Items[i].Namespace+"/"+pods.Items[i].Name)
		}
	}
	if !nodes {
		return names
	}
	if list, err := client.CoreV1().Nodes().List(ctx, few); err == nil {
		for i := range list.Items {
			names = append(names, "node/"+list.Items[i].Name)
		}
	}
	return names
}

func completionClient(cmd *cobra.Command) (kubernetes.Interface, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if flag := cmd.Flags().Lookup("kubeconfig"); flag != nil && flag.Value.String() != "" {
		rules.ExplicitPath = flag.Value.String()
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
