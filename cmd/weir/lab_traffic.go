// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/cluster/traffic"
)

func labTrafficCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "traffic",
		Short: "Ask and answer over the network, and count what is lost",
	}
	cmd.AddCommand(labTrafficServeCommand(), labTrafficLoadCommand())
	return cmd
}

func labTrafficServeCommand() *cobra.Command {
	var port int
	var name string
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Answer lines (TCP) and datagrams (UDP) with a name",
		Example: "  weir lab traffic serve --port 8080",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				var err error
				if name, err = os.Hostname(); err != nil {
					return fmt.Errorf("find this host's name: %w: give one by --name", err)
				}
			}
			return traffic.Serve(cmd.Context(), port, name)
		},
	}
	cmd.Flags().IntVar(&port, "port", 8080, "listen on this `port` of all addresses")
	cmd.Flags().StringVar(&name, "name", "", "answer with this `name` (default: the host's)")
	return cmd
}

func labTrafficLoadCommand() *cobra.Command {
	var load traffic.Load
	var output string
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Ask 'weir lab traffic serve', and count what is lost",
		Long: `Ask 'weir lab traffic serve', and count what is lost.

Requests have a connection of their own each; beside them some connections stay
from the start to the end. Exit status: 0 nothing was lost, 1 something was.`,
		Example: `  weir lab traffic load --target web.default.svc.cluster.local:80 \
      --rate 1000 --connections 20 --duration 30s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case load.Target == "":
				return usageError(errors.New("whom to ask? Give HOST:PORT by --target"))
			case output != "text" && output != "json":
				return usageError(fmt.Errorf("--output %s: it is text or json", output))
			case load.Duration <= 0 || load.Timeout <= 0 || load.Every <= 0:
				return usageError(errors.New("--duration, --timeout and --every are more than nothing"))
			}
			report := load.Run(cmd.Context())
			if output == "json" {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(report); err != nil {
					return err
				}
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), report)
			}
			return healthyOr(report.OK())
		},
	}
	f := cmd.Flags()
	f.StringVar(&load.Target, "target", "", "`HOST:PORT` to ask")
	f.IntVar(&load.Rate, "rate", 100, "`requests` a second")
	f.IntVar(&load.Connections, "connections", 0, "`number` of connections that stay")
	f.DurationVar(&load.Every, "every", 20*time.Millisecond, "ask on each of these so often")
	f.DurationVar(&load.Duration, "duration", 10*time.Second, "ask for so long")
	f.DurationVar(&load.Timeout, "timeout", 5*time.Second, "an answer that takes longer is lost")
	f.StringVarP(&output, "output", "o", "text", "`format`: text or json")
	return cmd
}
