// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/api"
)

func identityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Show the sets of labels that policies tell from others",
	}
	cmd.AddCommand(identityListCommand())
	return cmd
}

func identityListCommand() *cobra.Command {
	var flags socketFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List identities, their labels and the pods that have them",
		Long: `List identities, their labels and the pods that have them, of all nodes.

The numbers are this node's own: another node may have others for the same
labels.`,
		Example: "  weir identity list\n  weir identity list -o json | jq 'select(.number == 256).pods'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			var list []api.Identity
			if err := client.Get(cmd.Context(), api.PathIdentities, &list); err != nil {
				return err
			}
			return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "IDENTITY\tNAMESPACE\tLABELS\tPODS", list, func(id api.Identity) string {
				return strings.Join([]string{fmt.Sprint(id.Number), id.Namespace, dash(id.Labels), strings.Join(id.Pods, ",")}, "\t")
			})
		},
	}
	flags.register(cmd)
	return cmd
}
