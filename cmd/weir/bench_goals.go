// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/bench"
)

func benchGoalsCommand() *cobra.Command {
	var output, before string
	cmd := &cobra.Command{
		Use:   "goals [FILE...]",
		Short: "Hold what benchmarks print against what changes are to cost",
		Long: `Hold what benchmarks print against what changes are to cost: the output of
'go test -bench', in files or from the standard input.

OVER A TENTH is how many times as much it costs as at a tenth of the size.
BEFORE is what --before has, from an earlier commit, as if it had run on a
machine as fast as this one: as many times BASE, the empty program, as it was
there. What was not measured is "-".`,
		Example: `  go test -run '^$' -bench . -benchtime 1x ./... | weir bench goals
  weir bench goals --before lab/bench/before.txt reports/bench.txt
  weir bench goals -o json reports/bench.txt | jq 'select(.overTenth > 1.5)'`,
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			if len(files) == 0 {
				files = []string{"-"}
			}
			now, err := readBenchmarks(cmd.InOrStdin(), files...)
			if err != nil {
				return err
			}
			if len(now) == 0 {
				return errors.New("read benchmarks: there is no result: give what 'go test -bench' prints")
			}
			earlier := bench.Results{}
			if before != "" {
				if earlier, err = readBenchmarks(cmd.InOrStdin(), before); err != nil {
					return err
				}
			}
			rows := bench.Goals(now, earlier)
			if output == "text" {
				return bench.WriteGoals(cmd.OutOrStdout(), rows)
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			for i := range rows {
				if err := enc.Encode(&rows[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "what benchmarks of an earlier commit have printed")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json (one object a line)")
	return cmd
}

// readBenchmarks reads files; "-" is the standard input.
func readBenchmarks(stdin io.Reader, files ...string) (bench.Results, error) {
	results := bench.Results{}
	for _, name := range files {
		if name == "-" {
			if err := results.Add("standard input", stdin); err != nil {
				return nil, err
			}
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read benchmarks: %w", err)
		}
		if err := errors.Join(results.Add(name, f), f.Close()); err != nil {
			return nil, err
		}
	}
	return results, nil
}
