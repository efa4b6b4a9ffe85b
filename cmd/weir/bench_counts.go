// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/bench"
)

func benchCountsCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "counts",
		Short: "Count what a packet of each path runs",
		Long: `Count what a packet of each path runs: BPF instructions, calls of helpers, and
lookups in maps among them; and how many instructions the verifier has seen of
each program. No machine changes them; of the verifier's, the kernel does.

A test holds them against lab/bench/budget.txt. Who makes a path dearer on
purpose writes the file anew, as the example does.`,
		Example: `  weir bench counts >lab/bench/budget.txt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			counted, err := bench.CountAll(cmd.Context())
			if err != nil {
				return err
			}
			if output == "text" {
				return counted.Write(cmd.OutOrStdout())
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(counted)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json")
	return cmd
}
