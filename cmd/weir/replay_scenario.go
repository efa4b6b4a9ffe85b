// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/replay"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
	"github.com/weirnet/weir/scenarios/syntax"
)

// toScenario writes a packet as a scenario, and runs it once: what it does not
// repeat, somebody has to know before it becomes a regression test.
func (o *replayRun) toScenario(cmd *cobra.Command, captures *replay.Captures, options replay.Options) error {
	var text []byte
	err := replay.WithNetwork(cmd.Context(), func(n *replay.Network) (err error) {
		text, err = replay.Scenario(cmd.Context(), n, captures, options, o.scenario)
		return err
	})
	clearProgress()
	if err != nil {
		return explainReplay(err)
	}
	path := "packet" + syntax.Suffix
	if cmd.Flags().Changed("output") {
		path = o.output
		if !strings.HasSuffix(path, syntax.Suffix) {
			fmt.Fprintf(cmd.ErrOrStderr(), "weir: note: scenarios are found in folders by the ending %s, which %s has not\n", syntax.Suffix, filepath.Base(path))
		}
		err = os.WriteFile(path, text, 0o644)
	} else {
		_, err = cmd.OutOrStdout().Write(text)
	}
	if err != nil {
		return fmt.Errorf("write scenario: %w", err)
	}
	return o.rehearse(cmd, path, text)
}

// rehearse runs the scenario in world prog.
func (o *replayRun) rehearse(cmd *cobra.Command, path string, text []byte) error {
	made, err := scenarios.Parse(path, text)
	if err != nil {
		return fmt.Errorf("the scenario is not well formed, which is an error in weir: %w", err)
	}
	runner := &scenarios.Runner{Worlds: []syntax.World{syntax.Prog}, Parallel: 1}
	results, err := runner.Run(context.WithoutCancel(cmd.Context()), []*scenarios.Scenario{made})
	if err != nil {
		return fmt.Errorf("run the scenario: %w", err)
	}
	for _, r := range results {
		if r.Failed() {
			fmt.Fprintln(cmd.ErrOrStderr(), (&report.Text{}).Story(r))
			return errors.New("the scenario is written, but it does not repeat what the replay saw; what differs is told above")
		}
	}
	return nil
}
