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

A shared number is the same on all nodes, and an object of the cluster: see
'kubectl get identities.weir.net'. A local one is this node's own: of an address
block that a policy names, or of labels that have no shared number yet.`,
		Example: "  weir identity list\n  weir identity list -o json | jq 'select(.number == 40713).pods'",
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
			return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "IDENTITY\tSCOPE\tNAMESPACE\tLABELS\tPODS", list, func(id api.Identity) string {
				return strings.Join([]string{fmt.Sprint(id.Number), string(id.Scope), dash(id.Namespace), dash(id.Labels), dash(someOf(id.Pods))}, "\t")
			})
		},
	}
	flags.register(cmd)
	return cmd
}

// someOf keeps a row short: the pods of a Deployment may be hundreds.
func someOf(pods []string) string {
	const most = 3
	if len(pods) <= most {
		return strings.Join(pods, ",")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(pods[:most], ","), len(pods)-most)
}
