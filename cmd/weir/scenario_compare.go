// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/scenarios/report"
)

func scenarioCompareCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Compare two reports, or two kernels of one",
		Long: `Compare two reports of 'weir scenario run --report', or two kernels of one.

A and B are DIR, a report or a directory of --report, whose latest is taken; or
DIR@KERNEL for what the report has of one kernel; @KERNEL is of the same report
as A. Verdicts that changed come first, then frames of world prog that hooks
leave otherwise, then what programs cost the verifier. Exit code 1 says that
something that passed in A does not in B.`,
		Example: `  weir scenario compare reports-main reports
  weir scenario compare reports@5.10 @7.2
  weir scenario compare -o json old@6.12 new@6.12 |
      jq 'select(.what == "verdict")'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError(errors.New("expected two reports: DIR or DIR@KERNEL"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			if strings.HasPrefix(args[1], "@") {
				dir, _, _ := strings.Cut(args[0], "@")
				args[1] = dir + args[1]
			}
			return compareReports(cmd, args[0], args[1], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json (one object a line)")
	return cmd
}

func compareReports(cmd *cobra.Command, nameA, nameB, output string) error {
	a, err := report.Read(nameA)
	if err != nil {
		return err
	}
	b, err := report.Read(nameB)
	if err != nil {
		return err
	}
	tellShort(cmd.ErrOrStderr(), a)
	tellShort(cmd.ErrOrStderr(), b)
	changes := report.Compare(a, b)
	if output == "json" {
		err = changes.JSON(cmd.OutOrStdout())
	} else {
		(&report.Text{Out: cmd.OutOrStdout(), Colour: colourful()}).Changes(changes, a.Name, b.Name)
	}
	if err == nil && changes.Worse() {
		return &exitError{code: exitFailed}
	}
	return err
}
