// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/bench"
)

func benchCurvesCommand() *cobra.Command {
	var list bool
	var dir string
	o := bench.Options{}
	cmd := &cobra.Command{
		Use:   "curves [NAME...]",
		Short: "Measure what a packet costs by the size of tables",
		Long: `Measure what a packet costs by the size of tables: over BASE, in multiples of
the BASE of one frame. Without a NAME all curves are drawn; --list names them.`,
		Example: `  weir bench curves
  weir bench curves services --svg docs/curves`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if list {
				for _, c := range bench.Curves() {
					fmt.Fprintf(cmd.OutOrStdout(), "%-16s %s\n", c.Name, c.Help)
				}
				return nil
			}
			if err := checkRounds(o.Rounds, o.CPU); err != nil {
				return err
			}
			err := bench.Draw(cmd.Context(), names, o, func(c *bench.Chart) error {
				return errors.Join(keepCurve(dir, c), c.Write(cmd.OutOrStdout()))
			})
			if errors.Is(err, bench.ErrNoPath) {
				return usageError(fmt.Errorf("%w: 'weir bench curves --list' lists the curves", err))
			}
			if errors.Is(err, bench.ErrNoJIT) {
				return usageError(err)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "svg", "", "keep each curve as NAME.svg in this directory")
	f.IntVar(&o.Rounds, "rounds", 15, "quiet rounds of each point")
	f.IntVar(&o.CPU, "cpu", runtime.NumCPU()-1, "the CPU that all of it runs on")
	f.BoolVar(&list, "list", false, "list the curves")
	return cmd
}

// keepCurve keeps one in a directory; no directory: nowhere.
func keepCurve(dir string, c *bench.Chart) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep a curve: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, c.Name+".svg"), []byte(c.SVG()), 0o644); err != nil {
		return fmt.Errorf("keep a curve: %w", err)
	}
	return nil
}
