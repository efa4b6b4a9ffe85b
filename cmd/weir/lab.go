// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/cluster"
)

func labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Make clusters to try Weir on, and traffic in them",
	}
	cmd.AddCommand(labClusterCommand(), labProbeCommand(), labTrafficCommand())
	return cmd
}

func labClusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make Kubernetes clusters in containers of this machine",
		Long: `Make Kubernetes clusters in containers of this machine.

They have neither a CNI plugin nor kube-proxy, since Weir is both. Docker is
needed, and a registry in reach for the nodes' image. Any other cluster serves
as well: 'weir install --kubeconfig FILE'.`,
	}
	cmd.AddCommand(labClusterUpCommand(), labClusterDownCommand(), labClusterListCommand())
	return cmd
}

func labClusterUpCommand() *cobra.Command {
	var options cluster.Options
	var family, network string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make a cluster",
		Example: `  weir lab cluster up --nodes 3 --ip-family dual
  weir lab cluster up --name reference --network reference
  weir image -o weir.tar && kind load image-archive --name weir weir.tar &&
      weir install --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Family, options.Network = cluster.Family(family), cluster.Network(network)
			if options.Nodes < 1 {
				return usageError(fmt.Errorf("--nodes %d: a cluster has one at least", options.Nodes))
			}
			if err := options.Validate(); err != nil {
				return usageError(err)
			}
			err := cluster.Up(cmd.Context(), options)
			if errors.Is(err, context.Canceled) {
				return errors.New("interrupted: the cluster is removed")
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&options.Name, "name", cluster.DefaultName, "the cluster's `name`")
	f.IntVar(&options.Nodes, "nodes", 2, "`number` of nodes, the control plane's among them")
	f.StringVar(&family, "ip-family", string(cluster.IPv4), "of nodes, pods and services: ipv4, ipv6 or dual")
	f.StringVar(&network, "network", string(cluster.NetworkWeir), "what moves packets: weir, which is to be installed, or reference: kube-proxy by nftables and the plugin ptp, without policies, to compare with")
	f.Var(imageName{&options.Image}, "image", "`reference` of the nodes' image (default: that of the release of kind that weir is built with)")
	f.StringVar(&options.Kubeconfig, "kubeconfig", "", "`file` that learns how the cluster is reached (default: KUBECONFIG, or ~/.kube/config)")
	return cmd
}

func labClusterDownCommand() *cobra.Command {
	var name, kubeconfig string
	cmd := &cobra.Command{
		Use:     "down",
		Short:   "Remove a cluster",
		Example: "  weir lab cluster down --name weir",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.Down(cmd.Context(), name, kubeconfig)
		},
	}
	cmd.Flags().StringVar(&name, "name", cluster.DefaultName, "the cluster's `name`")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "`file` that forgets the cluster (default: KUBECONFIG, or ~/.kube/config)")
	return cmd
}

func labClusterListCommand() *cobra.Command {
	var output vmOutput
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the clusters of this machine",
		Example: "  weir lab cluster list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := cluster.List(cmd.Context())
			if err != nil {
				return err
			}
			return vmPrint(output, cmd.OutOrStdout(), "NAME\tNODES", list, func(i cluster.Info) string {
				return i.Name + "\t" + strings.Join(i.Nodes, ", ")
			})
		},
	}
	output.register(cmd)
	return cmd
}
