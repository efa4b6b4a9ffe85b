// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/api"
)

func policyListCommand() *cobra.Command {
	var flags socketFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List this node's policies, and how many rules each has",
		Long: `List this node's policies, and how many rules each has.

A policy that selects no pod of the node has none. Those that are refused are in
'weir agent status'.`,
		Example: "  weir policy list\n  weir policy list -o json | jq 'select(.rules == 0)'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			var list []api.Policy
			if err := client.Get(cmd.Context(), api.PathPolicies, &list); err != nil {
				return err
			}
			return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "POLICY\tRULES", list, func(p api.Policy) string {
				return fmt.Sprintf("%s\t%d", p.Object, p.Rules)
			})
		},
	}
	flags.register(cmd)
	return cmd
}
