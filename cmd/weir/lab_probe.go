// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/probe"
)

func labProbeCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Listen, dial and ping as scenarios in a live cluster say",
		Long: `Listen, dial and ping as scenarios in a live cluster say.

It is what their pods run. It is told what to do on a port of its own loopback,
which kubelet forwards for the API server, by streams that begin with the word
of the variable ` + kube.EnvToken + `. It goes on when it is asked to end (SIGTERM):
a pod that is being deleted still answers.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token := os.Getenv(kube.EnvToken)
			if token == "" {
				return usageError(errors.New("no word is given that streams begin with: set " + kube.EnvToken))
			}
			signal.Ignore(syscall.SIGTERM)
			listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
			return probe.Serve(cmd.Context(), listener, token)
		},
	}
	cmd.Flags().IntVar(&port, "port", 61780, "be told what to do on this `port` of loopback")
	return cmd
}
