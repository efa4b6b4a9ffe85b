// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/api"
)

// monitorFlags choose among events.
type monitorFlags struct {
	socketFlags
	drops    bool
	endpoint string
}

func monitorCommand() *cobra.Command {
	var flags monitorFlags
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Show what the datapath of this node decides, as it does",
		Long: `Show what the datapath of this node decides, as it does, until interrupted.

There is an event for every new flow and every drop, up to a bound a second:
counters count them all (metrics).`,
		Example: "  weir monitor --drops\n  weir monitor --endpoint default/web -o json | jq .reason",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			return client.Stream(cmd.Context(), api.PathMonitor, func(line json.RawMessage) error {
				return flags.print(cmd.OutOrStdout(), line)
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&flags.drops, "drops", false, "only what is not let through")
	cmd.Flags().StringVar(&flags.endpoint, "endpoint", "", "only at the device of this pod, namespace/name")
	return cmd
}

func (f *monitorFlags) print(w io.Writer, line json.RawMessage) error {
	var e api.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	if f.drops && e.Verdict != "drop" || f.endpoint != "" && e.Endpoint != f.endpoint {
		return nil
	}
	if f.format == "json" {
		_, err := fmt.Fprintf(w, "%s\n", line)
		return err
	}
	text := fmt.Sprintf("%s  %-14s %-24s %-8s %s %s > %s", e.Time.Format("15:04:05.000"), e.Hook, dash(e.Endpoint), e.Verdict, e.Protocol, e.Source, e.Target)
	if e.Reason != "" {
		text += "  " + e.Reason
	}
	if e.Policy != "" {
		text += "  by " + e.Policy
	}
	_, err := fmt.Fprintln(w, text)
	return err
}
