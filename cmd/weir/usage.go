// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// strict makes every command of a tree refuse arguments that it would not look
// at, as wrong usage, and a group of commands say what it has.
func strict(cmd *cobra.Command) {
	if !cmd.Runnable() && cmd.HasSubCommands() {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if accept := cmd.Args; accept != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := accept(cmd, args)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return usageError(fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath()))
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}
