// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/api"
)

func endpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "endpoint",
		Short: "Show the pods of this node that the agent knows",
	}
	cmd.AddCommand(endpointListCommand())
	return cmd
}

func endpointListCommand() *cobra.Command {
	var flags socketFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List this node's pods, with devices, addresses, identities",
		Long: `List this node's pods, with devices, addresses, identities.

A pod that is not ready has addresses, and is not in the datapath: nothing
passes to it or from it.`,
		Example: "  weir endpoint list\n  weir endpoint list -o json | jq 'select(.ready | not)'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			var list []api.Endpoint
			if err := client.Get(cmd.Context(), api.PathEndpoints, &list); err != nil {
				return err
			}
			return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "POD\tREADY\tADDRESSES\tIDENTITY\tDEVICE\tIFINDEX\tAGE", list, endpointRow)
		},
	}
	flags.register(cmd)
	return cmd
}

func endpointRow(e api.Endpoint) string {
	ready, identity := "no", "-"
	if e.Ready {
		ready, identity = "yes", fmt.Sprint(e.Identity)
	}
	var addresses []string
	for _, addr := range e.Addresses {
		addresses = append(addresses, addr.String())
	}
	return strings.Join([]string{
		e.PodNamespace + "/" + e.PodName, ready, strings.Join(addresses, ","), identity,
		e.HostDevice, fmt.Sprint(e.Ifindex), time.Since(e.Created).Round(time.Second).String(),
	}, "\t")
}
